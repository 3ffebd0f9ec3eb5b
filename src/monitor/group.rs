//! The end of what a child leaves in its process group.
//!
//! Invariant: only children of this process are signalled, so never a stranger in a recycled group.

use crate::errno::Words;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{self, getpgid};
use tokio::time::{Instant, sleep, timeout};

use super::wait::{Waited, Which, look_for};
use super::{Monitor, Pid};

/// How long to kill what is left; a process stuck in the kernel may never end.
const LIMIT: Duration = Duration::from_secs(5);

impl Monitor {
    /// Kills what a child that has ended left in the process group it led. Its children are this
    /// process's now, and theirs as soon as they have ended. False if some are still there after 5 s.
    pub async fn end_group(&self, leader: Pid) -> bool {
        let group = |pid| getpgid(Some(unistd::Pid::from_raw(pid))).map(unistd::Pid::as_raw);
        let end = async {
            loop {
                // As a rule none is: then nobody reads the list of all children, which may be long.
                if look_for(Which::Group(leader), 0) == Waited::None {
                    return;
                }
                let begun = Instant::now();
                let ours = |pid| group(pid) == Ok(leader);
                match self.kill_adopted(ours, Signal::SIGKILL) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(e) => return log::warn!("children of this process: {e}", e = e.words()),
                }
                sleep(Duration::from_millis(1).max(begun.elapsed() * 4)).await;
            }
        };
        timeout(LIMIT, end).await.is_ok()
    }
}
