//! Every wait of the shim has an end, and this is the one place where the ends are written down.
//!
//! What happens at each is said at the field. Times that belong to one runtime call live with the
//! runtime driver ([`crate::runtime`]).

use std::time::Duration;

/// The time limits of container operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long an init's exit is held back for execs of its container that are still running or
    /// being started. At its end the init's exit is published and the late ones follow it.
    pub exec_drain: Duration,
    /// How long Delete waits for the output's tail (the Go shim: 10 s since containerd 1.7.29).
    /// At its end the streams are closed and what was not read is lost, with a log line.
    pub io_drain: Duration,
    /// How long Delete of a created container waits for the exit of the init it had killed. At its
    /// end Delete fails and can be repeated.
    pub killed_exit: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            exec_drain: Duration::from_secs(10),
            io_drain: Duration::from_secs(10),
            killed_exit: Duration::from_secs(10),
        }
    }
}
