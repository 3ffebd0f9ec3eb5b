//! Writing to cgroups: a process into one, controllers down to one.
//!
//! Invariant: files of the kernel are written, never made; a cgroup that does not exist is an
//! error and stays that way.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use nix::unistd::Pid;

use super::locate::{self, Version};
use super::mounts;
use crate::error::{Error, Result};
use crate::mount::mountinfo::Entry;

/// Moves a process into an existing cgroup: the v2 cgroup at `path`, which must be absolute and
/// clean, or on v1 every hierarchy that has one there. For option `ShimCgroup`.
///
/// On v1, an error can leave the process moved in some hierarchies.
pub fn add_process(path: &str, pid: Pid) -> Result<()> {
    let mounts = mounts::read()?;
    let version = locate::version(&mounts);
    for dir in targets(version, path, &mounts)? {
        write(&dir.join("cgroup.procs"), &pid.to_string())?;
    }
    Ok(())
}

/// Removes the cgroup at `path` from every hierarchy where it is there and has neither a process nor
/// a cgroup in it. What is no clean absolute path (systemd's `slice:prefix:name`, say) or the root is
/// left alone, as is what cannot be removed.
pub fn remove(path: &str) {
    if path == "/" || !is_clean_absolute(path) {
        return;
    }
    for entry in mounts::read().unwrap_or_default() {
        let _ = fs::remove_dir(entry.mount_point.join(path.trim_start_matches('/')));
    }
}

/// The directories a cgroup path stands for. At least one, and on v1 each exists.
pub(super) fn targets(version: Version, path: &str, mounts: &[Entry]) -> Result<Vec<PathBuf>> {
    let bad = |why| Error::invalid_argument(format!("cgroup path {path:?} {why}"));
    let below = Path::new(path.trim_start_matches('/'));
    if !below
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Err(bad("has a part that is not a name"));
    }
    let missing = || Error::not_found(format!("cgroup {path:?}"));
    match version {
        Version::V2 => {
            if !is_clean_absolute(path) {
                return Err(bad("is not absolute and clean"));
            }
            let mut v2 = mounts.iter().filter(|entry| entry.fs_type == "cgroup2");
            let entry = v2.next().ok_or_else(missing)?;
            Ok(vec![entry.mount_point.join(below)])
        }
        Version::V1 => {
            let mut seen: Vec<&str> = Vec::new();
            let mut dirs = Vec::new();
            for entry in mounts.iter().filter(|entry| entry.fs_type == "cgroup") {
                let dir = entry.mount_point.join(below);
                // One hierarchy mounted twice is one hierarchy.
                if !seen.contains(&entry.device.as_str()) && dir.is_dir() {
                    seen.push(&entry.device);
                    dirs.push(dir);
                }
            }
            if dirs.is_empty() {
                return Err(missing());
            }
            Ok(dirs)
        }
    }
}

fn is_clean_absolute(path: &str) -> bool {
    match path.strip_prefix('/') {
        Some("") => true,
        Some(rest) => rest.split('/').all(|part| !matches!(part, "" | "." | "..")),
        None => false,
    }
}

/// Enables what the root of the hierarchy has in all directories from `root` down to the parent
/// of `dir`.
pub(super) fn enable(root: &Path, dir: &Path) -> Result<()> {
    let available = read_words(&root.join("cgroup.controllers"))?;
    let mut ancestors: Vec<&Path> = dir
        .ancestors()
        .skip(1)
        .take_while(|ancestor| ancestor.starts_with(root))
        .collect();
    // A controller can only be passed on from a parent that has it.
    ancestors.reverse();
    let mut last = Ok(());
    for ancestor in ancestors {
        if let Err(why) = enable_in(ancestor, &available) {
            last = Err(why);
        }
    }
    last
}

fn enable_in(dir: &Path, wanted: &[String]) -> Result<()> {
    let file = dir.join("cgroup.subtree_control");
    let enabled = read_words(&file)?;
    let missing: Vec<String> = wanted
        .iter()
        .filter(|name| !enabled.contains(name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() || write(&file, &missing.join(" ")).is_ok() {
        return Ok(());
    }
    // The kernel takes all of a write or nothing: one controller must not keep back the others.
    let mut last = Ok(());
    for name in missing {
        if let Err(why) = write(&file, &name) {
            last = Err(why);
        }
    }
    last
}

fn read_words(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file)
        .map_err(|why| Error::io(format!("read {}", file.display()), &why))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

pub(super) fn write(file: &Path, text: &str) -> Result<()> {
    let write_once = || -> io::Result<()> {
        let mut open = OpenOptions::new().write(true).open(file)?;
        // One write is one order to the kernel.
        open.write_all(text.as_bytes())
    };
    write_once().map_err(|why| Error::io(format!("write {text:?} to {}", file.display()), &why))
}
