//! Calls of the runtime that outlive the shim that made them.
//!
//! Invariant: what is ended here names, as its log, a file that only a shim's call for this very
//! bundle has, or descends from one that does, or is in the process group that one leads; the caller
//! knows that no shim lives. Without such a file, which a shim removes with the end of its call,
//! nobody is looked at.
//!
//! A call goes on when its shim is killed, and so may create a container after everything of it has
//! been cleared away. It may come to its end first: then the runtime knows what it made, and can
//! delete it. The Go shim has its calls killed with itself (`PR_SET_PDEATHSIG`), which reaches the
//! runtime alone and not what it has started; and without it a call is started without a fork.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::delete::kill;
use crate::cgroup;
use crate::error::{Error, Result};
use crate::pidfd;
use crate::spec::Spec;

/// How long calls may go on; far longer than a create or a start takes.
const GRACE: Duration = Duration::from_millis(400);
/// How long nothing must be seen of any: in the middle of an exec(2) a process has no arguments, or
/// still those of the shim.
const QUIET: Duration = Duration::from_millis(50);
/// How long killed calls may take to be gone.
const LIMIT: Duration = Duration::from_millis(200);

/// A process as far as it matters here.
struct Process {
    pid: u32,
    parent: u32,
    group: u32,
    is_call: bool,
}

/// The logs of calls that were interrupted with their shim.
pub(super) fn logs(bundle: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(bundle).into_iter().flatten().flatten();
    let files = files.map(|file| file.path());
    files.filter(|path| is_log(path)).collect()
}

/// Waits for the calls that were made for the container of `bundle` to end, no longer than `limit`, and
/// ends those that do not, with what they have started.
///
/// # Errors
/// When one cannot be killed or is still there in the end.
pub(super) fn end(bundle: &Path, limit: Duration) -> Result<()> {
    let bundles = [
        bundle.to_owned(),
        fs::canonicalize(bundle).unwrap_or_default(),
    ];
    let grace = Instant::now() + GRACE.min(limit);
    let deadline = grace + LIMIT;
    let mut quiet = None;
    // Again until there are none: one may have started another in between.
    loop {
        let calls = hold(&bundles);
        let Some((first, _)) = calls.first() else {
            if quiet.get_or_insert_with(Instant::now).elapsed() >= QUIET {
                return Ok(());
            }
            thread::sleep(QUIET / 5);
            continue;
        };
        quiet = None;
        if Instant::now() >= deadline {
            return Err(Error::deadline_exceeded(format_args!(
                "process {first} of a runtime call is still there {LIMIT:?} after SIGKILL"
            )));
        }
        if calls.iter().all(|(_, held)| gone(held, grace)) {
            continue;
        }
        for (pid, held) in &calls {
            let what = || format!("kill process {pid} of a runtime call");
            kill(held).map_err(|e| Error::io(what(), &e))?;
        }
        for (_, held) in &calls {
            gone(held, deadline);
        }
    }
}

/// Once the container is cleared away: takes away the cgroup that a call was making of which the
/// runtime does not know, and the logs.
pub(super) fn clear(bundle: &Path, logs: &[PathBuf]) {
    let spec = Spec::read(bundle).unwrap_or_default();
    cgroup::remove(&spec.cgroups_path);
    for log in logs {
        // It stays until its bundle goes, which is as good.
        let _ = fs::remove_file(log);
    }
}

/// The processes of calls, each with a descriptor that is certainly its own.
fn hold(bundles: &[PathBuf]) -> Vec<(u32, OwnedFd)> {
    let all: Vec<Process> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| look(entry.file_name().to_str()?.parse().ok()?, bundles))
        .collect();
    let held = of_calls(&all).into_iter().filter_map(|process| {
        // The descriptor first, then the question: the answer is about the process it holds.
        let held = pidfd::open(process.pid).ok()?;
        let now = look(process.pid, bundles)?;
        (now.group == process.group && now.is_call == process.is_call).then_some((now.pid, held))
    });
    held.collect()
}

