//! The runtime of one container.
//!
//! Invariant: what a failed call of it has made, it takes back.

use std::path::{Path, PathBuf};

use crate::container::Shared;
use crate::proto::runc_options::Options;
use crate::runtime::Runtime;

/// The runtime of a container that names none.
pub const DEFAULT_RUNTIME: &str = "runc";
/// Where runtimes keep their state, if the options do not say.
pub const DEFAULT_ROOT: &str = "/run/containerd/runc";

/// The runtime as the options want it, for one container.
pub(super) fn runtime(shared: &Shared, bundle: &Path, options: &Options) -> Runtime {
    let or =
        |value: &str, default: &str| PathBuf::from(if value.is_empty() { default } else { value });
    Runtime {
        binary: or(&options.binary_name, DEFAULT_RUNTIME),
        root: or(&options.root, DEFAULT_ROOT).join(&shared.namespace),
        log: bundle.join("log.json"),
        systemd_cgroup: options.systemd_cgroup,
        monitor: shared.monitor.clone(),
        limit: shared.limits.runtime_call,
    }
}

/// Has the runtime take back what a failed call has made. It cleans up after a failure of its own;
/// after a kill, a time-out or a failure of ours its container is still there.
pub(super) async fn undo(runtime: &Runtime, id: &str, what: &str) {
    if runtime.knows(id)
        && let Err(e) = runtime.delete(id, true).await
    {
        log::error!("container {id}: clean-up after a failed {what}: {e}");
    }
}
