//! One stream's relay: a state machine that is polled by its task.
//!
//! Invariant: a relay waits for exactly the side that a splice is stuck on, so it is woken only
//! when bytes can move (`turns` in [`super::Counters`]; tests `*_costs_nothing`).

mod backlog;
mod ends;
mod file;
mod flow;
mod report;
mod stalled;
mod target;
mod terminal;
mod transfer;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::{Sleep, sleep};

use super::sys::{self, Kind, Watched};
use super::{Buffering, Stream};
use file::Writing;
use flow::Flow;
use stalled::{Patience, Stalled};
use target::{Door, Target};

/// Buffer of what cannot be spliced; there only while bytes are on their way.
const COPY_LEN: usize = 16 * 1024;
/// How long a terminal stays after the end of its input, so that the last line typed can be acted
/// on, before its process is hung up.
const LAST_LINE: Duration = Duration::from_millis(250);
/// Between two tries of what failed for want of descriptors or memory, or on a busy device.
const RETRY: Duration = Duration::from_millis(50);

/// What a relay has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) moved: u64,
    pub(super) lost: u64,
    pub(super) turns: u64,
}

/// What is still missing before an output counts as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The container's pipe is open.
    Moving,
    /// All of it is in the FIFO, where nobody reads.
    Unread,
    Delivered,
}

#[derive(Debug)]
enum Mode {
    Splice,
    /// Not watched, as many lines are written to it: looked at by the clock.
    Clocked(Arc<OwnedFd>),
    /// The bytes read and not yet written.
    Copy(Vec<u8>),
    /// Nobody reads: what comes goes through a backlog.
    Stalled,
    /// The stream has ended; the next look for a reader comes after this.
    Hold(Duration),
    /// A terminal's input has ended and its last line has been typed.
    Over,
}

/// What a relay reads from.
#[derive(Debug)]
enum Source {
    /// A pipe or FIFO.
    Pipe,
    /// The master end of a terminal, and the slave end once the container had none open.
    Terminal(Option<OwnedFd>),
}

/// What to do next.
enum Step {
    Again,
    /// A stream flows: again, after a moment for others.
    Flows,
    /// The stream has ended.
    Eof,
    /// The target will never take anything again, or the source is broken.
    Stop,
    /// Wait until the target has room.
    Full,
    /// The target has been full for so long that its reader must be away.
    Stalled,
    /// The kernel refuses to splice here.
    Refused,
}

#[derive(Debug)]
pub(super) struct Relay {
    stream: Stream,
    /// `None` once the stream has ended.
    from: Option<Watched>,
    to: Door,
    target: Target,
    mode: Mode,
    nap: Option<Pin<Box<Sleep>>>,
    source: Source,
    /// `close_stdin` was called and our write end is not closed yet.
    drop_keeper: bool,
    /// The terminal is to be closed.
    finish: bool,
    /// What a file is being given.
    writing: Option<Writing>,
    /// A lost write was logged and none has succeeded since.
    complained: bool,
    /// With a full target.
    patience: Patience,
    flow: Flow,
    /// There while nobody reads and until what piled up has been read.
    stalled: Option<Box<Stalled>>,
}

impl Relay {
    /// From a container's pipe to a FIFO opened for both directions.
    pub(super) fn to_fifo(stream: Stream, pipe: OwnedFd, fifo: OwnedFd) -> io::Result<Self> {
        Self::new(stream, pipe, Arc::new(fifo), Target::Fifo)
    }

    /// From a container's pipe to a file or device, which other relays may share.
    pub(super) fn to_file(
        stream: Stream,
        pipe: OwnedFd,
        file: Arc<OwnedFd>,
        kind: Kind,
    ) -> io::Result<Self> {
        Self::new(stream, pipe, file, Target::of(kind))
    }

    /// From a FIFO opened for both directions to a container's stdin.
    pub(super) fn to_container(fifo: OwnedFd, pipe: OwnedFd) -> io::Result<Self> {
        Self::new(Stream::Stdin, fifo, Arc::new(pipe), Target::Pipe)
    }

    fn new(stream: Stream, from: OwnedFd, to: Arc<OwnedFd>, target: Target) -> io::Result<Self> {
        Self::between(stream, Arc::new(from), to, target)
    }

