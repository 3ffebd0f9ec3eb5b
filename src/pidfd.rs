//! Processes held by a descriptor.
//!
//! Invariant: what is asked about or signalled is the process that had the pid when it was opened, whoever
//! has the pid later. Whose process that is must be asked *after* the opening: then the answer is about
//! the process that is held.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

/// The process that has this pid now: a descriptor, close-on-exec, that turns readable at its end.
///
/// # Errors
/// `ESRCH` when there is none, or why the kernel has no descriptor for it.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: nix has no wrapper. Takes two numbers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to the process that is held.
///
/// # Errors
/// `ESRCH` once it is reaped, or what the system said.
pub fn signal(process: impl AsFd, signal: Signal) -> io::Result<()> {
    // SAFETY: nix has no wrapper. The descriptor is open; a null siginfo is what the call documents as
    // absent.
    let sent = unsafe {
        let fd = process.as_fd().as_raw_fd();
        let none = std::ptr::null::<libc::siginfo_t>();
        libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as i32, none, 0)
    };
    Errno::result(sent)?;
    Ok(())
}

/// Whether the process that is held has ended, reaped or not.
pub fn has_ended(process: impl AsFd) -> bool {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_is_held_is_one_process_and_no_other() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let held = open(child.id()).unwrap();
        assert!(!has_ended(&held));
        signal(&held, Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(has_ended(&held));
        let gone = signal(&held, Signal::SIGKILL).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
    }
}
