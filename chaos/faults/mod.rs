//! The faults, by name.

use std::pin::Pin;

use crate::Scale;
use crate::verdict::Outcome;

mod manager;
mod runtime;
mod shim;

type Run = fn(Scale) -> Pin<Box<dyn Future<Output = Outcome>>>;

/// One thing that goes wrong.
pub struct Fault {
    /// As the table calls it.
    pub name: &'static str,
    /// Why the Go shim cannot be put to it; none where it can.
    pub ours: Option<&'static str>,
    /// Does it to a shim.
    pub run: Run,
}

macro_rules! faults {
    ($($name:literal $(($why:literal))? => $run:path $([$($with:expr),*])?;)*) => {
        &[$(Fault {
            name: $name,
            ours: None$(.or(Some($why)))?,
            run: |_scale| Box::pin($run(_scale, $($($with),*)?)),
        }),*]
    };
}

/// All of them.
pub const FAULTS: &[Fault] = faults! {
    "events: no socket while execs exit" => manager::gone;
    "events: socket full" => manager::full;
    "events: manager stopped" => manager::stopped;
    "events: accepted, never answered" => manager::silent;
    "events: taken, answers lost" => manager::forgetful;
    "events: slow" => manager::slow;
    "events: gone and back in a loop" => manager::flapping;
    "shim killed in create, runtime not begun" => shim::killed["create", "slow-before"];
    "shim killed in create, runtime done" => shim::killed["create", "slow-after"];
    "shim killed in start, runtime not begun" => shim::killed["start", "slow-before"];
    "shim killed in start, runtime done" => shim::killed["start", "slow-after"];
    "shim killed in exec, runtime not begun" => shim::killed["exec", "slow-before"];
    "shim killed in exec, runtime done" => shim::killed["exec", "slow-after"];
    "shim killed in delete, runtime not begun" => shim::killed["delete", "slow-before"];
    "shim killed in delete, runtime done" => shim::killed["delete", "slow-after"];
    "shim killed while idle" => shim::killed_idle;
    "shim stopped while processes exit" => shim::stopped;
    "shim started twice" => shim::twice;
    "runtime hangs in create" => runtime::hangs["create"];
    "runtime hangs in start" => runtime::hangs["start"];
    "runtime hangs in exec" => runtime::hangs["exec"];
    "runtime hangs in kill" => runtime::hangs["kill"];
    "runtime hangs in delete" => runtime::hangs["delete"];
    "runtime killed in create" => runtime::killed["create"];
    "runtime killed in start" => runtime::killed["start"];
    "runtime killed in exec" => runtime::killed["exec"];
    "runtime killed in delete" => runtime::killed["delete"];
    "runtime lies in create" => runtime::lies["create"];
    "runtime lies in start" => runtime::lies["start"];
    "runtime lies in exec" => runtime::lies["exec"];
    "runtime lies in delete" => runtime::lies["delete"];
    "runtime slow in one exec of many" => runtime::slow;
};
