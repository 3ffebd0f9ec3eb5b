//! Limits of processes and threads: what is counted, whose limit it is, and word when it is reached.
//!
//! Invariant: watching wakes nobody while nothing is refused ([`super::watch`]).
//!
//! Facts of the kernel (kernel/cgroup/pids.c):
//! - `pids.events` counts refused forks where the forking task is: on v1, on v2 before Linux 6.11, and since
//!   when cgroup2 is mounted with `pids_localevents`. Else it counts at the level whose limit was
//!   reached and above, and `pids.events.local` at that level alone.
//! - On v1, Linux since 6.11 counts but notifies nobody (since "cgroup/pids: Make event counters
//!   hierarchical" it notifies a file that v1 does not have).
//! - A fork is refused at any level; moving a process into a cgroup, never.
//! - A process that has ended counts until it is waited for, and is in no list of its cgroup.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::metrics::{keyed, number};
use super::tree::{Walk, What};
use super::{Cgroup, Version, Watch, Watcher};
use crate::error::{Error, Result};
use crate::kernel_file;

/// Where a refused fork is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedAt {
    /// In the cgroup of the task that forks, whoever's limit it is.
    Forker,
    /// In the cgroup whose limit it is.
    Limit,
}

/// A cgroup as the pids controller has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pids {
    dir: PathBuf,
    /// The root of its hierarchy, which has no limit.
    top: PathBuf,
    counted_at: CountedAt,
    notified: Notified,
}

/// Whether the kernel notifies who watches the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notified {
    Always,
    Never,
    /// Of a release that cannot be understood.
    Unknown,
}

/// A cgroup and how full it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Its directory.
    pub dir: PathBuf,
    /// Processes and threads in it and below.
    pub current: u64,
    /// The most there may be.
    pub limit: Option<u64>,
}

impl Cgroup {
    /// The cgroup in the hierarchy of the pids controller.
    ///
    /// # Errors
    /// What is not there, with its path.
    pub fn pids(&self) -> Result<Pids> {
        let pids = self.pids_unread()?;
        pids.hits()?;
        Ok(pids)
    }

    /// As [`pids`](Self::pids), without a look at whether its count can be read.
    ///
    /// # Errors
    /// The controller is nowhere.
    pub fn pids_unread(&self) -> Result<Pids> {
        let place = self.place("pids")?;
        let counted_at = match place.version() {
            Version::V2 if !self.local_events && place.dir.join(LOCAL).exists() => CountedAt::Limit,
            _ => CountedAt::Forker,
        };
        Ok(Pids {
            dir: place.dir.to_owned(),
            top: place.mount_point.to_owned(),
            counted_at,
            notified: notified(place.version(), release()),
        })
    }
}

/// How much is read for an estimate, in steps of a [`Walk`]: there are five to a cgroup, and they take a few
/// milliseconds together.
const STEPS: usize = 256;

/// Since Linux 6.11, on v2.
const LOCAL: &str = "pids.events.local";

impl Pids {
    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where forks are counted that this cgroup's tasks are refused.
    pub fn counted_at(&self) -> CountedAt {
        self.counted_at
    }

    /// Whether the kernel surely notifies who watches. Else the count has to be looked at.
    pub fn is_notified(&self) -> bool {
        self.notified == Notified::Always
    }

    /// The cgroup above, if it is not the root of the hierarchy.
    pub fn parent(&self) -> Option<Self> {
        let dir = self.dir.parent().filter(|dir| *dir != self.top)?;
        dir.starts_with(&self.top).then(|| Self {
            dir: dir.to_owned(),
            ..self.clone()
        })
    }

    fn events(&self) -> PathBuf {
        // With pids_localevents both files say the same, and this one is notified since 6.11.
        let local = self.dir.join(LOCAL);
        if local.exists() {
            local
        } else {
            self.dir.join("pids.events")
        }
    }

    /// How many forks have been refused.
    ///
    /// # Errors
    /// What the system said, with the path.
    pub fn hits(&self) -> Result<u64> {
        let path = self.events();
        let text = kernel_file::text(&path);
        let text = text.map_err(|e| Error::io(format!("read {}", path.display()), &e))?;
        let max = keyed(&text).find(|(key, _)| *key == "max");
        max.map(|(_, count)| count)
            .ok_or_else(|| Error::unknown(format!("{}: there is no count in it", path.display())))
    }

    /// This cgroup and those above it, as far as they can be read.
    pub fn levels(&self) -> Vec<Level> {
        let mut levels = Vec::new();
        let mut at = Some(self.clone());
        while let Some(pids) = at {
            levels.extend(pids.level());
            at = pids.parent();
        }
        levels
    }

    /// How full it is; none when it cannot be read.
    pub fn level(&self) -> Option<Level> {
        let file = |name: &str| kernel_file::text(self.dir.join(name)).ok();
        let limit = file("pids.max")?;
        Some(Level {
            dir: self.dir.clone(),
            current: number(&file("pids.current")?, u64::MAX)?,
            limit: number(&limit, u64::MAX).filter(|limit| *limit != u64::MAX),
        })
    }

