//! Waits for a process to end, a child of ours or not, without reaping it.
//!
//! Invariant: what is waited for is the process that had the pid at [`Process::open`], whoever has
//! it later.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use crate::error::{Error, Result};

/// A process, while it lives and after.
pub struct Process {
    pid: u32,
    /// None if it had ended before it could be opened.
    fd: Option<AsyncFd<OwnedFd>>,
}

impl Process {
    /// The process that has this pid now.
    ///
    /// # Errors
    /// When the kernel has no descriptor for it.
    pub fn open(pid: u32) -> Result<Self> {
        let failed = |why| Error::io(format_args!("open process {pid}"), &why);
        // SAFETY: nix has no wrapper for it. Takes two integers, touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.cast_signed(), 0) };
        if fd < 0 {
            let why = std::io::Error::last_os_error();
            return match why.raw_os_error() {
                Some(libc::ESRCH) => Ok(Self { pid, fd: None }),
                _ => Err(failed(why)),
            };
        }
        // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and it fits.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // SAFETY: an OwnedFd is open, and the same descriptor, for as long as it lives, and nobody
        // else has this one.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
            .map_err(|why| failed(why.into()))?;
        Ok(Self { pid, fd: Some(fd) })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended, or may not be signalled.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let failed = |why: Errno| {
            let what = format_args!("send {signal} to process {}", self.pid);
            Error::io(what, &why.into())
        };
        let fd = self.fd.as_ref().ok_or_else(|| failed(Errno::ESRCH))?;
        // SAFETY: nix has no wrapper. The descriptor is open; a null siginfo is what the call documents
        // as absent.
        let done = unsafe {
            let none = std::ptr::null::<libc::siginfo_t>();
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                fd.as_raw_fd(),
                signal as i32,
                none,
                0,
            )
        };
        Errno::result(done).map(drop).map_err(failed)
    }

    /// Waits for it to end.
    ///
    /// # Errors
    /// When it has not after `limit`.
    pub async fn ended(&self, limit: Duration) -> Result<()> {
        let Some(fd) = &self.fd else { return Ok(()) };
        match timeout(limit, fd.readable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(why)) => Err(Error::io(
                format_args!("wait for process {}", self.pid),
                &why,
            )),
            Err(_) => Err(Error::deadline_exceeded(format_args!(
                "process {} did not end within {limit:?}",
                self.pid
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[tokio::test]
    async fn the_end_is_seen() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        assert!(process.ended(Duration::ZERO).await.is_err());
        drop(child.stdin.take());
        process.ended(Duration::from_secs(30)).await.unwrap();
        let pid = child.id();
        child.wait().unwrap();
        process.ended(Duration::from_secs(30)).await.unwrap();
        let late = Process::open(pid).unwrap();
        assert!(late.signal(Signal::SIGTERM).is_err());
        late.ended(Duration::ZERO).await.unwrap();
    }
}
