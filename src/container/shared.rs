//! What all containers of a shim share.
//!
//! Invariant: nothing of it is one container's; it is made once, with the shim ([`crate::shim`]).

use std::sync::Arc;

use super::exec_by::ExecBy;
use super::pids_limit::Asked;
use super::tracker::Tracker;
use crate::events::Keeper;
use crate::limits::Limits;
use crate::monitor::Monitor;
use crate::sensing::Sensors;
use crate::stdio;

/// What all containers of a shim share.
pub struct Shared {
    /// The manager's namespace, a part of the runtime's state path.
    pub namespace: String,
    /// The order of things.
    pub tracker: Arc<Tracker>,
    /// What keeps the events that no manager takes.
    pub keeper: Keeper,
    /// The only one who waits for children.
    pub monitor: Monitor,
    /// What the kernel tells of them.
    pub sensors: Sensors,
    /// The ends of waits.
    pub limits: Limits,
    /// The limit of processes of containers whose specs have none.
    pub pids_limit: Option<Asked>,
    /// Who puts execs into containers whose options do not say.
    pub exec_by: Option<ExecBy>,
}

impl Shared {
    /// What the loggers of a container or exec need to know.
    pub(super) fn host<'a>(&'a self, id: &'a str, allow: Option<&'a str>) -> stdio::Host<'a> {
        stdio::Host {
            allow,
            monitor: &self.monitor,
            id,
            namespace: &self.namespace,
            limits: &self.limits,
        }
    }
}
