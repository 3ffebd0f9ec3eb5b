//! From `/proc/<pid>/cgroup` and the mount table to directories. Pure.
//!
//! Invariant: a hierarchy in which the process shares its cgroup with the shim is marked so here,
//! once, and nothing outside this room can reach its directory.
//!
//! A shim keeps this for each container: what is the same for all, the hierarchies, is there once
//! (`tests/footprint.rs`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::{Error, Result};
use crate::mount::mountinfo::Entry;

/// Where systems mount cgroups; the mount exactly here decides between v1 and v2.
const USUAL: &str = "/sys/fs/cgroup";

/// The cgroup version a system works with. A hybrid is v1 with one more hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller or set of controllers.
    V1,
    /// One hierarchy.
    V2,
}

/// The cgroup of one process in one hierarchy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// v1 controllers or `name=…`; empty for v2.
    pub controllers: &'a [String],
    /// The cgroup's path in the hierarchy, as the shim's cgroup namespace shows it.
    pub path: &'a Path,
    /// Where the hierarchy is mounted.
    pub mount_point: &'a Path,
    /// The cgroup's directory, below `mount_point`.
    pub dir: &'a Path,
    /// The shim is in it or below it.
    pub shared: bool,
}

impl Place<'_> {
    /// The kind of its hierarchy, and so what its files are called.
    pub fn version(&self) -> Version {
        match self.controllers[..] {
            [] => Version::V2,
            _ => Version::V1,
        }
    }
}

/// The cgroup of one process in every hierarchy, the most telling hierarchy first; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    known: Arc<Known>,
    /// By hierarchy.
    spots: Box<[Spot]>,
    /// What the spots are parts of.
    text: Box<[u8]>,
}

/// What the cgroups of most processes have in common.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    hierarchies: Vec<Hierarchy>,
    /// The controllers that v1's hierarchies have, mounted where the shim sees them or not.
    on_v1: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    controllers: Vec<String>,
    mount_point: PathBuf,
}

/// The part of a place that is not its hierarchy's: where its path and its directory begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    path: (u32, u32),
    dir: (u32, u32),
    shared: bool,
}

/// What was found last, while somebody has it.
static LAST: Mutex<Weak<Known>> = Mutex::new(Weak::new());

impl Known {
    /// The same that another has already, if it was the last.
    fn kept(self, last: &Mutex<Weak<Self>>) -> Arc<Self> {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.upgrade().filter(|last| **last == self) {
            return last;
        }
        let new = Arc::new(self);
        *last = Arc::downgrade(&new);
        new
    }
}

impl Places {
    fn of(found: Vec<Found>, on_v1: Vec<String>) -> Self {
        let (mut spots, mut text) = (Vec::with_capacity(found.len()), Vec::new());
        let mut hierarchies = Vec::with_capacity(found.len());
        // The directories first: most paths are their ends.
        let dirs: Vec<_> = found.iter().map(|one| put(&mut text, &one.dir)).collect();
        for (one, dir) in found.into_iter().zip(dirs) {
            spots.push(Spot {
                path: put(&mut text, &one.member.path),
                dir,
                shared: one.shared,
            });
            hierarchies.push(Hierarchy {
                controllers: one.member.controllers.clone(),
                mount_point: one.entry.mount_point.clone(),
            });
        }
        let known = Known { hierarchies, on_v1 };
        Self {
            known: known.kept(&LAST),
            spots: spots.into(),
            text: text.into(),
        }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Place<'_>> {
        let part = |(begin, end): (u32, u32)| {
            let part = self.text.get(begin as usize..end as usize);
            Path::new(OsStr::from_bytes(part.unwrap_or_default()))
        };
        let both = self.known.hierarchies.iter().zip(&self.spots);
        both.map(move |(hierarchy, spot)| Place {
            controllers: &hierarchy.controllers,
            path: part(spot.path),
            mount_point: &hierarchy.mount_point,
            dir: part(spot.dir),
            shared: spot.shared,
        })
    }

    /// The most telling.
    pub fn first(&self) -> Option<Place<'_>> {
        self.iter().next()
    }

    /// The controllers that v1's hierarchies have, mounted where the shim sees them or not: cgroup v2
    /// has none of these.
    pub fn on_v1(&self) -> &[String] {
        &self.known.on_v1
    }
}

/// Where a path is in a text, in which it is put if it is not there.
fn put(text: &mut Vec<u8>, path: &Path) -> (u32, u32) {
    let path = path.as_os_str().as_bytes();
    let there = text
        .windows(path.len().max(1))
        .position(|part| part == path);
    let begin = there.unwrap_or_else(|| {
        text.extend_from_slice(path);
        text.len() - path.len()
    });
    // A text of more than 4 GB would be of more hierarchies than any kernel has.
    let number = |at| u32::try_from(at).unwrap_or(u32::MAX);
    (number(begin), number(begin + path.len()))
}

/// A place that was found.
struct Found<'a> {
    member: &'a Membership,
    entry: &'a Entry,
    dir: PathBuf,
    shared: bool,
}

/// One line of `/proc/<pid>/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub controllers: Vec<String>,
    pub path: PathBuf,
}

/// Reads `/proc/<pid>/cgroup` (cgroups(7)); lines that are none are skipped.
pub(super) fn memberships(text: &[u8]) -> Vec<Membership> {
    let line = |line: &[u8]| {
        let mut fields = line.splitn(3, |&b| b == b':');
        let _id: u32 = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let controllers = std::str::from_utf8(fields.next()?).ok()?;
        let path = fields.next().filter(|path| path.starts_with(b"/"))?;
        Some(Membership {
            controllers: words(controllers),
            path: PathBuf::from(OsStr::from_bytes(path)),
        })
    };
    text.split(|&b| b == b'\n').filter_map(line).collect()
}