    /// Sets the limit.
    ///
    /// # Errors
    /// What the system said, with the path.
    pub fn set_limit(&self, limit: u64) -> Result<()> {
        super::manage::write(&self.dir.join("pids.max"), &limit.to_string())
    }

    /// How many processes in it and below have ended and are waited for by nobody: what is counted and not
    /// listed. Processes come and go while it is looked at: an estimate, of a moment. None also when it
    /// would take more than [`STEPS`]: it is read on the event loop, and a container makes as many cgroups
    /// as it likes.
    pub fn zombies(&self) -> Option<u64> {
        let mut walk = Walk::begin(What::Threads, &self.dir).ok()?;
        let done = (0..STEPS).any(|_| !walk.step());
        let (threads, whole) = walk.end();
        whole.ok().filter(|()| done)?;
        Some(self.level()?.current.saturating_sub(threads.len() as u64))
    }

    /// Begins to watch for refused forks; none where the kernel notifies nobody. Call it in a runtime.
    ///
    /// # Errors
    /// What the system said, with the path.
    pub fn watch(&self, watcher: &Watcher) -> Result<Option<Watch>> {
        match self.notified {
            Notified::Never => Ok(None),
            Notified::Always | Notified::Unknown => watcher.watch(&self.events()).map(Some),
        }
    }
}

/// The kernel's release, such as `6.1.0-50-cloud-amd64`; empty when it cannot be read.
fn release() -> &'static str {
    static RELEASE: LazyLock<String> =
        LazyLock::new(|| fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default());
    &RELEASE
}

fn notified(version: Version, release: &str) -> Notified {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    match (version, number().zip(number())) {
        (Version::V2, _) => Notified::Always,
        (Version::V1, Some(release)) if release < (6, 11) => Notified::Always,
        (Version::V1, Some(_)) => Notified::Never,
        (Version::V1, None) => Notified::Unknown,
    }
}

/// The level whose limit is reached, of a cgroup and those above it: the one with the least room, the lower
/// one of two. Some processes may have ended since a fork was refused.
pub fn fullest(levels: &[Level]) -> Option<&Level> {
    let room = |level: &Level| level.limit.map(|max| max.saturating_sub(level.current));
    let limited = levels.iter().filter(|level| level.limit.is_some());
    limited.min_by_key(|level| room(level))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(dir: &str, current: u64, limit: Option<u64>) -> Level {
        Level {
            dir: dir.into(),
            current,
            limit,
        }
    }

    #[test]
    fn the_level_with_the_least_room() {
        for (levels, expected) in [
            (vec![], None),
            (vec![("c", 5, None)], None),
            (vec![("c", 5, Some(5)), ("p", 9, Some(10))], Some("c")),
            (vec![("c", 5, Some(9)), ("p", 10, Some(10))], Some("p")),
            (
                vec![("c", 5, None), ("p", 9, None), ("h", 9, Some(99))],
                Some("h"),
            ),
            // Both are full: the lower one refuses first.
            (vec![("c", 5, Some(5)), ("p", 10, Some(10))], Some("c")),
            // More than the limit, as a limit that was lowered allows.
            (vec![("c", 5, Some(6)), ("p", 12, Some(10))], Some("p")),
        ] {
            let levels: Vec<Level> = levels.iter().map(|l| level(l.0, l.1, l.2)).collect();
            let found = fullest(&levels).and_then(|level| level.dir.to_str());
            assert_eq!(found, expected, "{levels:?}");
        }
    }

    #[test]
    fn who_is_notified() {
        for (version, release, expected) in [
            (Version::V2, "6.18.44-fc-v669\n", Notified::Always),
            (Version::V2, "", Notified::Always),
            (Version::V1, "6.18.44-fc-v669\n", Notified::Never),
            (Version::V1, "6.11.0", Notified::Never),
            (Version::V1, "6.11-rc1", Notified::Never),
            (Version::V1, "6.10.9", Notified::Always),
            (Version::V1, "5.14.0-570.el9.x86_64", Notified::Always),
            (Version::V1, "7.0", Notified::Never),
            (Version::V1, "6", Notified::Unknown),
            (Version::V1, "", Notified::Unknown),
        ] {
            assert_eq!(
                notified(version, release),
                expected,
                "{version:?} {release}"
            );
        }
    }

    #[test]
    fn the_cgroups_above_end_below_the_root() {
        let mut pids = Pids {
            dir: "/m/a/b/c".into(),
            top: "/m".into(),
            counted_at: CountedAt::Forker,
            notified: Notified::Always,
        };
        let mut dirs = Vec::new();
        while let Some(parent) = pids.parent() {
            dirs.push(parent.dir.clone());
            pids = parent;
        }
        assert_eq!(dirs, [PathBuf::from("/m/a/b"), PathBuf::from("/m/a")]);
        pids.dir = "/m".into();
        assert_eq!(pids.parent(), None);
    }
}
