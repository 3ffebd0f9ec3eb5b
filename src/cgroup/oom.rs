//! What the kernel tells of processes that it killed for want of memory.
//!
//! Invariant: counting costs one short read. Watching wakes nobody while nothing happens; it costs a
//! descriptor on v1, and on v2 what [`super::watch`] says. One eventfd could serve any number of v1's
//! cgroups, but it would not say whose memory is short, and all of them would have to be looked at
//! until the kernel has killed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::metrics::keyed;
use super::{Cgroup, Version, Watch, Watcher};
use crate::error::{Error, Result};
use crate::kernel_file;

/// Becomes ready when the kernel may have killed somebody.
#[derive(Debug)]
pub struct OomWatch {
    kind: Kind,
    /// How often the kernel has said that memory is short.
    words: u64,
}

/// What the kernel says of a shortage of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Processes killed so far.
    pub kills: u64,
    /// Processes wait for memory, and none will be killed for it: v1 with its OOM killer switched off.
    pub held: bool,
    /// How often it could not be had; v1 does not count.
    pub count: Option<u64>,
}

#[derive(Debug)]
enum Kind {
    /// v1: an eventfd, which the kernel writes to when memory is short, and before it kills.
    Shortage(AsyncFd<OwnedFd>),
    /// v2: the file that the count is in.
    Count(Watch),
}

impl Cgroup {
    /// How many processes of the cgroup the kernel has killed for want of memory, of whatever limit, the
    /// cgroup's own or one above it. It counts before it kills.
    ///
    /// # Errors
    /// The file that does not tell, and why.
    pub fn oom_kills(&self) -> Result<u64> {
        Ok(self.shortage()?.kills)
    }

    /// What the kernel says of the cgroup's want of memory.
    ///
    /// # Errors
    /// The file that does not tell, and why.
    pub fn shortage(&self) -> Result<Shortage> {
        let path = self.oom_file()?;
        let shown = path.display();
        let text = kernel_file::text(&path).map_err(|e| Error::io(format!("read {shown}"), &e))?;
        shortage_of(&text)
            .ok_or_else(|| Error::unknown(format!("read {shown}: no count of oom_kill")))
    }

    /// The most memory it may have, in bytes, if that can be known.
    pub fn memory_limit(&self) -> Option<u64> {
        let text = kernel_file::text(self.place("memory").ok()?.dir.join(self.limit_file()));
        text.ok()?.trim().parse().ok()
    }

    fn limit_file(&self) -> &'static str {
        match self.version_of("memory") {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        }
    }

    /// The path of the memory cgroup in its hierarchy, as the shim's cgroup namespace shows it.
    pub fn memory_path(&self) -> Option<&Path> {
        Some(self.place("memory").ok()?.path)
    }

    /// How often the limit of each cgroup was hit: the container's first, then those above it. None
    /// where it cannot be known, as where there is no limit to hit.
    pub fn hits(&self) -> Vec<Option<u64>> {
        let version = self.version_of("memory");
        self.levels().map(|dir| hits_in(dir, version)).collect()
    }

    fn levels(&self) -> impl Iterator<Item = &Path> {
        let place = self.place("memory");
        place.into_iter().flat_map(|place| {
            let below = move |dir: &&Path| *dir != place.mount_point;
            place.dir.ancestors().take_while(below)
        })
    }

    /// Whose limit was hit between two looks at the [`hits`](Self::hits).
    pub fn hit(&self, before: &[Option<u64>], now: &[Option<u64>]) -> Hit {
        let (level, above) = whose(before, now);
        let dir = above.and_then(|above| self.levels().nth(above));
        let file = self.limit_file();
        let limit = dir.and_then(|dir| kernel_file::text(dir.join(file)).ok());
        let path = || {
            let own = self.memory_path()?;
            Some(own.ancestors().nth(above?)?.to_owned())
        };
        Hit {
            level,
            path: path(),
            limit: limit.and_then(|text| text.trim().parse().ok()),
        }
    }

    /// Has the kernel kill all of the cgroup when it kills one of it for want of memory. Only v2 can.
    ///
    /// # Errors
    /// `InvalidArgument` on v1; the file that could not be written.
    pub fn set_oom_group(&self) -> Result<()> {
        if self.version_of("memory") == Version::V1 {
            return Err(Error::invalid_argument(
                "on cgroup v1 there is no memory.oom.group",
            ));
        }
        let path = self.place("memory")?.dir.join("memory.oom.group");
        let write = || OpenOptions::new().write(true).open(&path)?.write_all(b"1");
        write().map_err(|e| Error::io(format!("write {}", path.display()), &e))
    }

    fn oom_file(&self) -> Result<PathBuf> {
        let place = self.place("memory")?;
        let name = match place.version() {
            // The count is there since Linux 4.13.
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        Ok(place.dir.join(name))
    }

    /// Begins to watch; none when the memory controller is not there. Call it in a runtime.
    ///
    /// # Errors
    /// What the system said, with the path.
    pub fn watch_oom(&self, watcher: &Watcher) -> Result<Option<OomWatch>> {
        let Some(path) = self.oom_file().ok().filter(|path| path.exists()) else {
            return Ok(None);
        };
        let kind = match self.version_of("memory") {
            Version::V1 => shortage(&path)
                .map(Kind::Shortage)
                .map_err(|e| Error::io(format!("watch {}", path.display()), &e))?,
            Version::V2 => Kind::Count(watcher.watch(&path)?),
        };
        Ok(Some(OomWatch { kind, words: 0 }))
    }
}

