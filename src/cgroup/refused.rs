//! The kernel log's word of a refused fork, for v1: there, Linux since 6.11 counts in `pids.events` and
//! notifies nobody (since "cgroup/pids: Make event counters hierarchical" it notifies a file that v1 does not have).
//!
//! Invariant: one descriptor a shim, open while somebody follows. A cgroup's first refusal is in the log,
//! later ones are not; a line wakes all followers, who count for themselves.

use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Where records are read one by one.
const LOG: &str = "/dev/kmsg";

/// What the kernel prints before the cgroup's path (kernel/cgroup/pids.c, since Linux 4.8).
const REFUSED: &[u8] = b"fork rejected by pids controller in ";

/// The log, read once for all who follow it.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Weak<Reader>>);

/// Follows the log; the last one that is dropped closes it.
#[derive(Debug)]
pub struct Refused {
    said: watch::Receiver<()>,
    _reader: Arc<Reader>,
}

#[derive(Debug)]
struct Reader {
    said: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Refusals {
    /// Follows the log from here on. Call it in a runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn follow(&self) -> Result<Refused> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = match shared.upgrade() {
            Some(reader) => reader,
            None => {
                let failed = |e: io::Error| Error::io(format!("follow {LOG}"), &e);
                let log = open().map_err(failed)?;
                let said = watch::Sender::new(());
                let task = tokio::spawn(read(log, said.clone()));
                let reader = Arc::new(Reader { said, task });
                *shared = Arc::downgrade(&reader);
                reader
            }
        };
        Ok(Refused {
            said: reader.said.subscribe(),
            _reader: reader,
        })
    }
}

impl Refused {
    /// Waits until forks have been refused somewhere.
    pub async fn anywhere(&mut self) {
        if self.said.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let mut open = OpenOptions::new();
    let mut log = open.read(true).custom_flags(libc::O_NONBLOCK).open(LOG)?;
    log.seek(SeekFrom::End(0))?;
    // SAFETY: an OwnedFd stays open, and nothing takes it out of the AsyncFd.
    let log = unsafe { AsyncFd::register_with_interest(OwnedFd::from(log), Interest::READABLE) };
    Ok(log?)
}

async fn read(log: AsyncFd<OwnedFd>, said: watch::Sender<()>) {
    // The longest record, with what devkmsg_read puts before and behind it.
    let mut record = vec![0; 8192];
    loop {
        let Ok(mut ready) = log.ready(Interest::READABLE).await else {
            return;
        };
        let mut refused = false;
        loop {
            match nix::unistd::read(log.get_ref(), &mut record) {
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(length) => refused |= tells_of_refusal(record.get(..length).unwrap_or_default()),
                // Records were overwritten before they were read: nobody knows which.
                Err(Errno::EPIPE) => refused = true,
                Err(Errno::EINTR) => {}
                Err(why) => {
                    log::warn!("follow {LOG}: {why}: forks refused on cgroup v1 may be told late");
                    return;
                }
            }
        }
        ready.clear_ready();
        if refused {
            said.send_replace(());
        }
    }
}

fn tells_of_refusal(record: &[u8]) -> bool {
    record.windows(REFUSED.len()).any(|part| part == REFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_refusals() {
        for (record, expected) in [
            (
                &b"6,12478,13814470280,-;cgroup: fork rejected by pids controller in /zz\n"[..],
                true,
            ),
            (b"4,1,2,-;fork rejected by pids controller in \n", true),
            (b"6,1,2,-;eth0: link up\n", false),
            (b"6,1,2,-;cgroup: fork rejected", false),
            (b"", false),
        ] {
            assert_eq!(tells_of_refusal(record), expected, "{record:?}");
        }
    }
}
