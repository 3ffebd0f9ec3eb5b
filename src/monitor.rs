//! (being built) The two types the lifecycle speaks of.

use std::time::SystemTime;

/// A process id in the shim's pid namespace.
pub type Pid = i32;

/// One reaped process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Whose.
    pub pid: Pid,
    /// The exit code, or 128 + the signal that killed it.
    pub status: u32,
    /// When it was reaped.
    pub at: SystemTime,
}
