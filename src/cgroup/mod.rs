//! Where a container's cgroup is, and which processes are in it, without asking the runtime.
//!
//! Invariant: a cgroup the shim itself is in, or below, is never listed and its directory never
//! given out, so that nobody counts or kills the host by way of a container that runs in a cgroup
//! of the host. Pinned by `tests/cgroup.rs`.

mod freezer;
pub(crate) mod fuzzing;
pub mod kernel_log;
mod locate;
mod manage;
mod metrics;
mod oom;
mod pids;
#[cfg(test)]
mod tests;
mod watch;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::mount::mountinfo;
use locate::Place;
pub use locate::Version;
pub use manage::{add_process, remove};
pub use metrics::{Metrics, host_pressure};
pub use oom::{Hit, OomWatch, Scope};
pub use pids::{CountedAt, Level, Pids, fullest};
pub use watch::{Watch, Watcher};

/// The cgroup a process was in when it was looked at, in every hierarchy.
///
/// A cgroup that is removed later is an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    version: Version,
    /// Most telling hierarchy first, never empty.
    places: Vec<Place>,
    /// The controllers that v1's hierarchies have, mounted where the shim sees them or not: cgroup v2
    /// has none of these.
    on_v1: Vec<String>,
    /// cgroup2 is mounted with `pids_localevents`.
    local_events: bool,
}

impl Cgroup {
    /// Finds the cgroup of a process. It is not followed when the process moves.
    pub fn of_pid(pid: Pid) -> Result<Self> {
        let of = read_proc(&format!("/proc/{pid}/cgroup"))?;
        let own = read_proc("/proc/self/cgroup")?;
        let mounts = mountinfo::read(|entry| locate::is_cgroup(&entry).then_some(entry))
            .map_err(|why| Error::io("read /proc/self/mountinfo", &why))?;
        Self::new(&of, &own, &mounts).map_err(|why| why.context(format!("cgroup of pid {pid}")))
    }

    /// The pure half of [`Cgroup::of_pid`]: the texts of `/proc/<pid>/cgroup`, of
    /// `/proc/self/cgroup` and of `/proc/self/mountinfo`.
    pub fn from_text(of: &[u8], own: &[u8], mountinfo: &[u8]) -> Result<Self> {
        Self::new(of, own, &locate::cgroup_mounts(mountinfo))
    }

    fn new(of: &[u8], own: &[u8], mounts: &[mountinfo::Entry]) -> Result<Self> {
        let of = locate::memberships(of);
        let (version, places) = locate::places(&of, &locate::memberships(own), mounts)?;
        Ok(Self {
            version,
            places,
            on_v1: of.into_iter().flat_map(|one| one.controllers).collect(),
            local_events: locate::has_local_pids_events(mounts),
        })
    }

    /// What the system works with; a hybrid is v1.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The directory that has a controller's files: on v2 always the one directory, whether or not
    /// the controller is enabled there. None when there is no such hierarchy, or when the cgroup
    /// in it is shared with the shim. On a hybrid, v1's: see [`place`](Self::place).
    pub fn dir(&self, controller: &str) -> Option<&Path> {
        let place = self.find(controller).filter(|place| !place.shared)?;
        Some(&place.dir)
    }

    /// Which kind of hierarchy has a controller, or would have it.
    pub fn version_of(&self, controller: &str) -> Version {
        let on_v1 = self.on_v1.iter().any(|name| name == controller);
        let v2 = || {
            self.places
                .iter()
                .any(|place| place.version() == Version::V2)
        };
        match self.version {
            Version::V1 if on_v1 || !v2() => Version::V1,
            _ => Version::V2,
        }
    }

    /// Where a controller has its files, also if it is one that a hybrid has on v2. Whether it is enabled
    /// there, its files tell.
    ///
    /// # Errors
    /// Why there is no such place, or none that is the container's.
    fn place(&self, controller: &str) -> Result<&Place> {
        let missing = |why: String| {
            let what = format!("a cgroup of its own with the {controller} controller");
            Error::not_found(format!("{what}: {why}"))
        };
        let unified = || {
            let v2 = |place: &&Place| place.version() == Version::V2;
            let found = self.places.iter().find(v2);
            found.filter(|_| self.version_of(controller) == Version::V2)
        };
        let place = self.find(controller).or_else(unified);
        let place = place.ok_or_else(|| missing("no hierarchy of it is mounted".into()))?;
        match place.shared {
            true => Err(missing(format!("the shim is in {}", place.dir.display()))),
            false => Ok(place),
        }
    }

