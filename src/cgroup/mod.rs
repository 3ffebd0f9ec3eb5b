//! Where a container's cgroup is, and which processes are in it, without asking the runtime.
//!
//! Invariant: a cgroup the shim itself is in, or below, is never listed and its directory never
//! given out, so that nobody counts or kills the host by way of a container that runs in a cgroup
//! of the host. A cgroup that is gone, hidden by another mount, threaded or unreadable is never one
//! without processes: it is an error, or its processes are found where the kernel lists them. Pinned by
//! `tests/cgroup.rs` and `tests/resources/members.rs`.
//!
//! A tree of cgroups and the mount table are as long as others make them: who reads them on the event loop
//! does so in slices ([`Cgroup::listed`], [`Cgroup::locate`]).

mod freezer;
pub(crate) mod fuzzing;
pub mod kernel_log;
mod locate;
mod manage;
mod metrics;
mod mounts;
mod oom;
mod pids;
#[cfg(test)]
mod tests;
mod tree;
mod watch;

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::error::{Code, Error, Result};
use crate::mount::mountinfo::Entry;
use crate::slices::Slices;
pub use locate::Version;
use locate::{Place, Places};
pub use manage::{add_process, remove};
pub use metrics::{Metrics, host_pressure};
pub use oom::{Hit, OomWatch, Scope};
pub use pids::{CountedAt, Level, Pids, fullest};
use tree::{Walk, What};
pub use watch::{Watch, Watcher};

/// The cgroup a process was in when it was looked at, in every hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    version: Version,
    /// Most telling hierarchy first, never empty.
    places: Places,
    /// cgroup2 is mounted with `pids_localevents`.
    local_events: bool,
}

/// One directory of a cgroup.
#[derive(Clone, Copy, Debug)]
pub struct Joined<'a> {
    /// v1 controllers or `name=…`; empty for v2.
    pub controllers: &'a [String],
    /// Where its hierarchy is mounted.
    pub mount_point: &'a Path,
    /// The directory.
    pub dir: &'a Path,
}

impl Cgroup {
    /// Finds the cgroup of a process. It is not followed when the process moves.
    ///
    /// Reads all of the mount table: not for the event loop ([`locate`](Self::locate)).
    ///
    /// # Errors
    /// `NotFound` when the process is gone; else what could not be read, or that it is below no hierarchy
    /// that can be seen.
    pub fn of_pid(pid: Pid) -> Result<Self> {
        let seen = Seen::look(pid)?;
        seen.among(&mounts::read()?)
    }

    /// As [`of_pid`](Self::of_pid), on the event loop: the process is looked at at once, the mount table in
    /// slices.
    ///
    /// # Errors
    /// As [`of_pid`](Self::of_pid).
    pub async fn locate(pid: Pid) -> Result<Self> {
        let seen = Seen::look(pid)?;
        seen.among(&mounts::read_in_slices().await?)
    }

    /// The pure half of [`Cgroup::of_pid`]: the texts of `/proc/<pid>/cgroup`, of
    /// `/proc/self/cgroup` and of `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// It is below no hierarchy that can be seen.
    pub fn from_text(of: &[u8], own: &[u8], mountinfo: &[u8]) -> Result<Self> {
        Self::new(of, own, &mounts::visible(mountinfo))
    }

