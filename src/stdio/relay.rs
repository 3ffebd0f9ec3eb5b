//! One stream's relay: a state machine that is polled by its task.
//!
//! Invariant: a relay waits for exactly the side that a splice is stuck on, so it is woken only
//! when bytes can move (`turns` in [`super::Counters`]; tests `*_costs_nothing`).
//!
//! Readiness is edge-triggered. A readiness flag is cleared only after the system call that was
//! tried *while the flag was held* failed and that side was seen empty or full, so an edge in
//! between is never lost.

mod backlog;
mod file;
mod report;
mod stalled;
mod terminal;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::time::{Sleep, sleep};

use super::sys::{self, Kind, Watched};
use super::{Buffering, Stream};
use file::Writing;
use stalled::{Patience, Stalled};

/// Buffer of what cannot be spliced; there only while bytes are on their way.
const COPY_LEN: usize = 16 * 1024;
/// How long a terminal stays after the end of its input, so that the last line typed can be acted
/// on, before its process is hung up.
const LAST_LINE: Duration = Duration::from_millis(250);
/// Between two tries of what failed for want of descriptors or memory, or on a busy device.
const RETRY: Duration = Duration::from_millis(50);
/// Between two looks for a reader of a FIFO whose stream has ended: doubled from the first to the
/// last. The kernel wakes no writer when a reader opens a FIFO (`wake_up_partner` in fs/pipe.c
/// wakes readers only), so this one state has to look.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
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
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Fifo => Self::Fifo,
            Kind::File => Self::File,
            Kind::Device => Self::Device,
        }
    }

    /// How much is read at once. For a file all that a pipe holds: each write is a thread's.
    fn chunk(self) -> usize {
        match self {
            Self::File => 4 * COPY_LEN,
            _ => COPY_LEN,
        }
    }
}

/// A descriptor that is written to; watched from the first time it is full. Most never are, and
/// each splice into a watched both-ways FIFO would wake the reactor once for nothing.
#[derive(Debug)]
enum Door {
    Plain(Arc<OwnedFd>),
    Watched(Watched),
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(fd) => fd.as_fd(),
            Self::Watched(fd) => fd.get_ref().as_fd(),
        }
    }
}

#[derive(Debug)]
enum Mode {
    Splice,
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

    /// Has our own write end of the stdin FIFO closed at the next poll.
    pub(super) fn close_stdin(&mut self) {
        self.drop_keeper = matches!(self.target, Target::Pipe | Target::Terminal);
    }

