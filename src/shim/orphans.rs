//! Calls of the runtime that outlive the shim that made them.
//!
//! Invariant: what is ended here names, as its log, a file that only a shim's call for this very
//! bundle has, or is in the process group of one that does; the caller knows that no shim lives.
//! Without such a file, which a shim removes with the end of its call, nobody is looked at.
//!
//! A call goes on when its shim is killed, and so may create a container after everything of it has
//! been cleared away. The Go shim has its calls end with it (`PR_SET_PDEATHSIG`), which reaches the
//! runtime alone and not what it has started; and without it a call is started without a fork.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::call;
use super::delete::kill;
use crate::error::{Error, Result};

/// How long killed calls may take to be gone.
const LIMIT: Duration = Duration::from_millis(500);

/// A process as far as it matters here.
struct Process {
    pid: u32,
    group: u32,
    is_call: bool,
}

/// Ends the calls that were made for the container of `bundle`, and what is in their groups.
///
/// # Errors
/// When one cannot be killed or is still there in the end.
pub(super) fn end(bundle: &Path) -> Result<()> {
    let files = fs::read_dir(bundle).into_iter().flatten().flatten();
    let files = files.map(|file| file.path());
    let logs: Vec<PathBuf> = files.filter(|path| is_log(path)).collect();
    if logs.is_empty() {
        return Ok(());
    }
    end_calls(bundle)?;
    for log in logs {
        // It stays until its bundle goes, which is as good.
        let _ = fs::remove_file(log);
    }
    Ok(())
}

fn end_calls(bundle: &Path) -> Result<()> {
    let bundles = [
        bundle.to_owned(),
        fs::canonicalize(bundle).unwrap_or_default(),
    ];
    let deadline = Instant::now() + LIMIT;
    let mut killed = Vec::new();
    for process in of_calls(&all(&bundles)) {
        // The descriptor first, then the question: the answer is about the process it holds.
        let Ok(held) = call::watch(process.pid) else {
            continue;
        };
        let same = look(process.pid, &bundles)
            .is_some_and(|now| (now.group, now.is_call) == (process.group, process.is_call));
        if same {
            let what = || format!("kill process {} of a runtime call", process.pid);
            kill(&held).map_err(|e| Error::io(what(), &e))?;
            killed.push((process.pid, held));
        }
    }
    let late = killed.iter().find(|(_, held)| !gone(held, deadline));
    match late {
        Some((pid, _)) => Err(Error::deadline_exceeded(format_args!(
            "process {pid} of a runtime call is still there {LIMIT:?} after SIGKILL"
        ))),
        None => Ok(()),
    }
}

fn gone(held: &OwnedFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
    let mut fds = [PollFd::new(held.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
}

/// The calls, and what is in the groups that they lead.
fn of_calls(all: &[Process]) -> Vec<&Process> {
    let led = |group| all.iter().any(|p| p.is_call && p.pid == group);
    all.iter().filter(|p| p.is_call || led(p.group)).collect()
}

fn all(bundles: &[PathBuf]) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| look(entry.file_name().to_str()?.parse().ok()?, bundles))
        .collect()
}

fn look(pid: u32, bundles: &[PathBuf]) -> Option<Process> {
    let argv = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(Process {
        pid,
        group: group(&stat)?,
        is_call: is_call(&argv, bundles),
    })
}

/// Field 5 of a stat, which is the third after the name.
fn group(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()
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
    fn a_group_is_that_of_its_leader() {
        assert_eq!(group("12 (a) b) S 1 34 34 0 -1"), Some(34));
        assert_eq!(group("12 (a"), None);
        let process = |pid, group, is_call| Process {
            pid,
            group,
            is_call,
        };
        let all = [
            process(1, 1, false),
            process(5, 5, true),
            process(6, 5, false),
            // A call that leads no group does not give up the group it is in.
            process(8, 7, true),
            process(7, 7, false),
        ];
        let pids: Vec<u32> = of_calls(&all).iter().map(|p| p.pid).collect();
        assert_eq!(pids, [5, 6, 8]);
    }
}