/// The version in use: v2 if that is what is mounted where cgroups usually are, or if there is
/// nothing else.
pub(super) fn version(mounts: &[Entry]) -> Version {
    let usual = mounts
        .iter()
        .rfind(|entry| entry.mount_point == Path::new(USUAL));
    let v2 = match usual {
        Some(entry) => entry.fs_type == "cgroup2",
        None => !mounts.is_empty() && mounts.iter().all(|entry| entry.fs_type == "cgroup2"),
    };
    if v2 { Version::V2 } else { Version::V1 }
}

/// Whether refused forks are counted where they were tried also since Linux 6.11 (cgroups(7), mount
/// options of cgroup2).
pub(super) fn has_local_pids_events(mounts: &[Entry]) -> bool {
    let mut v2 = mounts.iter().filter(|entry| entry.fs_type == "cgroup2");
    v2.any(|entry| words(&entry.super_options).contains(&"pids_localevents".to_owned()))
}

/// The directories of a process's cgroup, the most telling hierarchy first. `own` is what the
/// shim is a member of.
pub(super) fn places(
    of: &[Membership],
    own: &[Membership],
    mounts: &[Entry],
) -> Result<(Version, Places)> {
    let version = version(mounts);
    let mut found: Vec<Found> = of
        .iter()
        .filter(|member| version == Version::V1 || member.controllers.is_empty())
        .filter_map(|member| place(member, own, mounts))
        .collect();
    if found.is_empty() {
        return Err(Error::unknown(
            "no cgroup of the process is below a mounted cgroup hierarchy",
        ));
    }
    found.sort_by_key(|found| rank(&found.member.controllers));
    let on_v1 = of.iter().flat_map(|one| one.controllers.iter().cloned());
    Ok((version, Places::of(found, on_v1.collect())))
}

/// Order in which v1 hierarchies are asked for processes. The unified one of a hybrid comes last:
/// not every runtime uses it.
fn rank(controllers: &[String]) -> usize {
    const ORDER: [&str; 8] = [
        "pids", "memory", "freezer", "devices", "cpu", "cpuacct", "blkio", "cpuset",
    ];
    if controllers.is_empty() {
        return usize::MAX;
    }
    let rank = |name: &String| ORDER.iter().position(|known| known == name);
    let best = controllers.iter().filter_map(rank).min();
    best.unwrap_or(ORDER.len())
}

fn place<'a>(member: &'a Membership, own: &[Membership], mounts: &'a [Entry]) -> Option<Found<'a>> {
    let candidates = || {
        mounts
            .iter()
            .filter(|entry| same_hierarchy(entry, &member.controllers))
            .filter_map(|entry| Some((entry, visible(&member.path, &entry.root)?)))
    };
    // The same hierarchy can be mounted again elsewhere, as in a container's root file system.
    let (entry, below) = candidates()
        .find(|(entry, _)| entry.mount_point.starts_with(USUAL))
        .or_else(|| candidates().next())?;
    let shared = own
        .iter()
        .find(|own| own.controllers == member.controllers)
        .is_none_or(|own| is_or_contains(&member.path, &own.path));
    Some(Found {
        member,
        entry,
        dir: entry.mount_point.join(below),
        shared,
    })
}

fn same_hierarchy(entry: &Entry, controllers: &[String]) -> bool {
    if controllers.is_empty() {
        return entry.fs_type == "cgroup2";
    }
    let mounted = words(&entry.super_options);
    entry.fs_type == "cgroup" && controllers.iter().all(|name| mounted.contains(name))
}

/// A cgroup path relative to a mount's root, if it is visible there.
fn visible<'a>(path: &'a Path, root: &Path) -> Option<&'a Path> {
    let below = path.strip_prefix(root).ok()?;
    // A cgroup outside the shim's cgroup namespace reads "/../…".
    let climbs = below.components().any(|part| part == Component::ParentDir);
    (!climbs).then_some(below)
}

/// Whether a cgroup is another's or one of its ancestors. Only ancestors of the namespace's root
/// read "/..", "/../.." and so on.
fn is_or_contains(path: &Path, own: &Path) -> bool {
    let mut parts = path.components().skip(1).peekable();
    let above = parts.peek().is_some() && parts.all(|part| part == Component::ParentDir);
    above || own.starts_with(path)
}

fn words(list: &str) -> Vec<String> {
    list.split(',')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_equal_is_there_once_while_somebody_has_it() {
        let known = |point: &str| Known {
            hierarchies: vec![Hierarchy {
                controllers: vec!["pids".into()],
                mount_point: point.into(),
            }],
            on_v1: vec!["pids".into()],
        };
        let last = Mutex::new(Weak::new());
        let first = known("/p").kept(&last);
        assert!(Arc::ptr_eq(&first, &known("/p").kept(&last)));
        // Mounted elsewhere since.
        let moved = known("/q").kept(&last);
        assert_eq!(*moved, known("/q"));
        assert!(Arc::ptr_eq(&moved, &known("/q").kept(&last)));
        drop(moved);
        assert!(last.lock().unwrap().upgrade().is_none());
    }

    #[test]
    fn what_is_put_is_found_again() {
        let mut text = Vec::new();
        for path in ["/sys/fs/cgroup/pids/a/b", "/a/b", "/a/b/c", "/", ""] {
            let (begin, end) = put(&mut text, Path::new(path));
            assert_eq!(&text[begin as usize..end as usize], path.as_bytes());
        }
        // Only what is no part of another takes room.
        assert_eq!(text, b"/sys/fs/cgroup/pids/a/b/a/b/c");
    }
}
