//! What the bundle of a dead container says: read once, and leniently, since a shim of any make and version has
//! written it.
//!
//! Invariant: nothing here is more than what the bundle says. Whether its runtime knows the container, and who
//! its init is, may change while calls of a dead shim come to their end, and is asked when it is needed. A file that
//! cannot be read is no missing one: it is told of, and what follows from it is in doubt.

use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use serde_json::Value;

use crate::errno::is_absent;
use crate::error::{Error, Result};
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
    pub(super) fn of(flags: &Flags, warnings: &mut Vec<Error>) -> Self {
        Self::in_bundle(bundle(flags), &flags.id, &flags.namespace, warnings)
    }

    /// What is left of a container in a namespace.
    pub(super) fn in_bundle(
        bundle: PathBuf,
        id: &str,
        namespace: &str,
        warnings: &mut Vec<Error>,
    ) -> Self {
        let mut read = |name| or_told(text(&bundle, name), warnings);
        let options: Value = serde_json::from_str(&read("options.json")).unwrap_or_default();
        let runtime = read("runtime");
        let spec = or_told(Spec::look(&bundle), warnings);
        let option = |key: &str| options.get(key).and_then(Value::as_str).unwrap_or_default();
        let first = |candidates: [&str; 3]| {
            let found = candidates.into_iter().find(|c| !c.is_empty());
            found.unwrap_or_default().to_owned()
        };
        Self {
            id: id.to_owned(),
            binary: first([&runtime, option("binary_name"), "runc"]),
            root: Path::new(&first([option("root"), DEFAULT_ROOT, ""])).join(namespace),
            systemd: options.get("systemd_cgroup").and_then(Value::as_bool) == Some(true),
            spec: spec.unwrap_or_default(),
            bundle,
        }
    }

    /// Whether its runtime has any of it.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub(super) fn is_known(&self) -> Result<bool> {
        is_there(&self.root.join(&self.id))
    }

    /// Its init, as the runtime has named it.
    ///
    /// # Errors
    /// Why it cannot be told whom that has named.
    pub(super) fn init(&self) -> Result<Option<Pid>> {
        let text = text(&self.bundle, "init.pid")?;
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let pid = text.parse().ok().filter(|pid| digits && *pid > 0);
        Ok(pid.map(Pid::from_raw))
    }

    /// Where the dead shim's socket may be: as the bundle says it, and as `start` would name it. Why not all
    /// of that can be told goes to `warnings`.
    pub(super) fn sockets(&self, flags: &Flags, warnings: &mut Vec<Error>) -> Vec<PathBuf> {
        let mut read = |name| or_told(text(&self.bundle, name), warnings);
        let bootstrap: Value = serde_json::from_str(&read("bootstrap.json")).unwrap_or_default();
        let told = bootstrap
            .get("address")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let mut paths: Vec<PathBuf> = [told, &read(start::ADDRESS_FILE)]
            .iter()
            .filter_map(|address| address.strip_prefix(socket::SCHEME))
            .map(PathBuf::from)
            .collect();
        // A group that is none has no shim: `start` has refused it.
        if let Ok(group) = spec::group(&self.spec.annotations, &self.id) {
            let name = socket::name(&flags.address, &flags.namespace, &group);
            paths.push(Path::new(socket::DEFAULT_DIR).join(&name));
            let link = self.bundle.join(start::SOCKET_LINK);
            match link.read_link() {
                Ok(dir) => paths.push(dir.join(&name)),
                // EINVAL: it is no link.
                Err(why) if is_absent(&why) || why.raw_os_error() == Some(libc::EINVAL) => {}
                Err(why) => warnings.push(Error::io(format!("read {}", link.display()), &why)),
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

/// Whether there is something; what cannot be told is an error.
pub(super) fn is_there(path: &Path) -> Result<bool> {
    match path.metadata() {
        Ok(_) => Ok(true),
        Err(why) if is_absent(&why) => Ok(false),
        Err(why) => Err(Error::io(format!("look for {}", path.display()), &why)),
    }
}

/// A file of the bundle, trimmed; empty if there is none or it is no text of a sensible length.
fn text(bundle: &Path, name: &str) -> Result<String> {
    let content = spec::own(&bundle.join(name), LONGEST)?.unwrap_or_default();
    let text = String::from_utf8(content).unwrap_or_default();
    Ok(text.trim().to_owned())
}

/// What could be read; else nothing, and why goes to `warnings`.
pub(super) fn or_told<T: Default>(read: Result<T>, warnings: &mut Vec<Error>) -> T {
    read.unwrap_or_else(|why| {
        warnings.push(why);
        T::default()
    })
}
