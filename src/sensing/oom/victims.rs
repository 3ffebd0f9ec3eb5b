//! Who of a container was killed: which of its processes, as far as the kernel and the running map tell.
//!
//! Invariant: nobody is named who is not known; a number alone names nobody once it may be another's.

use std::os::unix::ffi::OsStrExt;

use super::account::Facts;
use super::{Ended, Known, Sensed};
use crate::cgroup::kernel_log::Kill;
use crate::kernel_file;
use crate::monitor::Pid;
use crate::proto::cotter_oom::{Victim, victim};

impl dyn Sensed {
    /// The pids of processes that the shim started and that are still theirs.
    pub(super) fn known_pids(&self) -> Vec<i32> {
        let all = self.execs().into_iter().chain([self.init()]);
        all.filter_map(|process| process.pid).collect()
    }

    /// Whether it may be an exec whose pid is not known yet: one is being started, and this is no child of
    /// the container's own processes but of the runtime, or of nobody else's.
    pub(super) fn may_be_starting(&self, kill: &Kill) -> bool {
        let starts = |exec: &Known| exec.starting;
        if !self.execs().iter().any(starts) || self.known_pids().contains(&kill.pid) {
            return false;
        }
        let me = std::process::id().cast_signed();
        match parent_of(kill.pid) {
            Some(parent) if parent == me => true,
            Some(parent) => parent_of(parent) == Some(me) && !self.known_pids().contains(&parent),
            None => self.has_reaped(kill.pid),
        }
    }

    pub(super) fn victim(&self, kill: &Kill, facts: Facts<'_>, ended: Option<Ended<'_>>) -> Victim {
        let [anon, file, shmem] = kill.rss.unwrap_or_default();
        let mut victim = Victim {
            pid: kill.pid.cast_unsigned(),
            command: kill.command.to_string_lossy().into_owned(),
            anon_bytes: anon,
            file_bytes: file,
            shmem_bytes: shmem,
            ..Victim::default()
        };
        if !facts.same_pids {
            return victim;
        }
        let execs = self.execs();
        let ended = ended.filter(|ended| ended.pid == kill.pid && !ended.is_init());
        let exec = execs.iter().find(|exec| exec.pid == Some(kill.pid));
        let exec = exec.map(|exec| exec.exec_id.as_str());
        let role = match exec.or(ended.map(|ended| ended.exec_id)) {
            Some(exec_id) => {
                exec_id.clone_into(&mut victim.exec_id);
                victim::Role::ROLE_EXEC
            }
            None if self.init().pid == Some(kill.pid) => victim::Role::ROLE_INIT,
            None => victim::Role::ROLE_CHILD,
        };
        victim.role = role.into();
        victim.container_pid = match role {
            // It is the first of its namespace; where that is another's, it is long gone.
            victim::Role::ROLE_INIT if self.has_own_pids() => 1,
            _ => pid_inside(kill).unwrap_or(0),
        };
        victim
    }

    /// Without the kernel's word: who was killed by nobody known.
    pub(super) fn seen_dying(&self, ended: Ended<'_>) -> Option<Victim> {
        const KILLED: u32 = 128 + libc::SIGKILL as u32;
        let killed = ended.status == Some(KILLED) && !ended.sigkilled;
        let role = match ended.is_init() {
            true => victim::Role::ROLE_INIT,
            false => victim::Role::ROLE_EXEC,
        };
        killed.then(|| Victim {
            pid: ended.pid.cast_unsigned(),
            role: role.into(),
            exec_id: ended.exec_id.to_owned(),
            ..Victim::default()
        })
    }
}

/// The parent of a process that nobody has waited for yet.
fn parent_of(pid: Pid) -> Option<Pid> {
    let status = kernel_file::text(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent?.trim().parse().ok()
}

/// The pid that a process which was killed, and that nobody has waited for yet, has in its innermost
/// namespace.
fn pid_inside(kill: &Kill) -> Option<u32> {
    let status = kernel_file::bytes(format!("/proc/{}/status", kill.pid)).ok()?;
    // The number may be another one's by now.
    innermost(&status, kill.command.as_bytes())
}

/// The innermost pid in a `status`, if it is the command's. A line's end and a backslash of its name stand
/// there as `\n` and `\\`.
fn innermost(status: &[u8], command: &[u8]) -> Option<u32> {
    let mut lines = status.split(|&byte| byte == b'\n');
    let mut shown = Vec::with_capacity(command.len());
    for &byte in command {
        match byte {
            b'\n' => shown.extend(br"\n"),
            b'\\' => shown.extend(br"\\"),
            _ => shown.push(byte),
        }
    }
    if lines.next()?.strip_prefix(b"Name:\t")? != shown {
        return None;
    }
    let pids = lines.find_map(|line| line.strip_prefix(b"NSpid:"))?;
    let pids = std::str::from_utf8(pids).ok()?;
    pids.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::innermost;

    #[test]
    fn only_of_the_command_that_was_killed() {
        for (name, command, pid) in [
            (&b"tail"[..], &b"tail"[..], Some(7)),
            (b"tai", b"tail", None),
            (br"a\nb", b"a\nb", Some(7)),
            (br"a\nb", br"a\nb", None),
            (br"a\\nb", br"a\nb", Some(7)),
            (b"\xc3\xbcber\xc3", b"\xc3\xbcber\xc3", Some(7)),
            (b"\xc3\xbcber\xc3", b"\xc3\xbcber\xc4", None),
            (b" x ", b" x ", Some(7)),
        ] {
            let status = [
                b"Name:\t",
                name,
                b"\nUmask:\t0022\nNSpid:\t4711\t7\nNSpgid:\t1\n",
            ];
            assert_eq!(
                innermost(&status.concat(), command),
                pid,
                "{}",
                name.escape_ascii()
            );
        }
        assert_eq!(innermost(b"Name:\tx\n", b"x"), None);
        assert_eq!(innermost(b"", b""), None);
    }
}
