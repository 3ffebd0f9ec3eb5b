//! The other containers of a pod whose shim died.
//!
//! Invariant: only bundles that say themselves that they belong to this sandbox, next to its own, are
//! touched, and only when nobody listens on the pod's socket any more. Of what cannot be read it is told that it
//! is left alone.
//!
//! Managers since containerd 2.0 have one shim serve a whole pod and connect to it once more for each
//! container, without noticing the end of such a connection: when the shim dies they run `delete` for
//! the sandbox alone. The other containers run on, with no one to tell their end (contract 10.4). So the
//! sandbox's `delete` clears them away too, and tells the manager of each what the shim would have:
//! its exit and its deletion. tests/pods.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::errno::is_absent;
use crate::error::{Error, Result};
use crate::spec::own;

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

/// The containers of sandbox `id`, whose bundle is given, without the sandbox itself; by id. What cannot be read
/// goes to `warnings`.
pub(super) fn of(bundle: &Path, id: &str, warnings: &mut Vec<Error>) -> Vec<Sibling> {
    let Some(dir) = bundle.parent() else {
        return Vec::new();
    };
    let failed =
        |why: &io::Error| Error::io(format!("look for containers in {}", dir.display()), why);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(why) => {
            warnings.extend((!is_absent(&why)).then(|| failed(&why)));
            return Vec::new();
        }
    };
    let mut all = Vec::new();
    for entry in entries {
        match entry
            .map_err(|why| failed(&why))
            .and_then(|e| member(&e, id))
        {
            Ok(found) => all.extend(found),
            Err(why) => warnings.push(why),
        }
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// What lies beside the bundle of sandbox `id`, if it is a container of that.
fn member(entry: &fs::DirEntry, id: &str) -> Result<Option<Sibling>> {
    let bundle = entry.path();
    match entry.file_type() {
        Ok(kind) if kind.is_dir() => {}
        // A link is nobody's bundle, and this kind is the entry's own.
        Ok(_) => return Ok(None),
        Err(why) if is_absent(&why) => return Ok(None),
        Err(why) => return Err(Error::io(format!("look at {}", bundle.display()), &why)),
    }
    // An id is text.
    let name = entry
        .file_name()
        .into_string()
        .ok()
        .filter(|name| name != id);
    let mine = || -> Result<bool> { Ok(sandbox(&bundle)?.is_some_and(|sandbox| sandbox == id)) };
    match name {
        Some(name) if mine()? => Ok(Some(Sibling { id: name, bundle })),
        _ => Ok(None),
    }
}

/// The sandbox that a bundle says it belongs to.
fn sandbox(bundle: &Path) -> Result<Option<String>> {
    let content = own(&bundle.join(SANDBOX), LONGEST)?;
    let text = content.and_then(|content| String::from_utf8(content).ok());
    Ok(text.map(|text| text.trim().to_owned()))
}
