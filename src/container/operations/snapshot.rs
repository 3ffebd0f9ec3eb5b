//! Questions: State, Connect, and what Pids says of the end; the rest of it is in [`super::members`].
//!
//! Invariant: they answer from what is known, and never queue behind a runtime call. A container whose init
//! has ended is not without processes before it is deleted: its init is named, by the pid that State gives.
//! Pinned by `tests/task/state.rs::pids_of_what_has_ended`.

use super::members::Member;
use crate::container::process::{ExitStatus, Facts, Process};
use crate::container::state::State;
use crate::container::{Container, Registry};
use crate::error::Result;
use crate::monitor::Pid;

/// What State answers.
pub struct Snapshot {
    /// The process.
    pub process: std::sync::Arc<Process>,
    /// Its facts, with an exec's state following its paused container's.
    pub facts: Facts,
    /// How it ended; status 0 and no time while it has not.
    pub exit: ExitStatus,
}

impl Container {
    /// What is known of the init (empty id) or an exec.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn snapshot(&self, exec_id: &str) -> Result<Snapshot> {
        let process = self.process(exec_id)?;
        let mut facts = process.facts();
        if !process.is_init() && facts.state == State::Running {
            let parent = self.init.facts().state;
            if matches!(parent, State::Pausing | State::Paused) {
                facts.state = parent;
            }
        }
        let exit = process.exit().unwrap_or(ExitStatus {
            status: 0,
            at: None,
        });
        Ok(Snapshot {
            process,
            facts,
            exit,
        })
    }

    /// What Pids answers: who was found, or, of a container that has ended, its init.
    ///
    /// A manager that comes back asks this of each shim. Up to containerd 2.3.3 an error counts as
    /// nobody, and in all from 1.7 on nobody means that the shim never had a task (a client that died
    /// between start and Create): it is cleared away, and with it an exit that nobody was told of
    /// (contract, start of the daemon). The number is no handle: signals go through Kill, which
    /// refuses what has ended.
    ///
    /// # Errors
    /// Why nobody was found, while init lives.
    pub fn with_its_end(&self, found: Result<Vec<Member>>) -> Result<Vec<Member>> {
        or_ended(found, self.init.facts())
    }
}

fn or_ended(found: Result<Vec<Member>>, init: Facts) -> Result<Vec<Member>> {
    match found {
        Ok(members) if !members.is_empty() => Ok(members),
        _ if init.reaped && init.pid > 0 => Ok(vec![Member {
            pid: init.pid,
            exec_id: None,
        }]),
        nobody => nobody,
    }
}

impl Registry {
    /// The pid of a container's init, 0 if there is none of that id (Connect never fails).
    pub fn task_pid(&self, id: &str) -> Pid {
        self.get(id).map_or(0, |c| c.init.facts().pid)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::error::Error;

    #[test]
    fn an_ended_init_stands_for_nobody_and_for_an_error() {
        let facts = |pid, reaped| Facts {
            state: State::Stopped,
            pid,
            reaped,
            sigkilled: false,
            since: Instant::now(),
        };
        let members = |pids: &[Pid]| {
            let member = |pid: &Pid| Member {
                pid: *pid,
                exec_id: None,
            };
            pids.iter().map(member).collect::<Vec<_>>()
        };
        let living = || Ok(members(&[8, 9]));
        let nobody = || Ok(Vec::new());
        let unread = || Err(Error::unknown("read the cgroup"));
        for (found, init, expected) in [
            (living(), facts(7, false), living()),
            (living(), facts(7, true), living()),
            (nobody(), facts(7, false), nobody()),
            (nobody(), facts(7, true), Ok(members(&[7]))),
            (unread(), facts(7, false), unread()),
            (unread(), facts(7, true), Ok(members(&[7]))),
            // To be restored by its Start: there never was a process.
            (nobody(), facts(0, false), nobody()),
            (unread(), facts(0, false), unread()),
        ] {
            let what = format!("{found:?} and {init:?}");
            assert_eq!(or_ended(found, init), expected, "{what}");
        }
    }
}