    fn new(of: &[u8], own: &[u8], mounts: &[Entry]) -> Result<Self> {
        let of = locate::memberships(of);
        let (version, places) = locate::places(&of, &locate::memberships(own), mounts)?;
        Ok(Self {
            version,
            places,
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
        Some(place.dir)
    }

    /// Which kind of hierarchy has a controller, or would have it.
    pub fn version_of(&self, controller: &str) -> Version {
        let on_v1 = self.places.on_v1().iter().any(|name| name == controller);
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
    fn place(&self, controller: &str) -> Result<Place<'_>> {
        let missing = |why: String| {
            let what = format!("a cgroup of its own with the {controller} controller");
            Error::not_found(format!("{what}: {why}"))
        };
        let unified = || {
            let v2 = |place: &Place| place.version() == Version::V2;
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

    fn find(&self, controller: &str) -> Option<Place<'_>> {
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

    /// What a further process has to be moved to, to be where this one is, if the shim makes it: all that is
    /// not the shim's own. `own` is the shim's `/proc/self/cgroup`. None if that is not to be told.
    pub fn joined(&self, own: &[u8]) -> Option<Vec<Joined<'_>>> {
        let own = locate::memberships(own);
        let is_own = |place: &Place<'_>| {
            let mut same = own
                .iter()
                .filter(|own| own.controllers == place.controllers);
            same.any(|own| own.path == place.path)
        };
        let mut all = Vec::new();
        for place in self.places.iter().filter(|place| !is_own(place)) {
            if place.shared {
                return None;
            }
            all.push(Joined {
                controllers: place.controllers,
                mount_point: place.mount_point,
                dir: place.dir,
            });
        }
        Some(all)
    }

    /// Whether a process is in the cgroup or below it, where that is not the shim's too. One that is gone is in
    /// none.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub fn holds(&self, pid: Pid) -> Result<bool> {
        self.holds_by(read_proc(&format!("/proc/{pid}/cgroup")))
    }

    /// As [`holds`](Self::holds), by what `/proc/<pid>/cgroup` says.
    fn holds_by(&self, of: Result<Vec<u8>>) -> Result<bool> {
        let of = match of {
            Err(why) if why.code == Code::NotFound => return Ok(false),
            of => of?,
        };
        let of = locate::memberships(&of);
        let mut own = self.places.iter().filter(|place| !place.shared);
        Ok(own.any(|place| {
            let mut same = of.iter().filter(|m| m.controllers == place.controllers);
            same.any(|member| member.path.starts_with(place.path))
        }))
    }

    /// All processes in the cgroup and below it, in ascending order.
    ///
    /// As long as the tree is: not for the event loop ([`listed`](Self::listed)).
    ///
    /// # Errors
    /// `NotFound` when there is no such cgroup any more, a failed precondition when it is shared with the
    /// shim; else what could not be read.
    pub fn procs(&self) -> Result<Vec<Pid>> {
        let Listed { pids, whole } = self.procs_until(|| false)?;
        whole.map(|()| pids)
    }

    /// As [`procs`](Self::procs), and what was found where not all could be read, or when it was `over`.
    ///
    /// # Errors
    /// As [`procs`](Self::procs), when nothing was read.
    pub fn procs_until(&self, over: impl Fn() -> bool) -> Result<Listed> {
        let mut walk = self.walk()?;
        while walk.step() {
            if over() {
                return Ok(Listed::cut_off(walk));
            }
        }
        Ok(Listed::of(walk))
    }

    /// As [`procs_until`](Self::procs_until), on the event loop: in slices, and no longer than `limit`.
    ///
    /// # Errors
    /// As [`procs_until`](Self::procs_until).
    pub async fn listed(&self, limit: Duration) -> Result<Listed> {
        let (mut slices, begun) = (Slices::begin(), Instant::now());
        let mut walk = self.walk()?;
        while walk.step() {
            slices.pause().await;
            if begun.elapsed() >= limit {
                return Ok(Listed::cut_off(walk));
            }
        }
        Ok(Listed::of(walk))
    }

    /// Of several hierarchies the first in which the cgroup is still there.
    fn walk(&self) -> Result<Walk> {
        self.is_its_own()?;
        let mut gone = None;
        for place in self.places.iter().filter(|place| !place.shared) {
            match Walk::begin(What::Processes, place.dir) {
                Ok(walk) => return Ok(walk),
                Err(why) if is_gone(&why) => gone = gone.or(Some(place.dir)),
                Err(why) => return Err(Error::io(format!("read {}", place.dir.display()), &why)),
            }
        }
        let dir = gone.map_or(Path::new(""), |dir| dir);
        Err(Error::not_found(format!(
            "cgroup {}: it is not there any more",
            dir.display()
        )))
    }

    /// On v2, makes every controller available to the cgroup: writes them to
    /// `cgroup.subtree_control` of all its ancestors. Nothing on v1.
    ///
    /// All ancestors are tried; of the errors the last one is returned. It is worth a log line and
    /// not more: the runtime has set up what the container asked for.
    pub fn enable_controllers(&self) -> Result<()> {
        match (self.version, self.places.first()) {
            (Version::V2, Some(place)) => manage::enable(place.mount_point, place.dir),
            _ => Ok(()),
        }
    }
}

fn has(place: &Place, controller: &str) -> bool {
    place.controllers.iter().any(|name| name == controller)
}

/// The processes of a cgroup, as far as they could be read.
#[derive(Clone, Debug)]
pub struct Listed {
    /// In ascending order.
    pub pids: Vec<Pid>,
    /// Why they may not be all.
    pub whole: Result<()>,
}

impl Listed {
    fn of(walk: Walk) -> Self {
        let (pids, whole) = walk.end();
        let pids = pids.into_iter().map(Pid::from_raw).collect();
        Self { pids, whole }
    }

    fn cut_off(walk: Walk) -> Self {
        let top = walk.top().display().to_string();
        let why = format!("read {top}: its cgroups are too many for the time");
        let listed = Self::of(walk);
        let whole = listed.whole.and(Err(Error::deadline_exceeded(why)));
        Self { whole, ..listed }
    }
}

/// What a process and the shim are members of.
struct Seen {
    pid: Pid,
    of: Vec<u8>,
    own: Vec<u8>,
}

impl Seen {
    fn look(pid: Pid) -> Result<Self> {
        Ok(Self {
            pid,
            of: read_proc(&format!("/proc/{pid}/cgroup"))?,
            own: read_proc("/proc/self/cgroup")?,
        })
    }

    fn among(&self, mounts: &[Entry]) -> Result<Cgroup> {
        let found = Cgroup::new(&self.of, &self.own, mounts);
        found.map_err(|why| why.context(format!("cgroup of pid {}", self.pid)))
    }
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
