//! What the bundle of a dead container says: read once, and leniently, since a shim of any make and version has
//! written it.
//!
//! Invariant: nothing here is more than what the bundle says. Whether its runtime knows the container, and who
//! its init is, may change while calls of a dead shim come to their end, and is asked when it is needed.

use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use serde_json::Value;

use crate::shim::flags::Flags;
use crate::shim::{socket, start};
use crate::spec::{self, Spec};

/// Where runtimes keep their state unless the options say otherwise.
const DEFAULT_ROOT: &str = "/run/containerd/runc";

/// The longest file that shims and managers keep beside config.json.
const LONGEST: u64 = 1 << 20;

/// What is left of a container.
pub(super) struct Left {
    /// Its id.
    pub(super) id: String,
    /// Its bundle.
    pub(super) bundle: PathBuf,
    /// The binary of its runtime.
    pub(super) binary: String,
    /// Where that keeps its state.
    pub(super) root: PathBuf,
    /// Whether its cgroup is systemd's.
    pub(super) systemd: bool,
    /// Its config.json; an empty one if there is none that can be read.
    pub(super) spec: Spec,
}

impl Left {
    /// What is left of the container that an action is about.
    pub(super) fn of(flags: &Flags) -> Self {
        Self::in_bundle(bundle(flags), &flags.id, &flags.namespace)
    }

    /// What is left of a container in a namespace.
    pub(super) fn in_bundle(bundle: PathBuf, id: &str, namespace: &str) -> Self {
        let options: Value =
            serde_json::from_str(&read(&bundle, "options.json")).unwrap_or_default();
        let option = |key: &str| options.get(key).and_then(Value::as_str).unwrap_or_default();
        let first = |candidates: [&str; 3]| {
            let found = candidates.into_iter().find(|c| !c.is_empty());
            found.unwrap_or_default().to_owned()
        };
        Self {
            id: id.to_owned(),
            binary: first([&read(&bundle, "runtime"), option("binary_name"), "runc"]),
            root: Path::new(&first([option("root"), DEFAULT_ROOT, ""])).join(namespace),
            systemd: options.get("systemd_cgroup").and_then(Value::as_bool) == Some(true),
            spec: Spec::read(&bundle).unwrap_or_default(),
            bundle,
        }
    }

    /// Whether its runtime has any of it.
    pub(super) fn is_known(&self) -> bool {
        self.root.join(&self.id).exists()
    }

    /// Its init, as the runtime has named it.
    pub(super) fn init(&self) -> Option<Pid> {
        let text = read(&self.bundle, "init.pid");
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let pid = text.parse().ok().filter(|pid| digits && *pid > 0);
        pid.map(Pid::from_raw)
    }

    /// Where the dead shim's socket may be: as the bundle says it, and as `start` would name it.
    pub(super) fn sockets(&self, flags: &Flags) -> Vec<PathBuf> {
        let bootstrap: Value =
            serde_json::from_str(&read(&self.bundle, "bootstrap.json")).unwrap_or_default();
        let told = bootstrap
            .get("address")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let mut paths: Vec<PathBuf> = [told, &read(&self.bundle, start::ADDRESS_FILE)]
            .iter()
            .filter_map(|address| address.strip_prefix(socket::SCHEME))
            .map(PathBuf::from)
            .collect();
        // A group that is none has no shim: `start` has refused it.
        if let Ok(group) = spec::group(&self.spec.annotations, &self.id) {
            let name = socket::name(&flags.address, &flags.namespace, &group);
            paths.push(Path::new(socket::DEFAULT_DIR).join(&name));
            if let Ok(dir) = self.bundle.join(start::SOCKET_LINK).read_link() {
                paths.push(dir.join(&name));
            }
        }
        paths.retain(|path| path.is_absolute());
        paths.sort();
        paths.dedup();
        paths
    }
}

/// The bundle: next to the current directory, which is that of some container of the group; else,
/// when there is no such directory, the one named.
fn bundle(flags: &Flags) -> PathBuf {
    let here = std::env::current_dir().ok();
    let beside = here
        .as_deref()
        .and_then(Path::parent)
        .map(|dir| dir.join(&flags.id));
    beside
        .filter(|dir| dir.is_dir())
        .unwrap_or_else(|| PathBuf::from(&flags.bundle))
}

/// A file of the bundle, trimmed; empty if there is none or it is no text of a sensible length.
fn read(bundle: &Path, name: &str) -> String {
    let content = spec::read_own(&bundle.join(name), LONGEST).unwrap_or_default();
    let text = String::from_utf8(content).unwrap_or_default();
    text.trim().to_owned()
}