    fn find(&self, controller: &str) -> Option<&Place> {
        self.places
            .iter()
            .find(|place| self.version == Version::V2 || has(place, controller))
    }

    /// Whether the shim is in this cgroup or below it, in every hierarchy: then nothing here says
    /// what belongs to the container.
    pub fn is_shared_with_us(&self) -> bool {
        self.places.iter().all(|place| place.shared)
    }

    /// As [`is_shared_with_us`](Self::is_shared_with_us), as an error.
    ///
    /// # Errors
    /// A failed precondition, with the path.
    pub fn is_its_own(&self) -> Result<()> {
        let dir = self.places.first().map(|place| place.dir.display());
        match dir.filter(|_| self.is_shared_with_us()) {
            Some(dir) => Err(Error::failed_precondition(format!(
                "the container's cgroup is also the shim's: {dir}"
            ))),
            None => Ok(()),
        }
    }

    /// All processes in the cgroup and below it, in ascending order. A cgroup that is gone has
    /// none; one that is shared with the shim is a failed precondition.
    pub fn procs(&self) -> Result<Vec<Pid>> {
        self.is_its_own()?;
        let mut own = self.places.iter().filter(|place| !place.shared);
        match own.find(|place| place.dir.is_dir()) {
            Some(place) => procs_below(&place.dir),
            None => Ok(Vec::new()),
        }
    }

    /// On v2, makes every controller available to the cgroup: writes them to
    /// `cgroup.subtree_control` of all its ancestors. Nothing on v1.
    ///
    /// All ancestors are tried; of the errors the last one is returned. It is worth a log line and
    /// not more: the runtime has set up what the container asked for.
    pub fn enable_controllers(&self) -> Result<()> {
        match (self.version, self.places.first()) {
            (Version::V2, Some(place)) => manage::enable(&place.mount_point, &place.dir),
            _ => Ok(()),
        }
    }
}

fn has(place: &Place, controller: &str) -> bool {
    place.controllers.iter().any(|name| name == controller)
}

fn procs_below(top: &Path) -> Result<Vec<Pid>> {
    let mut pids = Vec::new();
    below(top, |dir| {
        let file = dir.join("cgroup.procs");
        match fs::read_to_string(&file) {
            // v2 lists a process of another pid namespace as 0.
            Ok(list) => pids.extend(
                list.lines()
                    .filter_map(|line| line.parse().ok())
                    .filter(|&pid| pid > 0)
                    .map(Pid::from_raw),
            ),
            Err(why) if is_gone(&why) => return Ok(false),
            // A threaded cgroup: its processes are listed by the threaded domain above it.
            Err(why) if why.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(why) => return Err(Error::io(format!("read {}", file.display()), &why)),
        }
        Ok(true)
    })?;
    // A process that moves while the tree is read can be seen twice; v1 promises no order either.
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Visits a cgroup and those below it; `visit` answers whether there is anything below.
fn below<E>(top: &Path, mut visit: impl FnMut(&Path) -> Result<bool, E>) -> Result<(), E> {
    let mut todo: Vec<PathBuf> = vec![top.to_owned()];
    while let Some(dir) = todo.pop() {
        if !visit(&dir)? {
            continue;
        }
        let Ok(children) = fs::read_dir(&dir) else {
            continue;
        };
        todo.extend(
            children
                .flatten()
                .filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|child| child.path()),
        );
    }
    Ok(())
}

/// A cgroup removed before the open is ENOENT, after it ENODEV.
fn is_gone(why: &io::Error) -> bool {
    matches!(why.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn read_proc(path: &str) -> Result<Vec<u8>> {
    fs::read(path).map_err(|why| {
        // ESRCH: the process was reaped between open and read.
        if why.raw_os_error() == Some(libc::ESRCH) {
            Error::not_found(format!("read {path}: no such process"))
        } else {
            Error::io(format!("read {path}"), &why)
        }
    })
}
