//! The `delete` action: clears away what a shim that died left of one container (contract 9).
//!
//! Invariant: it always answers, in less than five seconds, whatever is missing or malformed and whatever
//! other processes do, as long as the bundle's own disk answers (the manager's, a tmpfs): the manager
//! runs it after every container, and mostly there is nothing to do. It touches nothing that
//! lives: not a socket somebody listens on, nor a process that is neither in the container's cgroup nor a
//! call of its runtime that a dead shim has made ([`orphans`]). For a sandbox whose shim is dead
//! that includes the pod's other containers ([`siblings`]). What the dead shim knew and had not
//! told is told: how its init ended ([`end`]) in the answer, the rest as events
//! ([`last_events`]).
//! What it could not clear, or not read, goes to standard error, which the manager logs; nothing else does. What
//! cannot be read is never taken for what is not there: nobody is killed and nothing removed on its account
//! (`tests/bootstrap/unread.rs`).

mod clear;
mod doubt;
mod end;
mod holders;
mod last_events;
mod left;
mod leftovers;
mod orphans;
mod siblings;
mod time;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use protobuf::{Message, MessageField};

use super::bootstrap::Environment;
use super::flags::Flags;
use super::socket;
use crate::errno::Words;
use crate::error::{Error, Result};
use crate::proto::Timestamp;
use crate::proto::task::DeleteResponse;
use crate::shown;
use clear::clear;
use end::End;
use last_events::LastEvents;
use left::{Left, is_there, or_told};
use time::Time;

/// How long a shim may take to be dead whose connections have ended, if it may be dying at all.
const DYING: Duration = Duration::from_millis(150);

/// How long clearing everything away may take, the pod's other containers included. The manager gives up
/// after 5 s; a process that has to be killed at its limit may take a moment more to be gone.
const CLEAR_LIMIT: Duration = Duration::from_millis(3_600);

/// When the answer goes out, whoever has not been told.
const ANSWER_LIMIT: Duration = Duration::from_millis(4_600);

/// Clears away what is left of the container `-id` and says so.
///
/// # Errors
/// Only when the answer cannot be written.
pub fn delete(flags: &Flags, stdout: &mut impl Write, stderr: &mut impl Write) -> Result<()> {
    let begun = Instant::now();
    let mut warnings = Vec::new();
    let left = Left::of(flags, &mut warnings);
    let bundle = left.bundle.as_path();
    let sockets = left.sockets(flags, &mut warnings);
    // One may live whose socket cannot be looked for.
    let lives = !warnings.is_empty() || outlives(&sockets);
    // After an orderly end, which is nearly always, there is neither.
    let mut left_over = |looked| or_told(looked, &mut warnings);
    let died = sockets.iter().any(|path| left_over(is_there(path))) || left_over(left.is_known());
    let time = Time {
        end: begun + CLEAR_LIMIT,
    };
    let init = clear(&left, lives, time, &mut warnings);
    for path in sockets {
        warnings.extend(socket::remove_dead(&path).err());
    }
    let mut events = LastEvents::default();
    let mut end = End::of(bundle, &left.id, init, &mut warnings);
    if !lives {
        end.keep(bundle);
        let told = events.unpublished(bundle, &left.id, end.exit.pid);
        warnings.extend(told.err());
    }
    if died && !lives {
        clear_siblings(bundle, flags, time, &mut events, &mut warnings);
    }
    let address = Environment::read().ttrpc_address;
    let time = ANSWER_LIMIT.saturating_sub(begun.elapsed());
    warnings.extend(events.tell(&address, &flags.namespace, time).err());
    if !lives {
        end.keep(bundle);
    }
    for warning in warnings {
        let _ = writeln!(stderr, "{}", shown::line(&warning.message));
    }
    let exit = end.exit;
    let answer = DeleteResponse {
        pid: exit.pid.cast_unsigned(),
        exit_status: exit.status,
        exited_at: MessageField::some(Timestamp::from(exit.at)),
        ..DeleteResponse::default()
    };
    let failed =
        |why: String| Error::unknown(format!("write the answer to standard output: {why}"));
    let bytes = answer.write_to_bytes().map_err(|e| failed(e.to_string()))?;
    stdout
        .write_all(&bytes)
        .and_then(|()| stdout.flush())
        .map_err(|e| failed(e.words()))
}

/// Whether a shim goes on listening. One that is being killed may have closed its connections, at
/// which a manager runs this, before its socket. Of one that is not it is mostly known at once;
/// of another make's only after a wait.
fn outlives(sockets: &[PathBuf]) -> bool {
    let deadline = Instant::now() + DYING;
    while sockets.iter().any(|path| socket::is_alive(path)) {
        let surely = sockets.iter().any(|path| socket::surely_lives(path));
        if surely || Instant::now() >= deadline {
            return true;
        }
        std::thread::sleep(DYING / 20);
    }
    false
}

/// Clears away the pod's other containers; what is to be told of each goes to `events`.
fn clear_siblings(
    bundle: &Path,
    flags: &Flags,
    time: Time,
    events: &mut LastEvents,
    warnings: &mut Vec<Error>,
) {
    let siblings = siblings::of(bundle, &flags.id, warnings);
    for (n, sibling) in siblings.iter().enumerate() {
        let time = time.share(siblings.len() - n);
        let bundle = sibling.bundle.clone();
        let left = Left::in_bundle(bundle, &sibling.id, &flags.namespace, warnings);
        let init = clear(&left, false, time, warnings);
        let mut end = End::of(&sibling.bundle, &sibling.id, init, warnings);
        end.keep(&sibling.bundle);
        let told = events.unpublished(&sibling.bundle, &sibling.id, end.exit.pid);
        warnings.extend(told.err());
        events.gone(&sibling.id, end.exit);
    }
}
