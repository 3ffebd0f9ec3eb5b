//! An exec's process, put into the container by the shim itself ([`crate::direct`]).
//!
//! Invariant: when this answers none, no process of the attempt is left, and the program has not run.

use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use tokio::time::{sleep, timeout};

use crate::container::state::State;
use crate::container::{Container, Process};
use crate::direct::{Exec, Outcome};
use crate::kin::Stat;
use crate::monitor::{Clocks, Moment, Pid, is_unreaped_child};
use crate::runtime::{Fds, Named};

/// How long to wait for the end of a killed process; one stuck in the kernel may never end.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

impl Container {
    /// Its pid, if the shim could do it; none, and it is the runtime's.
    pub(super) async fn exec_directly(
        &self,
        exec: &Process,
        spec: &[u8],
        fds: &Fds,
    ) -> Option<Named> {
        let direct = self.direct.as_ref()?;
        let facts = self.init.facts();
        if facts.state != State::Running || facts.reaped {
            return None;
        }
        let begun = Clocks::now();
        let outcome = direct.exec(Exec {
            runtime: &self.runtime,
            id: &self.id,
            spec,
            fds,
            init: facts.pid,
            cgroup: self.cgroup.get(),
        });
        match outcome.await {
            Outcome::Runs(pid) => Some(Named {
                pid,
                written: SystemTime::now(),
            }),
            Outcome::Not(_, left) => {
                let by = Moment::now();
                for pid in left {
                    self.end_left(exec, pid, (begun.boot, by)).await;
                }
                None
            }
        }
    }

    /// Ends what the kernel has named as the attempt's, if it is there: a child of the shim's that was made
    /// meanwhile and is nobody's.
    async fn end_left(&self, exec: &Process, pid: Pid, (begun, by): (Moment, Moment)) {
        // From here to the kill nothing else runs on this thread, which alone reaps.
        let Some(born) = Moment::born(pid).filter(|born| (begun..=by).contains(born)) else {
            return;
        };
        if !is_unreaped_child(pid) || self.shared.tracker.tracks(pid) {
            return;
        }
        let _ = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        let lives = |stat: Stat| stat.born() == born && !stat.has_ended();
        let end = async {
            while Stat::of(pid).is_some_and(lives) {
                sleep(LOOK).await;
            }
        };
        if timeout(KILL_LIMIT, end).await.is_err() {
            let (id, exec) = (&self.id, &exec.exec_id);
            log::warn!("container {id}: process {pid} of an attempt at exec {exec} is still there");
        }
    }
}
