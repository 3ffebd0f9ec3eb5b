//! The `delete` action: clears away what a shim that died left of one container (contract 9).
//!
//! Invariant: it always answers, in less than five seconds, whatever is missing or malformed and whatever
//! other processes do, as long as the bundle's own disk answers (the manager's, a tmpfs): the manager
//! runs it after every container, and mostly there is nothing to do. It touches nothing that
//! lives: not a socket somebody listens on, nor a process that is neither in the container's cgroup nor a
//! call of its runtime that a dead shim has made ([`super::orphans`]). For a sandbox whose shim is dead
//! that includes the pod's other containers ([`super::siblings`]). What the dead shim knew and had not
//! told is told: how its init ended ([`super::end`]) in the answer, the rest as events
//! ([`super::last_events`]).
//! What it could not clear goes to standard error, which the manager logs; nothing else does.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use protobuf::{Message, MessageField};
use serde_json::Value;

use super::bootstrap::Environment;
use super::call::call;
use super::end::End;
use super::flags::Flags;
use super::last_events::LastEvents;
use super::leftovers::kill_leftovers;
use super::{orphans, siblings, socket, start};
use crate::apart::apart;
use crate::container::exit_file;
use crate::errno::Words;
use crate::error::{Error, Result};
use crate::events::journal;
use crate::mount;
use crate::pidfd;
use crate::program::Program;
use crate::proto::Timestamp;
use crate::proto::task::DeleteResponse;
use crate::runtime;
use crate::shown;
use crate::spec::{self, Spec};

/// Where runtimes keep their state unless the options say otherwise.
const DEFAULT_ROOT: &str = "/run/containerd/runc";

/// The longest file that shims and managers keep beside config.json.
const LONGEST: u64 = 1 << 20;

/// How long a shim may take to be dead whose connections have ended, if it may be dying at all.
const DYING: Duration = Duration::from_millis(150);

/// How long clearing everything away may take, the pod's other containers included. The manager gives up
/// after 5 s; a process that has to be killed at its limit may take a moment more to be gone.
const CLEAR_LIMIT: Duration = Duration::from_millis(3_600);

/// The runtime's part of the time for a container, in eighths; the rest is the unmounting's.
const RUNTIME_EIGHTHS: u32 = 5;

/// How long a mount may be busy, within that: the error then says so.
const BUSY: Duration = Duration::from_millis(600);

/// When the answer goes out, whoever has not been told.
const ANSWER_LIMIT: Duration = Duration::from_millis(4_600);

/// The time that is left to clear something away.
#[derive(Clone, Copy)]
struct Time {
    end: Instant,
}

impl Time {
    fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// The share that one of `all` has who have the same, one after the other. What one leaves the next
    /// ones have.
    fn share(self, all: usize) -> Self {
        let all = u32::try_from(all).unwrap_or(u32::MAX).max(1);
        let end = Instant::now() + self.left() / all;
        Self { end }
    }

    /// So many eighths of it, if there is any.
    fn eighths(self, of: u32, what: &str) -> Result<Duration> {
        match self.left() * of / 8 {
            Duration::ZERO => Err(Error::deadline_exceeded(format!("{what}: no time left"))),
            some => Ok(some),
        }
    }
}