    pub(super) fn standing(&self) -> Standing {
        match self.mode {
            Mode::Splice | Mode::Copy(_) | Mode::Stalled | Mode::Over => Standing::Moving,
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
                self.take_rest();
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
                Mode::Copy(_) => ready!(self.copy(cx, tally)),
                Mode::Stalled => ready!(self.through_backlog(cx, tally)),
                Mode::Hold(pause) => {
                    if sys::has_reader(self.to.as_fd()) {
                        ready!(self.hand_on(cx, tally))
                    } else {
                        let now = *pause;
                        *pause = LOOK.1.min(now * 2);
                        self.unwatch_target();
                        self.rest(now);
                        continue;
                    }
                }
                Mode::Over => return Poll::Ready(()),
            };
            match step {
                Step::Again => {}
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

    fn splice(&mut self, cx: &mut Context<'_>, tally: &mut Tally) -> Poll<Step> {
        let Some(source) = &self.from else {
            return Poll::Ready(Step::Eof);
        };
        let Ok(mut readable) = ready!(source.poll_read_ready(cx)) else {
            return Poll::Ready(Step::Stop);
        };
        let writable = match &self.to {
            Door::Plain(_) => None,
            Door::Watched(target) => match target.poll_write_ready(cx) {
                Poll::Ready(Ok(ready)) => Some(ready),
                Poll::Ready(Err(_)) => return Poll::Ready(Step::Stop),
                Poll::Pending => return self.patience.poll(cx),
            },
        };
        let (from, to) = (source.get_ref().as_fd(), self.to.as_fd());
        Poll::Ready(match sys::splice(from, to) {
            Ok(0) => Step::Eof,
            Ok(moved) => {
                tally.moved += moved as u64;
                self.patience.renew();
                Step::Again
            }
            Err(Errno::EINTR) => Step::Again,
            Err(Errno::EPIPE) => Step::Stop,
            Err(Errno::EAGAIN) => match sys::sides(from, to) {
                // With a full target, splice(2) does not report the end of the source. tokio never
                // takes a hang-up back, so one that was seen once is the end.
                Ok(sides)
                    if !sides.filled && (sides.hung_up || readable.ready().is_read_closed()) =>
                {
                    Step::Eof
                }
                Ok(sides) if !sides.filled => {
                    readable.clear_ready();
                    Step::Again
                }
                Ok(sides) if !sides.room => match writable {
                    Some(mut writable) => {
                        writable.clear_ready();
                        Step::Again
                    }
                    None => Step::Full,
                },
                // Something moved between the two calls.
                Ok(_) => Step::Again,
                Err(_) => Step::Full,
            },
            Err(why) => {
                log::debug!("{}: splice refused ({why}), copying", self.stream);
                Step::Refused
            }
        })
    }

    fn copy(&mut self, cx: &mut Context<'_>, tally: &mut Tally) -> Poll<Step> {
        if self.writing.is_some() {
            return self.written(cx, tally);
        }
        let Mode::Copy(pending) = &mut self.mode else {
            return Poll::Ready(Step::Again);
        };
        if pending.is_empty() {
            let mut bytes = std::mem::take(pending);
            if let Some(step) = ready!(self.read(cx, self.target.chunk(), &mut bytes)) {
                return Poll::Ready(step);
            }
            self.mode = Mode::Copy(bytes);
        }
        if self.target == Target::File {
            self.hand_over();
            return Poll::Ready(Step::Again);
        }
        let writable = match &self.to {
            Door::Plain(_) => None,
            Door::Watched(target) => match target.poll_write_ready(cx) {
                Poll::Ready(Ok(ready)) => Some(ready),
                Poll::Ready(Err(_)) => return Poll::Ready(Step::Stop),
                Poll::Pending => return self.patience.poll(cx),
            },
        };
        let Mode::Copy(pending) = &mut self.mode else {
            return Poll::Ready(Step::Again);
        };
        Poll::Ready(match nix::unistd::write(&self.to, pending) {
            Ok(written) if written > 0 => {
                tally.moved += written as u64;
                pending.drain(..written);
                self.complained = false;
                self.patience.renew();
                Step::Again
            }
            Err(Errno::EINTR) => Step::Again,
            Err(Errno::EAGAIN) => match writable {
                // A hang-up was seen, which tokio never takes back: watch anew.
                Some(writable) if writable.ready().is_write_closed() => {
                    self.unwatch_target();
                    self.rest(RETRY);
                    Step::Again
                }
                Some(mut writable) => {
                    writable.clear_ready();
                    Step::Again
                }
                None => Step::Full,
            },
            Err(Errno::EPIPE) if self.target == Target::Pipe => Step::Stop,
            Err(_) if self.target == Target::Terminal => Step::Stop,
            // A disk that is full for a moment must not stop the container for ever.
            failed => {
                tally.lost += pending.len() as u64;
                pending.clear();
                self.complain(failed.err().unwrap_or(Errno::ENOSPC));
                Step::Again
            }
        })
    }

    /// Reads `len` bytes at most from the source; without a step there are some.
    fn read(&mut self, cx: &mut Context<'_>, len: usize, into: &mut Vec<u8>) -> Poll<Option<Step>> {
        let Some(source) = &self.from else {
            return Poll::Ready(Some(Step::Eof));
        };
        let Ok(mut readable) = ready!(source.poll_read_ready(cx)) else {
            return Poll::Ready(Some(Step::Stop));
        };
        into.resize(len, 0);
        let read = nix::unistd::read(source.get_ref(), into);
        into.truncate(read.unwrap_or(0));
        Poll::Ready(Some(match read {
            Ok(0) => Step::Eof,
            Ok(_) => return Poll::Ready(None),
            Err(Errno::EINTR) => Step::Again,
            Err(Errno::EAGAIN) if !readable.ready().is_read_closed() => {
                readable.clear_ready();
                Step::Again
            }
            Err(Errno::EIO | Errno::EAGAIN) if matches!(self.source, Source::Terminal(_)) => {
                self.take_slave();
                Step::Again
            }
            Err(_) => Step::Eof,
        }))
    }

    /// Says once that output is lost, until some is written again.
    fn complain(&mut self, why: Errno) {
        if !self.complained {
            log::warn!(
                "{}: dropping output that cannot be written: {why}",
                self.stream
            );
        }
        self.complained = true;
    }

    /// Starts to wait for room in the target.
    fn watch_target(&mut self) {
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

    fn unwatch_target(&mut self) {
        if let Door::Watched(watched) = &self.to {
            self.to = Door::Plain(Arc::clone(watched.get_ref()));
        }
    }

    /// After the end of an output: gives up the read side of its FIFO, so that "no reader" can be
    /// seen, and keeps the write side. False when that cannot be done: a reader who waits for EOF
    /// must get it, so the FIFO is closed then.
    fn hold(&mut self) -> bool {
        // Before the reopen, which so finds a free descriptor.
        self.from = None;
        match sys::reopen(self.to.as_fd(), sys::End::Write) {
            Ok(write_end) => {
                self.to = Door::Plain(Arc::new(write_end));
                self.mode = Mode::Hold(LOOK.0);
                self.stalled.take_if(|stalled| stalled.is_done());
                true
            }
            Err(why) => {
                log::warn!("{}: close without looking for a reader: {why}", self.stream);
                false
            }
        }
    }

    /// Replaces the stdin FIFO, open for both directions, by its read end.
    fn give_up_keeper(&mut self) {
        let Some(both) = &self.from else {
            self.drop_keeper = false;
            return;
        };
        let read_end = sys::reopen(both.get_ref().as_fd(), sys::End::Read)
            .and_then(|fd| sys::watch(Arc::new(fd), Interest::READABLE));
        match read_end {
            Ok(read_end) => {
                self.from = Some(read_end);
                self.drop_keeper = false;
            }
            Err(why) => {
                log::debug!("{}: close our write end: {why}, trying again", self.stream);
                self.rest(RETRY);
            }
        }
    }

    fn rest(&mut self, pause: Duration) {
        self.nap = Some(Box::pin(sleep(pause)));
    }
}
