//! Pids: who is in a container.
//!
//! Invariant: each process that the shim started and has not reaped is named, whatever the kernel's lists say
//! or do not: a manager takes an empty answer, and an error, for a container that is gone, and forgets it.
//! Added is what can be read: of the container's cgroup all, and what descends from those of the processes
//! that are not in it (they were moved, or the cgroup is gone, hidden or shared with the shim), from all of
//! them where the cgroup could not be read to its end; never who is in some other cgroup, who may be a
//! stranger. Pinned by `tests/resources/members.rs`.
//!
//! Both are as long as a container makes them: read in slices, and no longer than [`LIMIT`].

use std::collections::BTreeSet;
use std::fs::{self, ReadDir};
use std::time::{Duration, Instant};

use crate::cgroup::Cgroup;
use crate::container::Container;
use crate::error::{Code, Error, Result};
use crate::monitor::Pid;
use crate::slices::Slices;

/// How long the reading may take; half of it for the cgroup. A manager waits for some seconds.
const LIMIT: Duration = Duration::from_secs(4);

/// A process in a container, and the exec that it is the first process of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its pid in the shim's pid namespace.
    pub pid: Pid,
    /// The exec's id, if this is an exec's own process.
    pub exec_id: Option<String>,
}

impl Container {
    /// All processes in the container.
    ///
    /// # Errors
    /// The cgroup could not be read, and the shim knows of none either.
    pub async fn pids(&self) -> Result<Vec<Member>> {
        let begun = Instant::now();
        let listed = match self.cgroup.get() {
            Some(cgroup) => self.listed(cgroup).await,
            None => Ok((BTreeSet::new(), true)),
        };
        let known = self.known();
        let (mut pids, whole) = match listed {
            Ok(listed) => listed,
            // All have ended, and the cgroup went with them.
            Err(why) if known.is_empty() && why.code != Code::NotFound => return Err(why),
            Err(why) => {
                log::debug!("container {}: list its processes: {why}", self.id);
                (BTreeSet::new(), false)
            }
        };
        let elsewhere = known
            .iter()
            .filter(|(pid, _)| !whole || !pids.contains(pid));
        let elsewhere: Vec<Pid> = elsewhere.map(|(pid, _)| *pid).collect();
        for pid in elsewhere {
            let left = LIMIT.saturating_sub(begun.elapsed());
            let below = descendants(pid, left).await;
            // A pid that is still its own was nobody else's meanwhile.
            if self.known().iter().any(|(known, _)| *known == pid) {
                pids.extend(below);
            }
        }
        pids.extend(known.iter().map(|(pid, _)| *pid));
        let exec_of = |pid| {
            let own = known.iter().find(|(known, _)| *known == pid);
            own.map(|(_, exec)| exec).filter(|exec| !exec.is_empty())
        };
        let member = |pid| Member {
            pid,
            exec_id: exec_of(pid).cloned(),
        };
        Ok(pids.into_iter().map(member).collect())
    }

    /// The processes that are named whatever else can be read: the init and all execs that have not been
    /// reaped, with the exec's id or an empty one.
    fn known(&self) -> Vec<(Pid, String)> {
        let all = self.execs().into_iter().chain([self.init.clone()]);
        let facts = all.map(|process| (process.facts(), process));
        let unreaped = facts.filter(|(facts, _)| facts.pid > 0 && !facts.reaped);
        unreaped
            .map(|(facts, process)| (facts.pid, process.exec_id.clone()))
            .collect()
    }

    /// Who is in the cgroup, and whether that is certainly all.
    async fn listed(&self, cgroup: &Cgroup) -> Result<(BTreeSet<Pid>, bool)> {
        let listed = cgroup.listed(LIMIT / 2).await?;
        match &listed.whole {
            Err(why) if listed.pids.is_empty() => return Err(why.clone()),
            Err(why) => log::warn!(
                "container {}: not all of its cgroup was read: {why}",
                self.id
            ),
            Ok(()) => {}
        }
        let pids = listed.pids.into_iter().map(nix::unistd::Pid::as_raw);
        Ok((pids.collect(), listed.whole.is_ok()))
    }
}

/// What descends from a process, itself not included, as far as it can be read within a limit. Orphans of a
/// pid namespace are children of its init.
async fn descendants(of: Pid, limit: Duration) -> BTreeSet<Pid> {
    let (mut slices, begun) = (Slices::begin(), Instant::now());
    let mut found = BTreeSet::new();
    let mut todo = vec![of];
    while let Some(pid) = todo.pop() {
        let Ok(threads) = threads(pid) else { continue };
        // A child belongs to the thread that forked it or got it.
        for thread in threads.flatten() {
            if begun.elapsed() >= limit {
                return found;
            }
            let children = fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            let children = children.split_ascii_whitespace();
            for child in children.filter_map(|child| child.parse().ok()) {
                if found.insert(child) {
                    todo.push(child);
                }
            }
            slices.pause().await;
        }
    }
    found
}

fn threads(pid: Pid) -> Result<ReadDir> {
    let path = format!("/proc/{pid}/task");
    fs::read_dir(&path).map_err(|why| Error::io(format!("read {path}"), &why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn children_and_theirs_and_no_one_else() {
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut top = Command::new("sh")
            .args(["-c", "(sleep 1000 & echo; wait) & wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Both are there once one of them has said so.
        let mut said = [0];
        std::io::Read::read_exact(top.stdout.as_mut().unwrap(), &mut said).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap();
        let of = |pid: u32, limit| {
            let all = runtime.block_on(descendants(pid.cast_signed(), limit));
            all.into_iter().collect::<Vec<_>>()
        };
        let (all, none) = (of(top.id(), LIMIT), of(top.id(), Duration::ZERO));
        let ours = of(std::process::id(), LIMIT);
        for pid in all.iter().rev() {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(*pid),
                nix::sys::signal::Signal::SIGKILL,
            )
            .unwrap();
        }
        for child in [&mut top, &mut other] {
            let _ = child.kill();
            child.wait().unwrap();
        }
        assert_eq!((all.len(), none.len()), (2, 0), "{all:?}");
        assert!(!all.contains(&other.id().cast_signed()));
        assert!(ours.contains(&other.id().cast_signed()) && ours.contains(&all[1]));
    }
}