/// Clears away what is left of the container `-id` and says so.
///
/// # Errors
/// Only when the answer cannot be written.
pub fn delete(flags: &Flags, stdout: &mut impl Write, stderr: &mut impl Write) -> Result<()> {
    let begun = Instant::now();
    let bundle = bundle(flags);
    let mut warnings = Vec::new();
    let sockets = sockets(&bundle, flags);
    let lives = outlives(&sockets);
    // After an orderly end, which is nearly always, there is neither.
    let died = sockets.iter().any(|path| path.exists()) || runtime(&bundle, &flags.id, flags).knows;
    let time = Time {
        end: begun + CLEAR_LIMIT,
    };
    clear_all(&bundle, &flags.id, flags, lives, time, &mut warnings);
    for path in sockets {
        warnings.extend(socket::remove_dead(&path).err());
    }
    let mut events = LastEvents::default();
    let mut end = End::of(&bundle, &flags.id, read_pid(&bundle));
    if !lives {
        end.keep(&bundle);
        events.unpublished(&bundle, &flags.id, end.exit.pid);
    }
    if died && !lives {
        clear_siblings(&bundle, flags, time, &mut events, &mut warnings);
    }
    let address = Environment::read().ttrpc_address;
    let time = ANSWER_LIMIT.saturating_sub(begun.elapsed());
    warnings.extend(events.tell(&address, &flags.namespace, time).err());
    if !lives {
        end.keep(&bundle);
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

/// Clears away one container, with the calls of its runtime that a dead shim has made.
fn clear_all(
    bundle: &Path,
    id: &str,
    flags: &Flags,
    lives: bool,
    time: Time,
    warnings: &mut Vec<Error>,
) {
    let interrupted = match lives {
        true => Vec::new(),
        false => orphans::logs(bundle),
    };
    if !interrupted.is_empty() {
        warnings.extend(orphans::end(&interrupted, time.left()).err());
    }
    clear(bundle, id, flags, time, warnings);
    if !interrupted.is_empty() {
        orphans::clear(bundle, &interrupted);
    }
    if !lives {
        runtime::remove_left_processes(bundle);
        exit_file::forget(bundle);
        journal::forget_new(bundle);
    }
}

/// Clears away one container, as far as it goes; its processes are killed however little time there is.
fn clear(bundle: &Path, id: &str, flags: &Flags, time: Time, warnings: &mut Vec<Error>) {
    let pid = read_pid(bundle);
    let mut step = |result: Result<()>| warnings.extend(result.err());
    step(delete_container(bundle, id, flags, time));
    step(kill_leftovers(bundle, pid, time.left()));
    step(unmount(&bundle.join("rootfs"), time));
}

/// Clears away the pod's other containers; what is to be told of each goes to `events`.
fn clear_siblings(
    bundle: &Path,
    flags: &Flags,
    time: Time,
    events: &mut LastEvents,
    warnings: &mut Vec<Error>,
) {
    let siblings = siblings::of(bundle, &flags.id);
    for (n, sibling) in siblings.iter().enumerate() {
        let time = time.share(siblings.len() - n);
        clear_all(&sibling.bundle, &sibling.id, flags, false, time, warnings);
        let mut end = End::of(&sibling.bundle, &sibling.id, read_pid(&sibling.bundle));
        end.keep(&sibling.bundle);
        events.unpublished(&sibling.bundle, &sibling.id, end.exit.pid);
        events.gone(&sibling.id, end.exit);
    }
}

/// The bundle: next to the current directory, which is that of some container of the group; else,
/// when there is no such directory, the one named.
fn bundle(flags: &Flags) -> PathBuf {
    let here = std::env::current_dir().ok();
    let beside = here
        .as_deref()
        .and_then(Path::parent)
        .map(|dir| dir.join(&flags.id));
    beside
        .filter(|dir| dir.is_dir())
        .unwrap_or_else(|| PathBuf::from(&flags.bundle))
}

/// A file of the bundle, trimmed; empty if there is none or it is no text of a sensible length.
fn read(bundle: &Path, name: &str) -> String {
    let content = spec::read_own(&bundle.join(name), LONGEST).unwrap_or_default();
    let text = String::from_utf8(content).unwrap_or_default();
    text.trim().to_owned()
}

fn read_pid(bundle: &Path) -> Option<Pid> {
    let text = read(bundle, "init.pid");
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let pid = text.parse().ok().filter(|pid| digits && *pid > 0);
    pid.map(Pid::from_raw)
}

/// The runtime of a container, as its bundle tells.
struct Runtime {
    binary: String,
    /// Where it keeps its state.
    root: PathBuf,
    /// Whether it has any of this container.
    knows: bool,
    /// Whether the container's cgroup is systemd's.
    systemd: bool,
}

fn runtime(bundle: &Path, id: &str, flags: &Flags) -> Runtime {
    // Written by a shim of any make and version, so only what is needed is read, and leniently.
    let options: Value = serde_json::from_str(&read(bundle, "options.json")).unwrap_or_default();
    let option = |key: &str| options.get(key).and_then(Value::as_str).unwrap_or_default();
    let first = |candidates: [&str; 3]| {
        let found = candidates.into_iter().find(|c| !c.is_empty());
        found.unwrap_or_default().to_owned()
    };
    let root = Path::new(&first([option("root"), DEFAULT_ROOT, ""])).join(&flags.namespace);
    Runtime {
        binary: first([&read(bundle, "runtime"), option("binary_name"), "runc"]),
        knows: root.join(id).exists(),
        root,
        systemd: options.get("systemd_cgroup").and_then(Value::as_bool) == Some(true),
    }
}

/// Has the runtime delete the container, if it knows it.
fn delete_container(bundle: &Path, id: &str, flags: &Flags, time: Time) -> Result<()> {
    let Runtime {
        binary,
        root,
        knows,
        systemd,
    } = runtime(bundle, id, flags);
    if !knows {
        return Ok(());
    }
    let mut command = Program::new(&binary);
    command.arg("--root").arg(&root);
    let log = bundle.join("log.json");
    // A FIFO there would hold the runtime up until its time is over.
    if std::fs::symlink_metadata(&log).map_or(true, |kind| kind.is_file()) {
        command.arg("--log").arg(&log);
        command.args(["--log-format", "json"]);
    }
    // Without it a runtime looks for a cgroup of another name than systemd made; the Go shim
    // leaves it out here.
    if systemd {
        command.arg("--systemd-cgroup");
    }
    command.args(["delete", "--force", id]);
    let what = format!("{binary} delete --force {id}");
    let limit = time.eighths(RUNTIME_EIGHTHS, &what)?;
    let output = call(command, &what, limit)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || complaint.contains("does not exist") {
        return Ok(());
    }
    Err(Error::unknown(format!(
        "{what}: {}: {}",
        output.status,
        complaint.trim()
    )))
}

/// Kills the process that is held; one that is gone is one that is dead.
pub(super) fn kill(process: &pidfd::Process) -> std::io::Result<()> {
    match pidfd::signal(process, Signal::SIGKILL) {
        Err(why) if why.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        done => done,
    }
}

/// Unmounts the root file system. Mostly nothing is mounted there, which the kernel tells without asking
/// any file system.
fn unmount(rootfs: &Path, time: Time) -> Result<()> {
    if mount::nothing_mounted(rootfs) {
        return Ok(());
    }
    let what = format!("unmount {}", rootfs.display());
    let done = || mount::unmount_all_in(rootfs, BUSY).map(|()| Vec::new());
    apart(&what, time.eighths(8, &what)?, done).map(drop)
}

/// Where the dead shim's socket may be: as the bundle says it, and as `start` would name it.
fn sockets(bundle: &Path, flags: &Flags) -> Vec<PathBuf> {
    let bootstrap: Value =
        serde_json::from_str(&read(bundle, "bootstrap.json")).unwrap_or_default();
    let told = bootstrap
        .get("address")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mut paths: Vec<PathBuf> = [told, &read(bundle, start::ADDRESS_FILE)]
        .iter()
        .filter_map(|address| address.strip_prefix(socket::SCHEME))
        .map(PathBuf::from)
        .collect();
    let annotations = Spec::read(bundle).unwrap_or_default().annotations;
    // A group that is none has no shim: `start` has refused it.
    if let Ok(group) = spec::group(&annotations, &flags.id) {
        let name = socket::name(&flags.address, &flags.namespace, &group);
        paths.push(Path::new(socket::DEFAULT_DIR).join(&name));
        if let Ok(dir) = bundle.join(start::SOCKET_LINK).read_link() {
            paths.push(dir.join(&name));
        }
    }
    paths.retain(|path| path.is_absolute());
    paths.sort();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn the_time_is_shared() {
        let whole = Duration::from_secs(3600);
        let time = Time {
            end: Instant::now() + whole,
        };
        for all in [1, 2, 3, 100] {
            let share = time.share(all as usize).left();
            assert!(!share.is_zero() && share <= whole / all, "{all}");
        }
        assert!(time.eighths(5, "run").unwrap() <= whole * 5 / 8);
        let none = Time {
            end: Instant::now(),
        };
        assert_eq!(none.share(2).left(), Duration::ZERO);
        let error = none.eighths(8, "unmount /x").unwrap_err();
        let told = "unmount /x: no time left: context deadline exceeded";
        assert_eq!(error, Error::new(Code::DeadlineExceeded, told));
    }
}
