//! The parsers of other people's text that have no public door, for `fuzz/` and `tests/fuzz.rs`. Not
//! for anybody else: what is here may change with what is behind it.
//!
//! Invariant: each does with its input what the shim does with it, and touches nothing.

use std::collections::BTreeMap;

use crate::cgroup::fuzzing as cgroup;
use crate::mount::fuzzing as mount;

/// The error in a runtime's log.
pub fn runtime_log(log: &[u8]) -> Option<String> {
    crate::runtime::last_error(log)
}

/// The pid in a pid file.
pub fn pid_file(content: &[u8]) -> Option<i32> {
    crate::runtime::parse_pid(content)
}

/// Whether `words` are mount options; and, with the overlay's layers, what becomes of them.
pub fn mount_options(words: &[&str]) -> Option<Vec<String>> {
    mount::options(words)
}

/// Cgroup metrics as they are sent, of v1 and of v2, from the texts of files named `controller/file`.
pub fn cgroup_metrics(files: BTreeMap<String, String>) -> [Vec<u8>; 2] {
    cgroup::metrics(files)
}

/// The OOM kills in a cgroup's file.
pub fn oom_kills(text: &str) -> Option<u64> {
    cgroup::oom_kills(text)
}

/// A time limit in the environment.
pub fn limit(text: &str) -> Option<std::time::Duration> {
    crate::limits::parse(text)
}