    fn between(
        stream: Stream,
        from: Arc<OwnedFd>,
        to: Arc<OwnedFd>,
        target: Target,
    ) -> io::Result<Self> {
        Ok(Self {
            stream,
            from: Some(sys::watch(from, Interest::READABLE)?),
            to: Door::Plain(to),
            target,
            mode: match target {
                // A file is opened for appending, which splice(2) refuses; not every device takes it.
                Target::File | Target::Device | Target::Terminal => Mode::Copy(Vec::new()),
                Target::Fifo | Target::Pipe => Mode::Splice,
            },
            nap: None,
            source: Source::Pipe,
            drop_keeper: false,
            finish: false,
            writing: None,
            complained: false,
            patience: Patience::default(),
            flow: Flow::default(),
            stalled: None,
        })
    }

    /// With a buffer, used while nobody reads the FIFO.
    pub(super) fn buffered(mut self, buffering: Buffering) -> Self {
        self.patience = Patience::with(buffering);
        self
    }

    /// Closes its descriptors; a file where its disk cannot hold anything up.
    pub(super) fn close(self) {
        if self.target != Target::File {
            return;
        }
        drop(self.from);
        match self.to {
            Door::Plain(file) => sys::close_elsewhere(file),
            // Never of a file, which has no readiness.
            Door::Watched(file) => drop(file),
        }
    }

    /// As after a splice that was refused.
    #[cfg(test)]
    pub(super) fn copying(mut self) -> Self {
        self.mode = Mode::Copy(Vec::new());
        self
    }

    pub(super) fn standing(&self) -> Standing {
        match self.mode {
            Mode::Splice | Mode::Clocked(_) | Mode::Copy(_) | Mode::Stalled | Mode::Over => {
                Standing::Moving
            }
            Mode::Hold(_) if self.stalled.is_some() => match sys::has_reader(self.to.as_fd()) {
                true => Standing::Moving,
                false => Standing::Unread,
            },
            Mode::Hold(_) if sys::unread(&self.to) == 0 || sys::has_reader(self.to.as_fd()) => {
                Standing::Delivered
            }
            Mode::Hold(_) => Standing::Unread,
        }
    }

    /// Moves what can be moved. Ready when the relay has ended and its descriptors may be closed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, tally: &mut Tally) -> Poll<()> {
        loop {
            if self.finish {
                self.finish = false;
                if self.target == Target::Terminal {
                    return Poll::Ready(());
                }
                self.take_rest(tally);
            }
            if let Some(nap) = &mut self.nap {
                ready!(nap.as_mut().poll(cx));
                self.nap = None;
            }
            if self.drop_keeper {
                self.give_up_keeper();
                continue;
            }
            let step = match &mut self.mode {
                Mode::Splice => ready!(self.splice(cx, tally)),
                Mode::Clocked(_) => self.by_the_clock(cx, tally),
                Mode::Copy(_) => ready!(self.copy(cx, tally)),
                Mode::Stalled => ready!(self.through_backlog(cx, tally)),
                Mode::Hold(pause) => {
                    if sys::has_reader(self.to.as_fd()) {
                        ready!(self.hand_on(cx, tally))
                    } else {
                        let pause = *pause;
                        self.look_later(pause);
                        continue;
                    }
                }
                Mode::Over => return Poll::Ready(()),
            };
            match step {
                Step::Again => {}
                Step::Flows => return self.let_others_go_on(cx),
                Step::Stop => return Poll::Ready(()),
                Step::Eof => match self.target {
                    Target::Pipe | Target::File | Target::Device => return Poll::Ready(()),
                    Target::Terminal => {
                        self.mode = Mode::Over;
                        self.rest(LAST_LINE);
                    }
                    Target::Fifo => {
                        if !self.hold() {
                            if self.stalled.is_none() {
                                return Poll::Ready(());
                            }
                            self.rest(RETRY);
                        }
                    }
                },
                Step::Full => self.watch_target(),
                Step::Stalled => self.stall(),
                Step::Refused => self.mode = Mode::Copy(Vec::new()),
            }
        }
    }

    fn rest(&mut self, pause: Duration) {
        self.nap = Some(Box::pin(sleep(pause)));
    }
}
