//! Processes that the runtime made for an exec and did not name: it was killed, failed after the
//! work, or reported another pid.
//!
//! Invariant: what a failed exec has made does not run on unseen, and no other process is harmed:
//! not one of another exec whose call is under way, nor one that the pid file names by mistake.
//! Pinned by `tests/faults/exec.rs`.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::getsid;
use tokio::time::{sleep, timeout};

use super::{Container, Process, files};
use crate::errno::Words;
use crate::error::{Error, Result};
use crate::monitor::Pid;
use crate::runtime::read_pid_file;

/// How long to wait for the end of a killed process; one stuck in the kernel may never end.
const KILL_LIMIT: Duration = Duration::from_secs(5);

impl Container {
    /// What is there before a call of the runtime: no stray of that call.
    pub(super) fn before_call(&self) -> Before {
        let adopted = match self.kill_all_on_exit {
            true => self.shared.monitor.adopted().unwrap_or_default(),
            // Orphans go to the container's own init, not to the shim.
            false => Vec::new(),
        };
        Before {
            moment: now(),
            adopted: adopted
                .into_iter()
                .filter_map(|pid| Some((pid, since(pid)?)))
                .collect(),
        }
    }

    /// Kills what the failed call of `exec` has made, and waits for its end.
    pub(super) async fn end_strays(&self, exec: &Process, before: &Before) {
        let end = async {
            loop {
                let strays = self.strays(exec, before).unwrap_or_else(|e| {
                    log::warn!(
                        "container {}: look for a failed exec's process: {e}",
                        self.id
                    );
                    Vec::new()
                });
                if strays.is_empty() {
                    return;
                }
                log::debug!("container {}: kill stray processes {strays:?}", self.id);
                let meant = |pid| strays.contains(&pid);
                if let Err(e) = self.shared.monitor.kill_adopted(meant, Signal::SIGKILL) {
                    log::warn!(
                        "container {}: kill stray processes: {e}",
                        self.id,
                        e = e.words()
                    );
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(KILL_LIMIT, end).await.is_err() {
            log::warn!(
                "container {}: a process of failed exec {} is still there",
                self.id,
                exec.exec_id
            );
        }
    }

    /// Children of the shim in this container that were not there `before` the call, and are neither a known
    /// process nor named by another call: a runtime names its process before it leaves it behind.
    ///
    /// In a pid namespace of its own, orphans go to the container's init, so that these can only be
    /// what a runtime made. In a shared one orphans may come to the shim. A runtime makes a session
    /// for each process (runc) or leaves it in the shim's (crun), so what shares one with a known
    /// process is an orphan; one with a session of its own that came in the time of this very call
    /// cannot be told apart.
    fn strays(&self, exec: &Process, before: &Before) -> Result<Vec<Pid>> {
        let Some(cgroup) = self.cgroup.get() else {
            return Ok(Vec::new());
        };
        let mut strays = self.shared.monitor.adopted();
        let strays = strays.as_mut().map_err(|e| Error::io("list children", e))?;
        // Without any, as a rule, there is nothing to read.
        strays.retain(|&pid| !self.shared.tracker.tracks(pid));
        if strays.is_empty() {
            return Ok(Vec::new());
        }
        let members = cgroup.procs()?;
        let mut named = Vec::new();
        let mut sessions = Vec::new();
        for process in self.execs().into_iter().chain([self.init.clone()]) {
            let facts = process.facts();
            if facts.pid > 0 && !facts.reaped {
                sessions.push(session(facts.pid));
            } else if !process.is_init() && process.exec_id != exec.exec_id {
                let pid_file = files::exec_pid_file(&self.bundle, &process.exec_id);
                named.extend(read_pid_file(&pid_file).ok());
            }
        }
        let ours = getsid(None).ok();
        let orphan = |pid| {
            let session = session(pid);
            self.kill_all_on_exit && session != ours && sessions.contains(&session)
        };
        strays.retain(|&pid| {
            members.contains(&nix::unistd::Pid::from_raw(pid))
                && !named.contains(&pid)
                && since(pid).is_some_and(|since| before.lacks(pid, since))
                && !orphan(pid)
        });
        Ok(std::mem::take(strays))
    }
}

/// The state of things before a call of the runtime.
pub(super) struct Before {
    /// In the unit of [`now`].
    moment: u64,
    /// The shim's foster children with the moments of their forks: the unit is coarse, so that one
    /// may be of the same moment as the call.
    adopted: Vec<(Pid, u64)>,
}

impl Before {
    /// Whether a process can have come with the call.
    fn lacks(&self, pid: Pid, since: u64) -> bool {
        since >= self.moment && !self.adopted.contains(&(pid, since))
    }
}

/// The session a process is in; none when it is gone.
fn session(pid: Pid) -> Option<nix::unistd::Pid> {
    getsid(Some(nix::unistd::Pid::from_raw(pid))).ok()
}

/// When a process was forked, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
fn since(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; field 3 follows it.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

/// The present in the same unit; 0 if it cannot be told, so that nothing is too old.
fn now() -> u64 {
    // The tick that the kernel shows to user space is 1/100 s (USER_HZ).
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    since_boot.map_or(0, |since| {
        u64::try_from(since.as_millis() / 10).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_no_stray() {
        let before = Before {
            moment: 100,
            adopted: vec![(7, 100), (8, 90)],
        };
        for (pid, since, lacks) in [
            (5, 99, false),
            (5, 100, true),
            (5, 101, true),
            (7, 100, false),
            // A pid used again.
            (7, 101, true),
            (8, 100, true),
        ] {
            assert_eq!(before.lacks(pid, since), lacks, "{pid} {since}");
        }
    }

    #[test]
    fn a_child_is_younger_than_the_moment_before_it() {
        let before = now();
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let since = since(child.id().cast_signed()).unwrap();
        let after = now();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            before > 0 && (before..=after).contains(&since),
            "{before} {since} {after}"
        );
    }
}
