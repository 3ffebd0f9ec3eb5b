//! The processes of a container that its runtime has left.
//!
//! Invariant: killed is who is in the container's cgroup at that moment, held by a descriptor, and nobody
//! else. What cannot be read is an error, and who was found is killed all the same: no processes are there
//! when the kernel says so. Pinned by `tests/bootstrap/delete.rs`.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::pidfd;

/// So long at least the processes are looked for, however little time there is: they can be killed in
/// nearly none.
const LEAST: Duration = Duration::from_millis(300);

/// Kills what the runtime left of the container's processes, and what they fork meanwhile. The pid in the
/// bundle may long be somebody else's, so it counts only while it is in the container's cgroup.
pub(super) fn kill_leftovers(cgroups_path: &str, pid: Option<Pid>, time: Duration) -> Result<()> {
    let Some(init) = pid else { return Ok(()) };
    let name = cgroup_name(cgroups_path);
    if name.is_empty() || !is_in(init, &name)? {
        return Ok(());
    }
    let deadline = Instant::now() + time.max(LEAST);
    let over = || Instant::now() >= deadline;
    let mut done = Ok(());
    let cgroup = match Cgroup::of_pid(init) {
        Ok(cgroup) => Some(cgroup).filter(|cgroup| !cgroup.is_shared_with_us()),
        Err(why) => {
            done = Err(why);
            None
        }
    };
    let mut killed = BTreeSet::new();
    loop {
        let mut pids = vec![init];
        match cgroup.as_ref().map(|cgroup| cgroup.procs_until(over)) {
            Some(Ok(listed)) => {
                pids.extend(listed.pids);
                done = done.and(listed.whole);
            }
            // It went with the last of them.
            Some(Err(_)) if !killed.is_empty() => {}
            Some(Err(why)) => done = done.and(Err(why)),
            None => {}
        }
        let before = killed.len();
        for pid in pids {
            if killed.insert(pid) {
                done = done.and(kill_one(pid, &name));
            }
        }
        // Those may have forked before they were killed; nobody new is left by nobody.
        if killed.len() == before {
            return done;
        }
        if over() {
            let what = format!("kill the processes of cgroup {name}: some may be left");
            return done.and(Err(Error::deadline_exceeded(what)));
        }
    }
}

fn kill_one(pid: Pid, cgroup: &str) -> Result<()> {
    let failed = |why: &io::Error| Error::io(format!("kill process {pid}"), why);
    // The descriptor first, then the question: the answer is about the process it holds.
    let process = match pidfd::open(pid.as_raw().cast_unsigned()) {
        Ok(process) => process,
        Err(why) if why.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        Err(why) => return Err(failed(&why)),
    };
    match is_in(pid, cgroup)? {
        true => pidfd::kill(&process).map_err(|why| failed(&why)),
        false => Ok(()),
    }
}

/// Whether a process is in a cgroup of this name, or below it; one that is gone is in none.
fn is_in(pid: Pid, name: &str) -> Result<bool> {
    let path = format!("/proc/{pid}/cgroup");
    match std::fs::read(&path) {
        Ok(text) => Ok(text
            .split(|byte| matches!(byte, b'/' | b'\n'))
            .any(|part| part == name.as_bytes())),
        Err(why) if matches!(why.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(false),
        Err(why) => Err(Error::io(format!("read {path}"), &why)),
    }
}

/// The last part of the path of a container's cgroup, given what its spec asks for: a path, or
/// `slice:prefix:name` for systemd.
fn cgroup_name(path: &str) -> String {
    match path.split(':').collect::<Vec<_>>()[..] {
        [_, "", name] => format!("{name}.scope"),
        [_, prefix, name] => format!("{prefix}-{name}.scope"),
        _ => path.rsplit('/').next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_of_a_container_by_its_name() {
        for (path, expected) in [
            ("/default/c1", "c1"),
            ("c1", "c1"),
            ("", ""),
            ("/default/", ""),
            ("system.slice:cri-containerd:c1", "cri-containerd-c1.scope"),
            (":cri:c1", "cri-c1.scope"),
            ("system.slice::c1", "c1.scope"),
        ] {
            assert_eq!(cgroup_name(path), expected, "{path}");
        }
    }
}
