//! What a call of the runtime has started, to be killed with it at its limit.
//!
//! Invariant: it is looked for beside the event loop, as it is as much as the runtime makes of it; where no thread is
//! to be had it is looked for all the same. Who cannot be found is told of.

use std::sync::Arc;
use std::time::Duration;

use crate::blocking::{Job, within};
use crate::errno::Words;
use crate::error::Code;
use crate::kin::{Descendants, Held, descendants, is_gone};
use crate::monitor::Pid;
use crate::pidfd;

/// How long may be looked.
const LIMIT: Duration = Duration::from_secs(5);

/// Who descends from a call, to people `what`, that is not reaped yet.
pub(super) async fn by(call: Pid, what: String) -> Vec<Held> {
    match pidfd::open(call.cast_unsigned()) {
        Ok(process) => found((call, process), what, descendants).await,
        Err(why) if is_gone(&why) => Vec::new(),
        Err(why) => {
            let why = why.words();
            log::warn!("hold process {call} of {what}: {why}: what it has started may live on");
            Vec::new()
        }
    }
}

async fn found(
    call: Held,
    what: String,
    look: impl Fn(&Held) -> Descendants + Copy + Send + 'static,
) -> Vec<Held> {
    let what = format!("look for what process {} of {what} has started", call.0);
    let job = Job {
        name: "look-for-started",
        what: what.clone(),
        limit: LIMIT,
    };
    let call = Arc::new(call);
    let theirs = Arc::clone(&call);
    let looked = match within(job, move || look(&theirs)).await {
        Err(why) if why.code == Code::ResourceExhausted => Ok(look(&call)),
        looked => looked,
    };
    let (held, whole) = match looked {
        Ok(found) => (found.held, found.whole),
        Err(why) => (Vec::new(), Err(why)),
    };
    if let Err(why) = whole {
        log::warn!("{what}: {why}: some of it may live on");
    }
    held
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// The look ends when somebody else has had his turn on the event loop.
    static TURN: Mutex<Option<Receiver<()>>> = Mutex::new(None);

    #[test]
    fn the_loop_goes_on_meanwhile() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let (had, turn) = channel();
        *TURN.lock().unwrap() = Some(turn);
        let look = |of: &Held| {
            let turn = TURN.lock().unwrap().take().unwrap();
            let whole = turn.recv_timeout(2 * LIMIT);
            let whole = whole.map_err(|_| crate::error::Error::unknown("nobody has a turn"));
            let held = whole.iter().map(|()| (of.0, pidfd::open(1).unwrap()));
            Descendants {
                held: held.collect(),
                whole,
            }
        };
        let own = std::process::id();
        let call = (own.cast_signed(), pidfd::open(own).unwrap());
        let found = runtime.unwrap().block_on(async {
            tokio::spawn(async move { had.send(()) });
            found(call, "a call".into(), look).await
        });
        assert_eq!(found.len(), 1);
    }
}
