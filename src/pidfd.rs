//! Processes held, not named.
//!
//! Invariant: what is asked about or signalled is the process that had the pid when it was opened, whoever
//! has the pid later. Whose process that is must be asked *after* the opening: then the answer is about
//! the process that is held.
//!
//! The kernel has descriptors for that since Linux 5.3, and a filter of system calls may keep them from us
//! (tests/old_kernel.rs). Then a process is held by its directory in `/proc`, which is that process's even
//! if the pid comes back; a signal goes out by number, right after a look whether the process is still
//! there. Between the two lies a moment in which it may be reaped, and the pid given away, but of a child that
//! only the caller reaps.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{self, Signal};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

/// Between two looks at a process whose end nobody tells.
const LOOK: Duration = Duration::from_millis(2);

/// A process that is held.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    /// Close-on-exec.
    fd: OwnedFd,
    /// Of the kernel's own kind, which turns readable at the end; else its directory in `/proc`.
    pollable: bool,
}

impl Process {
    /// What a descriptor holds that was made together with a process.
    pub fn made(pid: u32, pidfd: OwnedFd) -> Self {
        Self {
            pid,
            fd: pidfd,
            pollable: true,
        }
    }

    /// A descriptor that turns readable at its end, if there is one.
    pub fn pollable(&self) -> Option<BorrowedFd<'_>> {
        self.pollable.then(|| self.fd.as_fd())
    }
}

/// The process that has this pid now.
///
/// # Errors
/// `ESRCH` when there is none, or why it cannot be held.
pub fn open(pid: u32) -> io::Result<Process> {
    // SAFETY: nix has no wrapper. Takes two numbers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match Errno::result(fd) {
        // EPERM: the kernel itself never says so.
        Err(Errno::ENOSYS | Errno::EPERM) => open_directory(pid),
        fd => {
            let fd = i32::try_from(fd?).map_err(io::Error::other)?;
            // SAFETY: the kernel has just made it, and nothing else knows it.
            Ok(Process::made(pid, unsafe { OwnedFd::from_raw_fd(fd) }))
        }
    }
}

fn open_directory(pid: u32) -> io::Result<Process> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY);
    match options.open(format!("/proc/{pid}")) {
        Ok(directory) => Ok(Process {
            pid,
            fd: directory.into(),
            pollable: false,
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Errno::ESRCH.into()),
        Err(e) => Err(e),
    }
}

/// Kills the process that is held; one that is gone is one that is dead.
///
/// # Errors
/// What the system said.
pub fn kill(process: &Process) -> io::Result<()> {
    match signal(process, Signal::SIGKILL) {
        Err(why) if why.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        done => done,
    }
}

/// Sends a signal to the process that is held.
///
/// # Errors
/// `ESRCH` once it is reaped, or what the system said.
pub fn signal(process: &Process, signal: Signal) -> io::Result<()> {
    if process.pollable {
        // SAFETY: nix has no wrapper. The descriptor is open; a null siginfo is what the call documents as
        // absent.
        let sent = unsafe {
            let fd = process.fd.as_raw_fd();
            let none = std::ptr::null::<libc::siginfo_t>();
            libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as i32, none, 0)
        };
        match Errno::result(sent) {
            // If it is not the call but the signal that is not allowed, it will be said again.
            Err(Errno::ENOSYS | Errno::EPERM) => {}
            sent => return Ok(sent.map(drop)?),
        }
    }
    if has_ended(process) {
        return Err(Errno::ESRCH.into());
    }
    Ok(signal::kill(
        Pid::from_raw(process.pid.cast_signed()),
        signal,
    )?)
}

/// Whether the process that is held has ended, reaped or not.
pub fn has_ended(process: &Process) -> bool {
    match process.pollable() {
        Some(fd) => {
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
            // Even a look is interrupted by a signal that is being handled, and then says nothing.
            loop {
                match poll(&mut fds, PollTimeout::ZERO) {
                    Err(Errno::EINTR) => {}
                    looked => return looked != Ok(0),
                }
            }
        }
        None => state(process).is_none_or(|state| matches!(state, b'Z' | b'X')),
    }
}

/// The state of one that is held by its directory; none once it is reaped.
fn state(process: &Process) -> Option<u8> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let stat = openat(&process.fd, "stat", flags, Mode::empty()).ok()?;
    let mut start = [0; 512];
    let len = nix::unistd::read(&stat, &mut start).ok()?;
    state_in(&start[..len])
}

/// After the name, which is in parentheses and may hold anything.
fn state_in(stat: &[u8]) -> Option<u8> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(end + 2).copied()
}

/// Waits until the process that is held has ended, reaped or not; false if it has not after `limit`.
pub fn wait(process: &Process, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match process.pollable() {
            Some(fd) => {
                // Rounded up, so that time that is left is not none.
                let left = left.as_millis() + u128::from(!left.is_zero());
                let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                let _ = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], left);
            }
            None if has_ended(process) => {}
            None => std::thread::sleep(left.min(LOOK)),
        }
        if has_ended(process) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_is_held_is_one_process_and_no_other() {
        for open in [open, open_directory] {
            let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
            let held = open(child.id()).unwrap();
            assert!(!has_ended(&held));
            assert!(!wait(&held, Duration::from_millis(10)));
            signal(&held, Signal::SIGKILL).unwrap();
            assert!(wait(&held, Duration::from_secs(60)), "and is not reaped");
            child.wait().unwrap();
            assert!(has_ended(&held));
            let gone = signal(&held, Signal::SIGKILL).unwrap_err();
            assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
            let nobody = open(child.id()).unwrap_err();
            assert_eq!(nobody.raw_os_error(), Some(libc::ESRCH));
        }
    }

    /// As a shim's children end, which it is told by a signal. Of so many looks about twenty are interrupted.
    #[test]
    fn one_that_lives_has_not_ended_whatever_signals_come() {
        use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        static OVER: AtomicBool = AtomicBool::new(false);
        // SAFETY: the handler does nothing but count.
        let handler = unsafe {
            signal_hook::low_level::register(libc::SIGUSR1, || {
                SEEN.fetch_add(1, Ordering::Relaxed);
            })
        };
        let handler = handler.unwrap();
        // SAFETY: takes nothing, and this thread is joined with below.
        let thread = unsafe { libc::pthread_self() };
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let held = open(child.id()).unwrap();
        let wrong = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !OVER.load(Ordering::Relaxed) {
                    // SAFETY: the thread outlives this scope.
                    unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
                }
            });
            let wrong = (0..300_000).filter(|_| has_ended(&held)).count();
            OVER.store(true, Ordering::Relaxed);
            wrong
        });
        signal_hook::low_level::unregister(handler);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(SEEN.load(Ordering::Relaxed) > 0);
        assert_eq!(wrong, 0);
    }

    #[test]
    fn a_state_behind_any_name() {
        for (stat, expected) in [
            ("1 (sh) S 0 1", Some(b'S')),
            ("1 () Z) ) Z 0 1", Some(b'Z')),
            ("1 (sh)", None),
            ("", None),
        ] {
            assert_eq!(state_in(stat.as_bytes()), expected, "{stat}");
        }
    }
}
