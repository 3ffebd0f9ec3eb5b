//! Who of a container was killed, from all that is known. Pure.

use std::collections::BTreeSet;
use std::path::Path;

use crate::cgroup::Scope;
use crate::cgroup::kernel_log::{Kill, Limit};

/// What is known of the container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// The path of its memory cgroup.
    pub path: &'a Path,
    /// The shim sees the paths of cgroups as the kernel logs them; else they end alike.
    pub whole_path: bool,
    /// The shim counts pids as the kernel's log does.
    pub same_pids: bool,
    /// The pids of its processes that the shim knows.
    pub pids: &'a [i32],
    /// How many were killed; none when the kernel's count is gone.
    pub kills: Option<u64>,
    /// Kills before this time of the kernel's are another's.
    pub began: u64,
}

/// Those in the log that are the container's, each once, oldest first.
pub(super) fn ours(log: Vec<Kill>, facts: Facts<'_>) -> Vec<Kill> {
    let own = |kill: Kill| {
        let known = facts.same_pids && facts.pids.contains(&kill.pid);
        match &kill.cgroup {
            Some(cgroup) if level_of(cgroup, facts) != Scope::Above => Some(kill),
            // What seems to be one of another's group is not, then.
            Some(_) if kill.group => known.then(|| alone(kill)),
            Some(_) => None,
            // The kernel keeps the cgroups to itself when it kills often.
            None => known.then_some(kill),
        }
    };
    let mut seen = BTreeSet::new();
    let mut ours: Vec<Kill> = log
        .into_iter()
        .filter(|kill| kill.at >= facts.began)
        .filter_map(own)
        // A group's first victim is killed once more with its group.
        .filter(|kill| seen.insert(kill.pid))
        .collect();
    let most = facts.kills.and_then(|kills| usize::try_from(kills).ok());
    let more = ours.len().saturating_sub(most.unwrap_or(usize::MAX));
    ours.drain(..more);
    ours
}

/// A kill without what it was told by the group before it.
fn alone(kill: Kill) -> Kill {
    Kill {
        cgroup: None,
        limit: Limit::Unknown,
        limit_bytes: None,
        group: false,
        ..kill
    }
}

/// Those of many that are named, in their order: the processes that the shim has started, and the first others.
pub(super) fn named(
    kills: &[Kill],
    most: usize,
    started: impl Fn(i32) -> bool,
) -> impl Iterator<Item = &Kill> {
    let known = kills.iter().filter(|kill| started(kill.pid)).count();
    let mut known_left = known.min(most);
    let mut others_left = most - known_left;
    kills.iter().filter(move |kill| {
        let left = match started(kill.pid) {
            true => &mut known_left,
            false => &mut others_left,
        };
        let named = *left > 0;
        *left -= usize::from(named);
        named
    })
}

/// Where the limit is by which they were killed, if the log says so.
pub(super) fn limit<'a>(
    ours: &'a [Kill],
    facts: Facts<'_>,
) -> Option<(Scope, Option<&'a Path>, Option<u64>)> {
    let told = ours.iter().find(|kill| kill.limit != Limit::Unknown)?;
    Some(match &told.limit {
        Limit::Cgroup(path) => {
            let level = level_of(path, facts);
            (level, Some(path.as_path()), told.limit_bytes)
        }
        Limit::Host => (Scope::Host, None, None),
        Limit::Unknown => (Scope::Unknown, None, None),
    })
}

