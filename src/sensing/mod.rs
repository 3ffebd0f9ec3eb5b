//! What the kernel tells of a container: who was killed for want of memory ([`oom`]), which forks were refused
//! ([`pids`]).
//!
//! Invariant: of a container it knows what [`Sensed`] says, and what it senses goes one way, by
//! [`Sensed::tell`]; no operation waits for it.

pub mod oom;
pub mod pids;

use std::sync::{Mutex, PoisonError};

use crate::cgroup::kernel_log::KernelLog;
use crate::cgroup::{Cgroup, Watcher};
use crate::events::Event;
use crate::monitor::Pid;

/// The most reasons that are remembered as told: paths in them hold ids.
const LOGGED: usize = 64;

/// A container, as far as it is sensed.
pub trait Sensed: Send + Sync {
    /// Its id.
    fn id(&self) -> &str;
    /// Its cgroup, once there is one.
    fn cgroup(&self) -> Option<&Cgroup>;
    /// What has been sensed of it so far.
    fn senses(&self) -> &Senses;
    /// What all containers of the shim are sensed with.
    fn sensors(&self) -> &Sensors;
    /// Its init.
    fn init(&self) -> Known;
    /// Its execs that have not been deleted.
    fn execs(&self) -> Vec<Known>;
    /// Whether its init is the first of a pid namespace of its own.
    fn has_own_pids(&self) -> bool;
    /// Whether what is right above its cgroup is its pod's.
    fn in_pod(&self) -> bool;
    /// Whether a process of this number was reaped while a start is under way.
    fn has_reaped(&self, pid: Pid) -> bool;
    /// Queues events, one behind the other.
    fn tell(&self, events: Vec<Event>);
}

/// A process that the shim has started, or is starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Empty for the init.
    pub exec_id: String,
    /// Its pid while that is certainly its own.
    pub pid: Option<Pid>,
    /// It has ended.
    pub reaped: bool,
    /// It is being started, and its pid is not known yet.
    pub starting: bool,
}

/// What has been sensed of a container.
#[derive(Default)]
pub struct Senses {
    pub(crate) oom: oom::Told,
    pub(crate) pids: pids::Refused,
}

/// What the containers of a shim are sensed with.
#[derive(Debug, Default)]
pub struct Sensors {
    /// Who was killed for want of memory, as the kernel tells.
    pub kernel_log: KernelLog,
    /// Word of what the kernel counts.
    pub watcher: Watcher,
    pods: pids::Pods,
    logged: Mutex<Vec<String>>,
}

impl Sensors {
    /// Logs a reason for all containers that have it: they mostly have the same.
    fn log_once(&self, id: &str, why: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if !logged.iter().any(|known| known == why) {
            log::warn!("container {id}: {why}");
            if logged.len() < LOGGED {
                logged.push(why.to_owned());
            }
        }
    }
}
