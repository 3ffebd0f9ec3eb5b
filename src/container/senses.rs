//! What there is to be sensed of a container: its cgroup, from which the kernel's word of it comes.
//!
//! Invariant: the cgroup is the container's alone, and was found while its init was certainly its own.

use std::sync::Arc;

use super::{Container, Process};
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::events::Event;
use crate::monitor::Pid;
use crate::sensing::oom::Ended;
use crate::sensing::{Known, Sensed, Senses, Sensors};

/// The cgroup of a container's init, if that is the container's alone, with its controllers enabled.
pub(super) async fn cgroup_of(id: &str, init: Result<Pid>) -> Result<Cgroup> {
    let cgroup = Cgroup::locate(nix::unistd::Pid::from_raw(init?)).await?;
    cgroup.is_its_own()?;
    if let Err(e) = cgroup.enable_controllers() {
        log::warn!("container {id}: enable cgroup controllers: {e}");
    }
    Ok(cgroup)
}

impl Container {
    /// The container as it is sensed.
    pub(super) fn sensed(&self) -> &(dyn Sensed + 'static) {
        self
    }

    /// Takes the container's cgroup, and watches what can be watched of it. Once: later ones are ignored.
    pub(super) fn watch(self: &Arc<Self>, cgroup: Result<Cgroup>) {
        let me: Arc<dyn Sensed> = Arc::<Self>::clone(self);
        match cgroup.map(|cgroup| self.cgroup.set(cgroup)) {
            Ok(Ok(())) => {
                if let Some(look) = me.watch_oom() {
                    self.spawn(look);
                }
                if let Some(look) = me.watch_pids() {
                    self.spawn(look);
                }
            }
            // A second one.
            Ok(Err(_)) => {}
            Err(why) => {
                me.oom_not_seen(&why);
                me.pids_not_watched(&why);
            }
        }
    }
}

impl Sensed for Container {
    fn id(&self) -> &str {
        &self.id
    }

    fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.get()
    }

    fn senses(&self) -> &Senses {
        &self.senses
    }

    fn sensors(&self) -> &Sensors {
        &self.shared.sensors
    }

    fn init(&self) -> Known {
        self.init.known()
    }

    fn execs(&self) -> Vec<Known> {
        let execs = self.execs().into_iter();
        execs.map(|exec| exec.known()).collect()
    }

    fn has_own_pids(&self) -> bool {
        !self.kill_all_on_exit
    }

    fn in_pod(&self) -> bool {
        self.in_pod
    }

    fn has_reaped(&self, pid: Pid) -> bool {
        self.shared.tracker.has_reaped(pid)
    }

    fn tell(&self, events: Vec<Event>) {
        self.shared
            .tracker
            .step(|queue| events.into_iter().for_each(|event| queue.push(event)));
    }
}

impl Process {
    fn known(&self) -> Known {
        let facts = self.facts();
        let is_start = |(what, _)| what == "start";
        Known {
            exec_id: self.exec_id.clone(),
            pid: (facts.pid > 0 && !facts.reaped).then_some(facts.pid),
            reaped: facts.reaped,
            starting: facts.pid == 0 && self.turn.holder().is_some_and(is_start),
        }
    }

    /// Its end, which is about to be told; the status is not known of one that has ended before its pid was
    /// known.
    pub(super) fn ended_as(&self, pid: Pid, status: Option<u32>) -> Ended<'_> {
        Ended {
            exec_id: &self.exec_id,
            pid,
            sigkilled: self.facts().sigkilled,
            status,
        }
    }
}