/// Where a cgroup of the log's is: the container's, in it, or anywhere else, which for a limit of the
/// container's can only be above it.
fn level_of(cgroup: &Path, facts: Facts<'_>) -> Scope {
    let below_root = facts.path.strip_prefix("/").unwrap_or(facts.path);
    let is_own = |cgroup: &Path| match facts.whole_path {
        true => cgroup == facts.path,
        // "" ends every path, and is the path of nobody's container.
        false => !below_root.as_os_str().is_empty() && cgroup.ends_with(below_root),
    };
    match cgroup.ancestors().position(is_own) {
        Some(0) => Scope::Own,
        Some(_) => Scope::Inside,
        None => Scope::Above,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(pid: i32, cgroup: Option<&str>) -> Kill {
        Kill {
            pid,
            at: 10,
            cgroup: cgroup.map(Into::into),
            ..Kill::default()
        }
    }

    fn facts(path: &str) -> Facts<'_> {
        Facts {
            path: Path::new(path),
            whole_path: true,
            same_pids: true,
            pids: &[],
            kills: Some(10),
            began: 5,
        }
    }

    fn pids(log: Vec<Kill>, facts: Facts<'_>) -> Vec<i32> {
        ours(log, facts).iter().map(|kill| kill.pid).collect()
    }

    fn log() -> Vec<Kill> {
        vec![
            kill(1, Some("/pod/c")),
            kill(2, Some("/pod/cc")),
            kill(3, Some("/pod/c/made/inside")),
            kill(4, Some("/pod")),
            kill(5, None),
            kill(6, None),
            kill(1, Some("/pod/c")),
            kill(7, Some("/host/pod/c")),
        ]
    }

    #[test]
    fn the_containers_are_those_in_its_cgroup_and_its_processes() {
        let known = |facts| Facts {
            pids: &[6],
            ..facts
        };
        assert_eq!(pids(log(), facts("/pod/c")), [1, 3]);
        assert_eq!(pids(log(), known(facts("/pod/c"))), [1, 3, 6]);
        let other_pids = Facts {
            same_pids: false,
            ..known(facts("/pod/c"))
        };
        assert_eq!(pids(log(), other_pids), [1, 3]);
        let in_a_namespace = Facts {
            whole_path: false,
            ..facts("/pod/c")
        };
        assert_eq!(pids(log(), in_a_namespace), [1, 3, 7]);
        let nowhere = Facts {
            whole_path: false,
            ..facts("/")
        };
        assert!(pids(log(), nowhere).is_empty());
    }

    /// A storm: nothing in the log parts the last of a group from another container's process after it.
    #[test]
    fn a_process_that_is_known_is_nobody_elses() {
        let of_group = |pid| Kill {
            group: true,
            limit: Limit::Cgroup("/other".into()),
            limit_bytes: Some(1),
            ..kill(pid, Some("/other"))
        };
        let facts = Facts {
            pids: &[6, 8],
            ..facts("/pod/c")
        };
        let log = vec![of_group(5), of_group(6), kill(8, Some("/other"))];
        assert_eq!(ours(log, facts), [kill(6, None)]);
    }

    #[test]
    fn no_more_than_the_kernel_counted_and_the_last_of_them() {
        for (kills, expected) in [(Some(0), &[][..]), (Some(1), &[3]), (None, &[1, 3])] {
            let facts = Facts {
                kills,
                ..facts("/pod/c")
            };
            assert_eq!(pids(log(), facts), expected, "{kills:?}");
        }
    }

    #[test]
    fn those_before_its_time_were_another_containers() {
        let facts = Facts {
            began: 11,
            ..facts("/pod/c")
        };
        assert!(pids(log(), facts).is_empty());
    }

    #[test]
    fn what_was_started_is_named_before_others() {
        let kills: Vec<Kill> = (1..=6).map(|pid| kill(pid, None)).collect();
        for (most, started, expected) in [
            (9, &[][..], &[1, 2, 3, 4, 5, 6][..]),
            (3, &[], &[1, 2, 3]),
            (3, &[5], &[1, 2, 5]),
            (3, &[2, 3, 5, 6], &[2, 3, 5]),
            (0, &[2], &[]),
        ] {
            let named = named(&kills, most, |pid| started.contains(&pid));
            let pids: Vec<i32> = named.map(|kill| kill.pid).collect();
            assert_eq!(pids, expected, "{most} {started:?}");
        }
    }

    #[test]
    fn levels() {
        for (path, level) in [
            ("/pod/c", Scope::Own),
            ("/pod/c/x", Scope::Inside),
            ("/pod", Scope::Above),
            ("/", Scope::Above),
        ] {
            let told = Kill {
                limit: Limit::Cgroup(path.into()),
                limit_bytes: Some(1),
                ..kill(1, None)
            };
            let silent = kill(2, None);
            assert_eq!(
                limit(&[silent, told], facts("/pod/c")),
                Some((level, Some(Path::new(path)), Some(1)))
            );
        }
        let host = Kill {
            limit: Limit::Host,
            ..kill(1, None)
        };
        assert_eq!(
            limit(&[host], facts("/pod/c")),
            Some((Scope::Host, None, None))
        );
        assert_eq!(limit(&[kill(1, None)], facts("/pod/c")), None);
    }
}
