//! What can be asked of the lifecycle. Nothing changes by it.

use super::start::{Kind, Start};
use super::{Census, ContainerKey, Lifecycle, StartId};
use crate::monitor::{Exit, Pid};

impl<P: Clone> Lifecycle<P> {
    /// The exit of this container's init, from its reap on, published or not.
    pub fn init_exit(&self, c: ContainerKey) -> Option<Exit> {
        self.containers.get(&c)?.init.exit()
    }

    /// Whether an announced process has this pid and was not reaped.
    pub fn tracked(&self, pid: Pid) -> bool {
        let all = (pid, StartId(0))..=(pid, StartId(u64::MAX));
        self.running.range(all).next().is_some()
    }

    /// The announced processes that have this pid and were not reaped.
    pub fn owners(&self, pid: Pid) -> Vec<P> {
        let all = (pid, StartId(0))..=(pid, StartId(u64::MAX));
        let owners = self.running.range(all);
        owners.map(|(_, owner)| owner.process.clone()).collect()
    }

    /// Whether the exit of a process of this number was recorded, since there may be a start that made it.
    #[must_use]
    pub fn has_reaped(&self, pid: Pid) -> bool {
        let named = |start: &Start| start.named.and_then(|named| named.exit());
        let mut named = self.starts.values().filter_map(named);
        named.any(|exit| exit.pid == pid) || self.log.of(0, pid).next().is_some()
    }

    /// What is held at this moment, for the dump and the leak tests.
    pub fn census(&self) -> Census {
        Census {
            running: self.running.len(),
            starts: self.starts.len(),
            containers: self.containers.len(),
            recorded: self.log.len(),
        }
    }

    /// The running map: announced processes by pid, as they came.
    pub fn running(&self) -> impl Iterator<Item = (Pid, &P)> {
        let all = self.running.iter();
        all.map(|(&(pid, _), running)| (pid, &running.process))
    }

    /// The exit subscribers: the starts in flight, oldest first, with what each starts.
    pub fn starts(&self) -> impl Iterator<Item = (ContainerKey, &'static str)> {
        self.starts.values().map(|start| {
            let what = match start.kind {
                Kind::Create => "create",
                Kind::Start => "start",
                Kind::Restore => "restore",
                Kind::Exec => "exec",
            };
            (start.container, what)
        })
    }
}
