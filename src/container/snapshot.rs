//! Questions: State and Pids.
//!
//! Invariant: they answer from what is known and from the kernel, and never queue behind a runtime
//! call.

use super::process::{ExitStatus, Facts, Process};
use super::state::State;
use super::{Container, Registry};
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

/// A process in a container, and the exec that it is the first process of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its pid in the shim's pid namespace.
    pub pid: Pid,
    /// The exec's id, if this is an exec's own process.
    pub exec_id: Option<String>,
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

    /// All processes in the container, from its cgroup; without one, those the shim started.
    ///
    /// # Errors
    /// The cgroup could not be read.
    pub fn pids(&self) -> Result<Vec<Member>> {
        let own: Vec<(Pid, String)> = std::iter::once(self.init.clone())
            .chain(self.execs())
            .filter(|p| p.facts().pid > 0 && !p.facts().reaped)
            .map(|p| (p.facts().pid, p.exec_id.clone()))
            .collect();
        let pids: Vec<Pid> = match self.cgroup.get() {
            Some(cgroup) => cgroup
                .procs()?
                .into_iter()
                .map(nix::unistd::Pid::as_raw)
                .collect(),
            None => own.iter().map(|(pid, _)| *pid).collect(),
        };
        let exec_of = |pid| {
            own.iter()
                .find(|(p, exec)| *p == pid && !exec.is_empty())
                .map(|(_, exec)| exec.clone())
        };
        Ok(pids
            .into_iter()
            .map(|pid| Member {
                pid,
                exec_id: exec_of(pid),
            })
            .collect())
    }
}

impl Registry {
    /// The pid of a container's init, 0 if there is none of that id (Connect never fails).
    pub fn task_pid(&self, id: &str) -> Pid {
        self.get(id).map_or(0, |c| c.init.facts().pid)
    }
}
