//! What is particular to a relay that writes to a file.
//!
//! Invariant: a write that takes long, on a slow or dead disk, holds its own stream and its threads,
//! nothing else. A stream has one write at a time, so order is kept and nothing piles up: what comes
//! meanwhile waits in the container's pipe. A write under way when its relay is closed goes on, and
//! keeps the file until it is done.
//!
//! The file is open for writing only in the thread that writes, whose descriptors are its own. A process
//! that the shim starts has copies of all descriptors of the shim for a moment, and closing one that is
//! open for writing asks the disk (flush): a dead one would hold every call of a runtime up. A
//! descriptor of the path alone (`O_PATH`) has nothing to flush.

use std::fmt;
use std::mem::take;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;

use super::{Door, Mode, RETRY, Relay, Step, Tally};
use crate::blocking::blocking;
use crate::error::Result;
use crate::stdio::sys;

/// A write on a thread of its own.
pub(super) struct Writing {
    bytes: Arc<Vec<u8>>,
    outcome: Pin<Box<dyn Future<Output = Result<Written>> + Send>>,
}

/// What has become of a write.
struct Written {
    len: usize,
    /// Why not all of it was.
    failed: Option<Errno>,
}

impl Relay {
    /// Has the bytes read written.
    pub(super) fn hand_over(&mut self) {
        let Mode::Copy(pending) = &mut self.mode else {
            return;
        };
        let file = match &self.to {
            Door::Plain(fd) => Arc::clone(fd),
            Door::Watched(fd) => Arc::clone(fd.get_ref()),
        };
        let bytes = Arc::new(take(pending));
        let work = Arc::clone(&bytes);
        let outcome = Box::pin(blocking("write-output", move || apart(&file, &work)));
        self.writing = Some(Writing { bytes, outcome });
    }

    /// Waits for the write under way.
    pub(super) fn written(&mut self, cx: &mut Context<'_>, tally: &mut Tally) -> Poll<Step> {
        let Some(writing) = &mut self.writing else {
            return Poll::Ready(Step::Again);
        };
        let outcome = ready!(writing.outcome.as_mut().poll(cx));
        let Some(Writing { bytes, .. }) = self.writing.take() else {
            return Poll::Ready(Step::Again);
        };
        match outcome {
            Ok(Written { len, failed }) => {
                tally.moved += len as u64;
                tally.lost += (bytes.len() - len) as u64;
                match failed {
                    Some(why) => self.complain(why),
                    None => self.complained = false,
                }
            }
            Err(why) => {
                // No thread to be had: nothing has been written.
                log::debug!("{}: {why}, trying again", self.stream);
                if let Mode::Copy(pending) = &mut self.mode {
                    let later = std::mem::replace(pending, bytes.to_vec());
                    pending.extend(later);
                }
                self.rest(RETRY);
            }
        }
        Poll::Ready(Step::Again)
    }
}

/// Writes in a thread that shares no descriptors with the others. It must not give any back: this one
/// does, and tells that it is done.
fn apart(path: &OwnedFd, bytes: &[u8]) -> Written {
    let write_apart = || {
        sys::alone_with(path.as_fd());
        match sys::open_again(path.as_fd()) {
            Ok(file) => write(&file, bytes),
            Err(why) => nothing(why),
        }
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("write-output".into())
            .stack_size(64 * 1024);
        match thread.spawn_scoped(scope, write_apart) {
            Ok(thread) => thread.join().unwrap_or_else(|_| nothing(Errno::EIO)),
            Err(why) => nothing(Errno::from_raw(why.raw_os_error().unwrap_or(libc::EAGAIN))),
        }
    })
}

fn nothing(why: Errno) -> Written {
    Written {
        len: 0,
        failed: Some(why),
    }
}

/// Writes as much as can be written.
fn write(file: &OwnedFd, bytes: &[u8]) -> Written {
    let mut len = 0;
    while len < bytes.len() {
        let failed = match nix::unistd::write(file, &bytes[len..]) {
            Ok(written) if written > 0 => {
                len += written;
                continue;
            }
            Err(Errno::EINTR) => continue,
            failed => failed.err().unwrap_or(Errno::ENOSPC),
        };
        return Written {
            len,
            failed: Some(failed),
        };
    }
    Written { len, failed: None }
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writing {} bytes", self.bytes.len())
    }
}
