//! Waits for a process to end, a child of ours or not, without reaping it.
//!
//! Invariant: what is waited for is the process that had the pid at [`Process::open`], whoever has
//! it later.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

use crate::error::{Error, Result};
use crate::pidfd;

/// Between two looks at one of whose end nobody tells.
const LOOK: Duration = Duration::from_millis(5);

/// A process, while it lives and after.
pub struct Process {
    pid: u32,
    /// None if it had ended before it could be opened.
    held: Option<Held>,
}

struct Held {
    process: pidfd::Process,
    /// Readable at its end; none where the kernel tells of no end.
    end: Option<AsyncFd<OwnedFd>>,
}

impl Process {
    /// The process that has this pid now.
    ///
    /// # Errors
    /// When it cannot be held.
    pub fn open(pid: u32) -> Result<Self> {
        let failed = |why| Error::io(format_args!("open process {pid}"), &why);
        let process = match pidfd::open(pid) {
            Ok(process) => process,
            Err(why) if why.raw_os_error() == Some(libc::ESRCH) => {
                return Ok(Self { pid, held: None });
            }
            Err(why) => return Err(failed(why)),
        };
        let end = process.pollable().map(|fd| {
            let fd = fd.try_clone_to_owned()?;
            // SAFETY: an OwnedFd is open, and the same descriptor, for as long as it lives, and nobody
            // else has this one.
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
                .map_err(io::Error::from)
        });
        let end = end.transpose().map_err(failed)?;
        let held = Some(Held { process, end });
        Ok(Self { pid, held })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended, or may not be signalled.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let sent = match &self.held {
            Some(held) => pidfd::signal(&held.process, signal),
            None => Err(Errno::ESRCH.into()),
        };
        let what = format_args!("send {signal} to process {}", self.pid);
        sent.map_err(|why| Error::io(what, &why))
    }

    /// Waits for it to end.
    ///
    /// # Errors
    /// When it has not after `limit`.
    pub async fn ended(&self, limit: Duration) -> Result<()> {
        let Some(held) = &self.held else {
            return Ok(());
        };
        match timeout(limit, held.ended()).await {
            Ok(Ok(())) => Ok(()),
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

impl Held {
    async fn ended(&self) -> io::Result<()> {
        if let Some(end) = &self.end {
            return end.readable().await.map(drop);
        }
        while !pidfd::has_ended(&self.process) {
            sleep(LOOK).await;
        }
        Ok(())
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
