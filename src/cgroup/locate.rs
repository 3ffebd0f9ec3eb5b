//! From `/proc/<pid>/cgroup` and the mount table to directories. Pure.
//!
//! Invariant: a hierarchy in which the process shares its cgroup with the shim is marked so here,
//! once, and nothing outside this room can reach its directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// v1 controllers or `name=…`; empty for v2.
    pub controllers: Vec<String>,
    /// The cgroup's path in the hierarchy, as the shim's cgroup namespace shows it.
    pub path: PathBuf,
    /// Where the hierarchy is mounted.
    pub mount_point: PathBuf,
    /// The cgroup's directory, below `mount_point`.
    pub dir: PathBuf,
    /// The shim is in it or below it.
    pub shared: bool,
}

impl Place {
    /// The kind of its hierarchy, and so what its files are called.
    pub fn version(&self) -> Version {
        match self.controllers[..] {
            [] => Version::V2,
            _ => Version::V1,
        }
    }
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
) -> Result<(Version, Vec<Place>)> {
    let version = version(mounts);
    let mut places: Vec<Place> = of
        .iter()
        .filter(|member| version == Version::V1 || member.controllers.is_empty())
        .filter_map(|member| place(member, own, mounts))
        .collect();
    if places.is_empty() {
        return Err(Error::unknown(
            "no cgroup of the process is below a mounted cgroup hierarchy",
        ));
    }
    places.sort_by_key(rank);
    Ok((version, places))
}

/// Order in which v1 hierarchies are asked for processes. The unified one of a hybrid comes last:
/// not every runtime uses it.
fn rank(place: &Place) -> usize {
    const ORDER: [&str; 8] = [
        "pids", "memory", "freezer", "devices", "cpu", "cpuacct", "blkio", "cpuset",
    ];
    if place.controllers.is_empty() {
        return usize::MAX;
    }
    let rank = |name: &String| ORDER.iter().position(|known| known == name);
    let best = place.controllers.iter().filter_map(rank).min();
    best.unwrap_or(ORDER.len())
}

fn place(member: &Membership, own: &[Membership], mounts: &[Entry]) -> Option<Place> {
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
    Some(Place {
        controllers: member.controllers.clone(),
        path: member.path.clone(),
        mount_point: entry.mount_point.clone(),
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
