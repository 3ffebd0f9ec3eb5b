//! What a fault has left when it was ended, or has ended badly: found by the names that its process
//! made, and cleared away.
//!
//! Invariant: only what is marked with the pid of that process is touched.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::census::{MARK, Owner, entries};
use crate::common::peek;

/// Clears away what the fault left that ran in process `pid`.
pub fn after(pid: u32) {
    let dirs = entries(&std::env::temp_dir());
    let dirs: Vec<PathBuf> = dirs.into_iter().filter(|dir| made_by(pid, dir)).collect();
    for namespace in namespaces(pid) {
        // Everything is below the directory of its scene or its containerd, whichever that is.
        let owners = dirs.iter().map(|dir| Owner {
            namespace: namespace.clone(),
            dir: dir.clone(),
            address: dir.join("grpc.sock"),
        });
        for owner in owners {
            let ids: Vec<String> = entries(&owner.dir).iter().map(|path| name(path)).collect();
            owner.clear(&ids);
        }
    }
    for dir in dirs {
        let _ = fs::remove_dir_all(dir);
    }
}

/// The namespaces that process has made and that are still in use: by processes, or by cgroups.
fn namespaces(pid: u32) -> BTreeSet<String> {
    let mark = format!("{MARK}=");
    let marked = peek::all().into_iter().filter_map(|seen| {
        let mut marks = seen.environ.iter().filter_map(|w| w.strip_prefix(&mark));
        marks.next().map(str::to_owned)
    });
    let roots = entries(Path::new("/sys/fs/cgroup"));
    let groups = roots
        .iter()
        .flat_map(|root| entries(root))
        .chain(roots.clone());
    let names = groups.map(|dir| name(&dir));
    marked
        .chain(names)
        .filter(|name| made_by(pid, Path::new(name)))
        .collect()
}

/// Whether a name is of the form `PREFIX-PID-NUMBER`.
fn made_by(pid: u32, path: &Path) -> bool {
    let name = name(path);
    let mut parts = name.rsplit('-');
    let number = parts.next().is_some_and(|n| n.parse::<u32>().is_ok());
    number && parts.next() == Some(pid.to_string().as_str()) && parts.next().is_some()
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
