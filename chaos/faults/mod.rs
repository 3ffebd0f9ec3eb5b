//! The faults, by name.

use std::pin::Pin;

use crate::Scale;
use crate::verdict::Outcome;

mod daemon;
mod ice;
mod load;
mod manager;
mod neighbour;
mod room;
mod runtime;
mod shim;
mod stdio;

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
    "containerd killed while containers exit" => daemon::killed["CRUN_1_21"];
    "containerd killed while containers exit, runc" => daemon::killed["RUNC_1_3"];
    "containerd stopped while containers exit" => daemon::stopped;
    "containerd killed in a loop" => daemon::flapping;
    "containerd: shim killed" => daemon::shim_killed;
    "containerd: shim killed in the middle of run" => daemon::shim_killed_in_run;
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
    "shim killed at any moment" => shim::any_moment;
    "shim killed while idle" => shim::killed_idle;
    "shim stopped while processes exit" => shim::stopped;
    "shim started twice" => shim::twice;
    "runtime hangs in create" => runtime::hangs["create"];
    "runtime hangs in start" => runtime::hangs["start"];
    "runtime hangs in exec" => runtime::hangs["exec"];
    "runtime hangs in kill" => runtime::hangs["kill"];
    "runtime hangs in delete" => runtime::hangs["delete"];
    "runtime stopped in create" => runtime::stops["create"];
    "runtime stopped in start" => runtime::stops["start"];
    "runtime stopped in exec" => runtime::stops["exec"];
    "runtime stopped in kill" => runtime::stops["kill"];
    "runtime stopped in delete" => runtime::stops["delete"];
    "runtime killed in create" => runtime::killed["create"];
    "runtime killed in start" => runtime::killed["start"];
    "runtime killed in exec" => runtime::killed["exec"];
    "runtime killed in delete" => runtime::killed["delete"];
    "runtime lies in create" => runtime::lies["create"];
    "runtime lies in start" => runtime::lies["start"];
    "runtime lies in exec" => runtime::lies["exec"];
    "runtime lies in delete" => runtime::lies["delete"];
    "runtime slow in one exec of many" => runtime::slow;
    "disk of the bundle full" => room::disk_of_bundle;
    "disk of the log file full" => room::disk_of_log;
    "no descriptors left" => room::descriptors;
    "no memory left, runtimes killed" => room::memory;
    "no memory left, shim killed" => room::memory_of_shim;
    "no processes left" => room::processes;
    "exec frozen in a cgroup" => ice::frozen;
    "stdout: reader gone" => stdio::gone;
    "stdout: reader slow" => stdio::slow;
    "stdout: reader gone and back" => stdio::back;
    "neighbour: failing execs, runc" => neighbour::failing["RUNC", false];
    "neighbour: failing execs, crun" => neighbour::failing["CRUN", false];
    "neighbour: failing execs, runc, host's pids" => neighbour::failing["RUNC", true];
    "neighbour: failing execs, crun, host's pids" => neighbour::failing["CRUN", true];
    "neighbour: orphans without end, runc" => neighbour::orphans["RUNC"];
    "neighbour: orphans without end, crun" => neighbour::orphans["CRUN"];
    "neighbour: orphans that sleep, runc" => neighbour::sleepers["RUNC"];
    "neighbour: orphans that sleep, crun" => neighbour::sleepers["CRUN"];
    "neighbour: pids used again, runc" => neighbour::recycled["RUNC", false];
    "neighbour: pids used again, runc, host's pids" => neighbour::recycled["RUNC", true];
    "neighbour: pids used again, crun" => neighbour::recycled["CRUN", false];
    "neighbour: pids used again, crun, host's pids" => neighbour::recycled["CRUN", true];
    "neighbour: a process that holds up its readers, runc" => neighbour::held_up["RUNC"];
    "neighbour: a process that holds up its readers, crun" => neighbour::held_up["CRUN"];
    "neighbour: thousands of cgroups, runc" => neighbour::cgroups["RUNC"];
    "neighbour: thousands of cgroups, crun" => neighbour::cgroups["CRUN"];
    "neighbour: moved to another cgroup, runc" => neighbour::moved["RUNC", false];
    "neighbour: moved to another cgroup, crun, host's pids" => neighbour::moved["CRUN", true];
    "neighbour: out of memory without end, runc" => neighbour::memory["RUNC"];
    "neighbour: out of memory without end, crun" => neighbour::memory["CRUN"];
    "neighbour: the kernel's log without end" => neighbour::kernel_log["CRUN"];
    "shim killed when an end was told, runc" => neighbour::told["RUNC"];
    "shim killed when an end was told, crun" => neighbour::told["CRUN"];
    "shim killed when ends were told in an outage" => neighbour::told_away["CRUN"];
    "many execs" => load::execs;
    "many containers" => load::containers;
    "many abandoned Waits" => load::waits;
    "many abandoned streams" => load::streams;
};
