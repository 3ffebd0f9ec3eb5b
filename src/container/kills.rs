//! The kills of a container that are under way, and the one of what its init leaves behind.
//!
//! Invariant: Delete waits for all of them; what init leaves behind is killed beside everything else, also when
//! the runtime cannot be started for it, hangs or is killed itself. Pinned by `tests/faults/hang.rs`,
//! `tests/faults/killing.rs` and `tests/faults/threads.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Container;
use crate::awaited::Awaited;
use crate::error::Error;
use crate::pidfd;

/// The number of SIGKILL, as clients send it.
pub(super) const SIGKILL: u32 = 9;

/// How long the processes of a container may take to be listed, once of two times.
const LIST_LIMIT: Duration = Duration::from_secs(2);

/// How many kills by the runtime are under way.
#[derive(Debug, Default)]
pub(super) struct Kills(Arc<Awaited<usize>>);

/// One of them, until it is dropped.
pub(super) struct Kill(Arc<Awaited<usize>>);

impl Kills {
    /// One more.
    pub(super) fn begin(&self) -> Kill {
        self.0.change(|n| {
            *n += 1;
            true
        });
        Kill(Arc::clone(&self.0))
    }

    /// Waits until there is none. containerd closes its connection at the answer to Delete: a Kill
    /// that has none by then fails, and with it the stop of a whole pod (contract 10.4).
    pub(super) async fn over(&self) {
        self.0.wait_for(|n| n == 0).await;
    }
}

impl Drop for Kill {
    fn drop(&mut self) {
        self.0.change(|n| {
            *n -= 1;
            true
        });
    }
}

impl Container {
    /// Init has been reaped: where the kernel does not end the container's other processes, the
    /// runtime is told to. Runs beside everything else; only Delete waits for it.
    pub(super) fn init_was_reaped(self: &Arc<Self>) {
        if !self.kill_all_on_exit {
            return;
        }
        let under_way = self.kills.begin();
        let (runtime, id, me) = (self.runtime.clone(), self.id.clone(), Arc::downgrade(self));
        self.spawn(async move {
            let _under_way = under_way;
            if let Err(e) = runtime.kill(&id, SIGKILL, true).await {
                let Some(me) = me.upgrade().filter(|_| e.is_cut_off()) else {
                    log::debug!("container {id}: kill what init left behind: {e}");
                    return;
                };
                log::warn!(
                    "container {id}: what init left behind is killed without the runtime: {e}"
                );
                me.kill_members(SIGKILL).await;
            }
        });
    }

    /// Sends a signal to all that is in the container's cgroup, as far as that can be read; whether there was
    /// anybody.
    pub(super) async fn kill_members(&self, signal: u32) -> bool {
        let signal = i32::try_from(signal)
            .ok()
            .and_then(|n| Signal::try_from(n).ok());
        let (Some(cgroup), Some(signal)) = (self.cgroup.get(), signal) else {
            return false;
        };
        let list = async || {
            let failed = |why: &Error| {
                log::warn!("container {}: send signal {signal} to all: {why}", self.id);
            };
            match cgroup.listed(LIST_LIMIT).await {
                Ok(listed) => {
                    let _ = listed.whole.inspect_err(failed);
                    listed.pids
                }
                Err(why) => {
                    failed(&why);
                    Vec::new()
                }
            }
        };
        let open =
            |pid: nix::unistd::Pid| Some((pid, pidfd::open(pid.as_raw().cast_unsigned()).ok()?));
        let held: Vec<_> = list().await.into_iter().filter_map(open).collect();
        // Who was opened is a member only if the pid still is one's.
        let now: BTreeSet<_> = list().await.into_iter().collect();
        let members = held.iter().filter(|(pid, _)| now.contains(pid));
        let sent = members.filter(|(_, process)| pidfd::signal(process, signal).is_ok());
        sent.count() > 0
    }
}
