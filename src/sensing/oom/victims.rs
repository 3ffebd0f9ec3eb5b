//! Who of a container was killed: which of its processes, as far as the kernel and the running map tell.
//!
//! Invariant: nobody is named who is not known; a number alone names nobody once it may be another's.

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
            command: kill.command.clone(),
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
    let status = kernel_file::text(format!("/proc/{}/status", kill.pid)).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    // The number may be another one's by now.
    let same = field("Name:")?.trim() == kill.command;
    let pids = field("NSpid:").filter(|_| same)?;
    pids.split_whitespace().last()?.parse().ok()
}
