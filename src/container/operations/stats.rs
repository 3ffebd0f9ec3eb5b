//! Stats: what the container uses, from the cgroup known since its create.
//!
//! Invariant: it asks the kernel and nobody else, so it answers in every state, from Create to
//! Delete, and while the runtime is busy.

use crate::cgroup::Metrics;
use crate::container::Container;
use crate::error::{Error, Result};

impl Container {
    /// What the container uses, with what was used by its processes that have ended.
    ///
    /// # Errors
    /// `NotFound` `cgroup does not exist` (contract 2.1): it was not found at create, is not the
    /// container's alone, or somebody removed it.
    pub fn stats(&self) -> Result<Metrics> {
        let metrics = self.cgroup.get().and_then(crate::cgroup::Cgroup::metrics);
        metrics.ok_or_else(|| Error::not_found("cgroup does not exist"))
    }
}
