//! What a relay writes to.
//!
//! Invariant: a target is watched only from when it was full, and is in the reactor once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFdReadyGuard;

use super::stalled::Patience;
use super::{COPY_LEN, RETRY, Relay, Step};
use crate::stdio::sys::{self, Kind, Watched};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A FIFO of the manager's, open for both directions.
    Fifo,
    /// The container's stdin.
    Pipe,
    /// The master end of the container's terminal.
    Terminal,
    /// A file: it has no readiness, and each write may take as long as its disk wants.
    File,
    /// A device: written to as it comes.
    Device,
}

impl Target {
    pub(super) fn of(kind: Kind) -> Self {
        match kind {
            Kind::Fifo => Self::Fifo,
            Kind::File => Self::File,
            Kind::Device => Self::Device,
        }
    }

    /// How much is read at once. For a file all that a pipe holds: each write is a thread's.
    pub(super) fn chunk(self) -> usize {
        match self {
            Self::File => 4 * COPY_LEN,
            _ => COPY_LEN,
        }
    }
}

type Writable<'a> = AsyncFdReadyGuard<'a, Arc<OwnedFd>>;

/// A descriptor that is written to; watched from the first time it is full. Most never are, and
/// each splice into a watched both-ways FIFO would wake the reactor once for nothing.
#[derive(Debug)]
pub(super) enum Door {
    Plain(Arc<OwnedFd>),
    Watched(Watched),
}

impl Door {
    /// Waits for room as far as that is known: with a flag to be cleared where it is watched. What to do
    /// instead when it is broken, or full for too long.
    pub(super) fn room(
        &self,
        cx: &mut Context<'_>,
        patience: &mut Patience,
    ) -> Poll<Result<Option<Writable<'_>>, Step>> {
        let Self::Watched(target) = self else {
            return Poll::Ready(Ok(None));
        };
        match target.poll_write_ready(cx) {
            Poll::Ready(Ok(writable)) => Poll::Ready(Ok(Some(writable))),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Step::Stop)),
            Poll::Pending => patience.poll(cx).map(Err),
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(fd) => fd.as_fd(),
            Self::Watched(fd) => fd.get_ref().as_fd(),
        }
    }
}

impl Relay {
    /// Starts to wait for room in the target.
    pub(super) fn watch_target(&mut self) {
        if !matches!(self.target, Target::File | Target::Device)
            && let Door::Plain(fd) = &self.to
            && let Ok(fd) = match self.target {
                // The output's relay has this one in the reactor, which takes each number once.
                Target::Terminal => fd.try_clone().map(Arc::new),
                Target::Fifo | Target::Pipe | Target::File | Target::Device => Ok(Arc::clone(fd)),
            }
            && let Ok(watched) = sys::watch(fd, Interest::WRITABLE)
        {
            self.to = Door::Watched(watched);
        } else {
            self.rest(RETRY);
        }
    }

    pub(super) fn unwatch_target(&mut self) {
        if let Door::Watched(watched) = &self.to {
            self.to = Door::Plain(Arc::clone(watched.get_ref()));
        }
    }
}