fn hits_in(dir: &Path, version: Version) -> Option<u64> {
    let read = |file: &str| kernel_file::text(dir.join(file)).ok();
    match version {
        // Counts what could not be had at once; most of that could be after some reclaim.
        Version::V1 => read("memory.failcnt")?.trim().parse().ok(),
        // Since Linux 5.2.
        Version::V2 => value(&read("memory.events.local")?, "oom"),
    }
}

fn shortage(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let file = File::open(path)?;
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let control = path.with_file_name("cgroup.event_control");
    let mut control = OpenOptions::new().write(true).open(control)?;
    // In one write; the kernel keeps what it needs of both.
    let request = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
    control.write_all(request.as_bytes())?;
    // SAFETY: an OwnedFd stays open, and nothing takes it out of the AsyncFd.
    let fd = unsafe { AsyncFd::register_with_interest(event.into(), Interest::READABLE) };
    Ok(fd?)
}

/// Where the limit is that was hit, from the container's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nobody knows.
    Unknown,
    /// The container's own.
    Own,
    /// A cgroup above it, its pod for one.
    Above,
    /// A cgroup which the container made.
    Inside,
    /// The machine has no memory left.
    Host,
}

/// A limit that was hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Whose it is.
    pub level: Scope,
    /// The cgroup's path.
    pub path: Option<PathBuf>,
    /// The limit in bytes.
    pub limit: Option<u64>,
}

/// Which level's count went up, as an index too. Where several did, nobody can say which of them the
/// kill was for.
fn whose(before: &[Option<u64>], now: &[Option<u64>]) -> (Scope, Option<usize>) {
    let known = |pair: (&Option<u64>, &Option<u64>)| Some((*pair.0)?..(*pair.1)?);
    let Some(spans) = before
        .iter()
        .zip(now)
        .map(known)
        .collect::<Option<Vec<_>>>()
    else {
        return (Scope::Unknown, None);
    };
    let mut hit = spans
        .iter()
        .enumerate()
        .filter(|(_, span)| !span.is_empty());
    match (hit.next(), hit.next()) {
        _ if spans.is_empty() => (Scope::Unknown, None),
        (None, _) => (Scope::Host, None),
        (Some((0, _)), None) => (Scope::Own, Some(0)),
        (Some((above, _)), None) => (Scope::Above, Some(above)),
        (Some(_), Some(_)) => (Scope::Unknown, None),
    }
}

impl OomWatch {
    /// Waits until there may be something new to count, or the cgroup is gone; answers whether there can
    /// be more.
    ///
    /// # Errors
    /// Why it is watched no longer.
    pub async fn changed(&mut self) -> Result<bool> {
        let event = match &mut self.kind {
            Kind::Count(file) => return file.changed().await,
            Kind::Shortage(event) => event,
        };
        let failed = |why: &io::Error| Error::io("wait for word of a shortage of memory", why);
        let ready = event.ready(Interest::READABLE).await;
        ready.map_err(|e| failed(&e))?.clear_ready();
        let mut signals = [0; 8];
        match nix::unistd::read(event.get_ref(), &mut signals) {
            Ok(_) => {
                self.words = self.words.saturating_add(u64::from_ne_bytes(signals));
                Ok(true)
            }
            Err(nix::errno::Errno::EAGAIN) => Ok(true),
            Err(e) => Err(failed(&e.into())),
        }
    }

    /// How often the kernel has said that memory is short, where it does not count that.
    pub fn words(&self) -> u64 {
        self.words
    }

    /// Whether the word comes when the kernel has counted; else it comes before.
    pub fn comes_after_the_count(&self) -> bool {
        matches!(self.kind, Kind::Count(_))
    }
}

pub(super) fn shortage_of(text: &str) -> Option<Shortage> {
    Some(Shortage {
        kills: value(text, "oom_kill")?,
        held: value(text, "oom_kill_disable") == Some(1) && value(text, "under_oom") == Some(1),
        count: value(text, "oom"),
    })
}

fn value(text: &str, key: &str) -> Option<u64> {
    keyed(text).find(|(k, _)| *k == key).map(|(_, v)| v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_the_one_whose_count_went_up() {
        for (before, now, level) in [
            (&[Some(1), Some(0)][..], &[Some(2), Some(0)][..], Scope::Own),
            (&[Some(1), Some(0)], &[Some(1), Some(1)], Scope::Above),
            (&[Some(1), Some(0)], &[Some(1), Some(0)], Scope::Host),
            (&[Some(1), Some(0)], &[Some(2), Some(1)], Scope::Unknown),
            (&[Some(1), None], &[Some(2), Some(1)], Scope::Unknown),
            (&[Some(1)], &[None], Scope::Unknown),
            (&[], &[], Scope::Unknown),
        ] {
            assert_eq!(whose(before, now).0, level, "{before:?} {now:?}");
        }
    }

    #[test]
    fn kills_are_counted_by_their_name() {
        let some = |kills, held, count| Some(Shortage { kills, held, count });
        for (text, expected) in [
            (
                "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
                some(3, false, None),
            ),
            (
                "oom_kill_disable 1\nunder_oom 0\noom_kill 3\n",
                some(3, false, None),
            ),
            // It is about to kill.
            (
                "oom_kill_disable 0\nunder_oom 1\noom_kill 3\n",
                some(3, false, None),
            ),
            (
                "oom_kill_disable 1\nunder_oom 1\noom_kill 3\n",
                some(3, true, None),
            ),
            (
                "low 0\nhigh 1\nmax 9\noom 2\noom_kill 1\noom_group_kill 5\n",
                some(1, false, Some(2)),
            ),
            // Before Linux 4.13.
            ("oom_kill_disable 0\nunder_oom 0\n", None),
            ("oom_kill x\n", None),
            ("", None),
        ] {
            assert_eq!(shortage_of(text), expected, "{text}");
        }
    }
}