fn gone(held: &OwnedFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
    let mut fds = [PollFd::new(held.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
}

/// The calls, what is in the groups that they lead, and what descends from all these.
fn of_calls(all: &[Process]) -> Vec<&Process> {
    let calls = all.iter().filter(|p| p.is_call);
    let leaders: BTreeSet<u32> = calls.map(|p| p.pid).collect();
    let mut found = leaders.clone();
    loop {
        let more = all.iter().filter(|p| {
            !found.contains(&p.pid) && (leaders.contains(&p.group) || found.contains(&p.parent))
        });
        let more: Vec<u32> = more.map(|p| p.pid).collect();
        if more.is_empty() {
            return all.iter().filter(|p| found.contains(&p.pid)).collect();
        }
        found.extend(more);
    }
}

/// None of a process that is gone, or is a zombie, which only its parent can end.
fn look(pid: u32, bundles: &[PathBuf]) -> Option<Process> {
    let argv = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (parent, group) = family(&stat)?;
    Some(Process {
        pid,
        parent,
        group,
        is_call: is_call(&argv, bundles),
    })
}

/// Parent and group in a stat, its fields 4 and 5, unless field 3 says that it has ended.
fn family(stat: &str) -> Option<(u32, u32)> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let ended = matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    let family = (number()?, number()?);
    (!ended).then_some(family)
}

/// Whether these are the arguments of a runtime whose log is that of a single call, in one of the
/// directories.
fn is_call(argv: &[u8], bundles: &[PathBuf]) -> bool {
    let words: Vec<&str> = argv
        .split(|byte| *byte == 0)
        .map(|word| str::from_utf8(word).unwrap_or_default())
        .collect();
    words.windows(2).any(|pair| {
        let log = Path::new(pair[1]);
        pair[0] == "--log"
            && is_log(log)
            && log.is_absolute()
            && bundles.iter().any(|bundle| log.parent() == Some(bundle))
    })
}

/// Whether a file is called as the log of a single call is.
fn is_log(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("log-") && name.ends_with(".json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_its_log() {
        let bundles = ["/run/b/c".into(), PathBuf::new()];
        for (argv, expected) in [
            (
                "crun\0--root\0/r\0--log\0/run/b/c/log-12-0.json\0create\0c\0",
                true,
            ),
            (
                "/bin/sh\0/opt/runtime\0--log\0/run/b/c/log-12-0.json\0",
                true,
            ),
            // Of another container, of `delete` itself, of no call, of none.
            ("crun\0--log\0/run/b/c2/log-12-0.json\0create\0c2\0", false),
            ("crun\0--log\0/run/b/c/log.json\0delete\0c\0", false),
            ("crun\0--log\0/run/b/c/log-12-0.txt\0", false),
            ("crun\0--log\0log-12-0.json\0", false),
            ("tail\0/run/b/c/log-12-0.json\0", false),
            ("crun\0--log\0", false),
            ("", false),
        ] {
            assert_eq!(is_call(argv.as_bytes(), &bundles), expected, "{argv:?}");
        }
    }

    #[test]
    fn a_family_is_read_from_a_stat() {
        assert_eq!(family("12 (a) b) S 1 34 34 0 -1"), Some((1, 34)));
        assert_eq!(family("12 (a) Z 1 34 34 0 -1"), None);
        assert_eq!(family("12 (a"), None);
    }

    #[test]
    fn a_call_has_its_group_and_its_descendants() {
        let process = |pid, parent, group, is_call| Process {
            pid,
            parent,
            group,
            is_call,
        };
        let all = [
            process(1, 0, 1, false),
            // In a session of its own, and a child of a child.
            process(4, 6, 4, false),
            process(5, 1, 5, true),
            process(6, 5, 5, false),
            process(9, 1, 5, false),
            // A call that leads no group does not give up the group it is in.
            process(8, 7, 7, true),
            process(7, 1, 7, false),
        ];
        let pids: Vec<u32> = of_calls(&all).iter().map(|p| p.pid).collect();
        assert_eq!(pids, [4, 5, 6, 9, 8]);
    }
}
