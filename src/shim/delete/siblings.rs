//! The other containers of a pod whose shim died.
//!
//! Invariant: only bundles that say themselves that they belong to this sandbox, next to its own, are
//! touched, and only when nobody listens on the pod's socket any more.
//!
//! Managers since containerd 2.0 have one shim serve a whole pod and connect to it once more for each
//! container, without noticing the end of such a connection: when the shim dies they run `delete` for
//! the sandbox alone. The other containers run on, with no one to tell their end (contract 10.4). So the
//! sandbox's `delete` clears them away too, and tells the manager of each what the shim would have:
//! its exit and its deletion. tests/pods.

use std::fs;
use std::path::{Path, PathBuf};

use crate::spec::read_own;

/// File in the bundle of a container in which a manager notes the sandbox it belongs to.
const SANDBOX: &str = "sandbox";

/// The longest id of a sandbox; what is longer is none.
const LONGEST: u64 = 1024;

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sibling {
    /// Its id: the name of its bundle.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
}

/// The containers of sandbox `id`, whose bundle is given, without the sandbox itself; by id.
pub(super) fn of(bundle: &Path, id: &str) -> Vec<Sibling> {
    let bundles = bundle.parent().and_then(|dir| fs::read_dir(dir).ok());
    let mut all: Vec<Sibling> = bundles
        .into_iter()
        .flatten()
        .flatten()
        // A link is nobody's bundle, and this kind is the entry's own.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| {
            let sibling = Sibling {
                id: entry.file_name().into_string().ok()?,
                bundle: entry.path(),
            };
            let mine = sandbox(&sibling.bundle).is_some_and(|sandbox| sandbox == id);
            (mine && sibling.id != id).then_some(sibling)
        })
        .collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// The sandbox that a bundle says it belongs to.
fn sandbox(bundle: &Path) -> Option<String> {
    let content = read_own(&bundle.join(SANDBOX), LONGEST).ok()?;
    Some(std::str::from_utf8(&content).ok()?.trim().to_owned())
}
