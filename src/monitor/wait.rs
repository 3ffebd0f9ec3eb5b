//! The system calls that wait for children. None of them blocks.

use std::time::SystemTime;

use nix::errno::Errno;

use super::{Exit, Pid};

/// What a look at children shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited<T> {
    /// One has ended.
    Ended(T),
    /// There are some, and none has ended.
    Running,
    /// There is none.
    None,
}

impl<T> Waited<T> {
    pub(super) fn ended(self) -> Option<T> {
        match self {
            Self::Ended(ended) => Some(ended),
            Self::Running | Self::None => None,
        }
    }
}

/// Which children.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    Any,
    One(Pid),
    Group(Pid),
}

/// Reaps one child that has ended. Not nix's: it reaps first and then fails on a real-time signal,
/// which its enum can't name, and the exit is lost (systemd uses such signals).
pub(super) fn wait_for(child: Which, options: libc::c_int) -> Waited<Exit> {
    let options = libc::WNOHANG | libc::__WALL | options;
    let child = match child {
        Which::Any => -1,
        Which::One(pid) => pid,
        Which::Group(pid) => -pid,
    };
    loop {
        let mut status = 0;
        // SAFETY: waitpid has no safe wrapper that keeps every status; it writes one int, to a
        // local that outlives the call.
        let pid = unsafe { libc::waitpid(child, &raw mut status, options) };
        let at = SystemTime::now();
        match pid {
            -1 if Errno::last() == Errno::EINTR => {}
            // ECHILD: there is no such child at all.
            -1 => return Waited::None,
            0 => return Waited::Running,
            pid => {
                let status = decode(status);
                return Waited::Ended(Exit { pid, status, at });
            }
        }
    }
}

/// The same, but leaves it to be reaped. Not nix's either, which fails on a real-time signal.
pub(super) fn look_for(child: Which, options: libc::c_int) -> Waited<Pid> {
    let options = libc::WEXITED | libc::WNOWAIT | libc::WNOHANG | libc::__WALL | options;
    let (kind, id) = match child {
        Which::Any => (libc::P_ALL, 0),
        Which::One(pid) => (libc::P_PID, pid),
        Which::Group(pid) => (libc::P_PGID, pid),
    };
    loop {
        // SAFETY: a siginfo is plain numbers, for which zeros are values.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: waitid writes one siginfo, to a local that outlives the call.
        let done = unsafe { libc::waitid(kind, id.cast_unsigned(), &raw mut info, options) };
        match done {
            -1 if Errno::last() == Errno::EINTR => continue,
            -1 => return Waited::None,
            _ => {}
        }
        // SAFETY: waitid has filled in a SIGCHLD's fields, or left the zeros.
        return match unsafe { info.si_pid() } {
            0 => Waited::Running,
            pid => Waited::Ended(pid),
        };
    }
}

/// Whether `pid` is at this moment a child of ours whose exit has not been collected, whatever ended it. It
/// tells an early exit (collected already) from a recorded exit of a former owner of the same number.
pub fn is_unreaped_child(pid: Pid) -> bool {
    look_for(Which::One(pid), 0) != Waited::None
}

/// Neither WUNTRACED nor WCONTINUED is asked for, so a status is an exit or a death by signal.
fn decode(status: libc::c_int) -> u32 {
    let status = if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    };
    status.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::{decode, is_unreaped_child};

    #[test]
    fn statuses() {
        let exited = |code: i32| code << 8;
        for (raw, expected) in [
            (exited(0), 0),
            (exited(1), 1),
            (exited(255), 255),
            (libc::SIGKILL, 137),
            (libc::SIGSEGV | 0x80, 139), // with a core dump
            (
                libc::SIGRTMIN() + 3,
                128 + libc::SIGRTMIN().unsigned_abs() + 3,
            ),
        ] {
            assert_eq!(decode(raw), expected, "{raw:#x}");
        }
    }

    /// With nix, a real-time signal made it none.
    #[test]
    fn a_child_that_any_signal_has_ended_is_to_be_reaped() {
        for signal in [libc::SIGKILL, libc::SIGRTMIN(), libc::SIGRTMAX()] {
            let mut child = std::process::Command::new("sleep")
                .arg("1000")
                .spawn()
                .unwrap();
            let pid = child.id().cast_signed();
            assert!(is_unreaped_child(pid), "it lives");
            // SAFETY: takes two numbers; the child is not reaped, so the pid is its own.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
            while !crate::kin::Stat::of(pid).unwrap().has_ended() {
                std::thread::yield_now();
            }
            let unreaped = is_unreaped_child(pid);
            child.wait().unwrap();
            assert!(unreaped, "ended by signal {signal}");
            assert!(!is_unreaped_child(pid));
        }
    }
}
