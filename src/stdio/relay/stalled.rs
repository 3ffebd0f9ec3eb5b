//! What is particular to a relay whose FIFO nobody reads.
//!
//! Invariant: a container is held up by a reader that is away only once the FIFO, grown to what the
//! system allows, and a backlog of a given size are full, or never if output may be dropped; order is
//! kept, and when all that piled up has been read, everything is as before: memory, the FIFO's size,
//! and bytes that are spliced.
//!
//! The kernel does not tell how many readers a FIFO has while we hold an end for reading ourselves,
//! as we must. What counts is what readers do anyway. One that takes nothing for [`STALL`] is away, and
//! buffering begins; one that has taken nothing for [`ABSENT`] loses output, where dropping is asked
//! for. One that takes something now and then is slow: the container waits for it, as for any reader
//! of a pipe, and nothing is dropped.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::backlog::Backlog;
use super::{COPY_LEN, Door, Mode, RETRY, Relay, Source, Step, Tally};
use crate::errno::Words;
use crate::stdio::{Buffering, Overflow, Stream, sys};

/// How long a FIFO is full before its output is buffered.
const STALL: Duration = Duration::from_millis(100);
/// How long nothing is taken from a FIFO before output for it is dropped.
const ABSENT: Duration = Duration::from_secs(1);
/// How long the container is held up by a full backlog that is being read, so that a fast reader can
/// empty it and the bytes can be spliced again. A container that writes faster than anybody reads would
/// keep it full for ever.
const CATCH_UP: Duration = Duration::from_millis(50);

type Timer = Pin<Box<Sleep>>;

/// With a target that is full.
#[derive(Debug)]
pub(super) struct Patience {
    buffering: Buffering,
    /// Runs while the target is full.
    timer: Option<Timer>,
    /// There was no memory file to be had.
    refused: bool,
}

impl Default for Patience {
    fn default() -> Self {
        Self::with(Buffering::NONE)
    }
}

impl Patience {
    pub(super) fn with(buffering: Buffering) -> Self {
        Self {
            buffering,
            timer: None,
            refused: false,
        }
    }

    /// The target is full.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if self.buffering.size == 0 || self.refused {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(STALL)));
        timer.as_mut().poll(cx).map(|()| Step::Stalled)
    }

    /// Whether a pipe may hold as much.
    pub(super) fn allows(&self, size: u64) -> bool {
        self.buffering.size >= size
    }

    /// The target has taken something.
    pub(super) fn renew(&mut self) {
        self.timer = None;
        self.refused = false;
    }
}

/// What there is while nobody reads, and until what piled up has been read.
#[derive(Debug)]
pub(super) struct Stalled {
    /// For messages.
    stream: Stream,
    backlog: Backlog,
    /// When the target last took something.
    taken: Instant,
    /// Its readiness was cleared while there was nothing for it, not because it was full.
    untried: bool,
    /// What the FIFO held before it was grown.
    grown_from: Option<u64>,
    /// The container waits for the reader to catch up, or for it to be [`ABSENT`].
    wait: Option<(Wait, Timer)>,
    /// How lines end on the stream.
    line_end: &'static str,
    /// What to do afterwards.
    copies: bool,
    /// Dropping was logged and no gap has been told since.
    dropping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    CatchUp,
    Absent,
}

impl Stalled {
    /// Whether all that piled up is in the FIFO.
    pub(super) fn is_done(&self) -> bool {
        self.backlog.is_empty()
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        if !self.is_done() {
            let (unread, gap) = (self.backlog.len(), self.backlog.marked());
            let stream = self.stream;
            log::warn!("{stream}: closed with {unread} bytes unread and {gap} dropped before them");
        }
    }
}

impl Relay {
    /// Bytes in the backlog.
    pub(in crate::stdio) fn backlog(&self) -> u64 {
        self.stalled.as_ref().map_or(0, |s| s.backlog.len())
    }

    /// Since when the target has taken nothing, if it is full.
    pub(in crate::stdio) fn stuck(&self) -> Option<std::time::Instant> {
        let stalled = self.stalled.as_ref()?;
        (!stalled.is_done()).then(|| stalled.taken.into_std())
    }

    /// Begins to buffer. Where that cannot be, the container waits as without a buffer, until the
    /// reader is back and away again.
    pub(super) fn stall(&mut self) {
        self.patience.timer = None;
        match self.begin() {
            Ok(stalled) => {
                log::debug!("{}: nobody reads, buffering", self.stream);
                self.stalled = Some(Box::new(stalled));
                self.mode = Mode::Stalled;
            }
            Err(why) => {
                log::warn!(
                    "{}: nobody reads, cannot buffer: {why}",
                    self.stream,
                    why = why.words()
                );
                self.patience.refused = true;
            }
        }
    }

    fn begin(&mut self) -> io::Result<Stalled> {
        let mut backlog = Backlog::new(self.patience.buffering.size)?;
        let copies = if let Mode::Copy(pending) = &self.mode {
            if backlog.room(pending.len()) < pending.len() {
                return Err(Errno::ENOSPC.into());
            }
            backlog.put(pending)?;
            true
        } else {
            false
        };
        Ok(Stalled {
            stream: self.stream,
            backlog,
            taken: Instant::now(),
            untried: false,
            grown_from: self.grow(),
            wait: None,
            line_end: match self.source {
                Source::Terminal(_) => "\r\n",
                Source::Pipe => "\n",
            },
            copies,
            dropping: false,
        })
    }

    /// Grows the FIFO to what the system allows, but not beyond the buffer's own size: what the kernel
    /// counts against this user's pipes (fs.pipe-user-pages-soft) is missing elsewhere.
    fn grow(&self) -> Option<u64> {
        let fifo = self.to.as_fd();
        let before = sys::pipe_size(fifo).ok()?;
        let after = sys::largest_pipe().ok()?.min(self.patience.buffering.size);
        (after > before).then_some(())?;
        sys::resize_pipe(fifo, after)
            .inspect_err(|why| {
                log::debug!("{}: grow its FIFO: {why}", self.stream, why = why.words())
            })
            .ok()?;
        Some(before)
    }

    /// From the source to the backlog and from there to the FIFO, until nothing is left that would
    /// not have been there without a stall.
    pub(super) fn through_backlog(
        &mut self,
        cx: &mut Context<'_>,
        tally: &mut Tally,
    ) -> Poll<Step> {
        if let Poll::Ready(step) = self.put(cx, tally) {
            return Poll::Ready(step);
        }
        if self.is_over() {
            let copies = self.stalled.take().is_some_and(|stalled| stalled.copies);
            self.mode = match copies {
                true => Mode::Copy(Vec::new()),
                false => Mode::Splice,
            };
            // Its readiness was cleared while there was nothing for it: nobody will report it again.
            self.unwatch_target();
            log::debug!("{}: what was buffered has been read", self.stream);
            return Poll::Ready(Step::Again);
        }
        self.take(cx, tally)
    }

    /// After the end of the stream: the rest of the backlog, then the end.
    pub(super) fn hand_on(&mut self, cx: &mut Context<'_>, tally: &mut Tally) -> Poll<Step> {
        if self.stalled.as_ref().is_none_or(|s| s.is_done()) {
            return Poll::Ready(Step::Stop);
        }
        self.put(cx, tally)
    }

    /// Whether all that piled up has been read; gives the FIFO its size again then.
    fn is_over(&mut self) -> bool {
        let Some(stalled) = &mut self.stalled else {
            return true;
        };
        if !stalled.is_done() || self.from.is_none() || sys::unread(&self.to) > 0 {
            return false;
        }
        if let Some(before) = stalled.grown_from
            && let Err(why) = sys::resize_pipe(self.to.as_fd(), before)
        {
            log::debug!("{}: shrink its FIFO: {why}", self.stream, why = why.words());
        }
        true
    }

    /// From the backlog to the FIFO. Pending when that is full; with an empty backlog also when it is
    /// not, until something is read from it.
    fn put(&mut self, cx: &mut Context<'_>, tally: &mut Tally) -> Poll<Step> {
        let Some(stalled) = &mut self.stalled else {
            return Poll::Ready(Step::Again);
        };
        loop {
            let mut writable = match &self.to {
                Door::Plain(_) => return Poll::Ready(Step::Full),
                Door::Watched(_) if stalled.untried && !stalled.is_done() => None,
                Door::Watched(target) => match ready!(target.poll_write_ready(cx)) {
                    Ok(ready) => Some(ready),
                    Err(_) => return Poll::Ready(Step::Stop),
                },
            };
            if stalled.is_done() {
                stalled.untried = true;
                if let Some(ready) = &mut writable {
                    ready.clear_ready();
                }
                continue;
            }
            // Shorter than PIPE_BUF, so all of it or nothing (pipe(7)).
            let mark = stalled.backlog.mark(stalled.line_end);
            let mut chunk = [0; COPY_LEN];
            let peeked = match &mark {
                Some(mark) => Ok(mark.as_bytes()),
                None => stalled.backlog.peek(&mut chunk),
            };
            let written = peeked.and_then(|bytes| {
                let len = nix::unistd::write(&self.to, bytes)?;
                Ok(&bytes[..len])
            });
            return Poll::Ready(match written {
                Ok(bytes) => {
                    if mark.is_some() {
                        let gap = stalled.backlog.marked();
                        stalled.dropping = false;
                        log::warn!("{}: {gap} bytes of output dropped", self.stream);
                    } else {
                        tally.moved += bytes.len() as u64;
                        stalled.backlog.taken(bytes);
                    }
                    stalled.taken = Instant::now();
                    stalled.wait.take_if(|(why, _)| *why == Wait::Absent);
                    Step::Again
                }
                Err(Errno::EINTR) => Step::Again,
                Err(Errno::EAGAIN) => match &mut writable {
                    // tokio never takes a hang-up back: watch anew.
                    Some(ready) if ready.ready().is_write_closed() => {
                        self.unwatch_target();
                        self.rest(RETRY);
                        Step::Again
                    }
                    Some(ready) => {
                        ready.clear_ready();
                        continue;
                    }
                    None => {
                        stalled.untried = false;
                        continue;
                    }
                },
                // The reader went after the end of the stream; another may come.
                Err(Errno::EPIPE) if matches!(self.mode, Mode::Hold(_)) => Step::Again,
                Err(_) => Step::Stop,
            });
        }
    }

    /// From the source to the backlog, as far as there is room or it is made.
    fn take(&mut self, cx: &mut Context<'_>, tally: &mut Tally) -> Poll<Step> {
        let overflow = self.patience.buffering.overflow;
        let Some(stalled) = &mut self.stalled else {
            return Poll::Ready(Step::Again);
        };
        if self.from.is_none() {
            return Poll::Ready(Step::Eof);
        }
        if let Some((_, timer)) = &mut stalled.wait {
            ready!(timer.as_mut().poll(cx));
            stalled.wait = None;
        }
        let mut room = stalled.backlog.room(COPY_LEN);
        if room == 0 {
            let now = Instant::now();
            let idle = now - stalled.taken;
            let wait = if overflow == Overflow::Drop && idle >= ABSENT {
                let dropped = stalled.backlog.drop_oldest(COPY_LEN);
                tally.lost += dropped;
                if !stalled.dropping {
                    log::warn!("{}: nobody reads, dropping output", self.stream);
                }
                stalled.dropping = true;
                room = stalled.backlog.room(COPY_LEN);
                None
            } else if idle < STALL {
                Some((Wait::CatchUp, now + CATCH_UP))
            } else if overflow == Overflow::Drop {
                Some((Wait::Absent, stalled.taken + ABSENT))
            } else {
                None
            };
            if let Some((why, until)) = wait {
                stalled.wait = Some((why, Box::pin(sleep_until(until))));
                return Poll::Ready(Step::Again);
            }
            if room == 0 {
                return Poll::Pending;
            }
        }
        let mut bytes = Vec::new();
        if let Some(step) = ready!(self.read(cx, room, &mut bytes)) {
            return Poll::Ready(step);
        }
        if let Some(stalled) = &mut self.stalled
            && let Err(why) = stalled.backlog.put(&bytes)
        {
            // Its room was reserved: not known to happen.
            tally.lost += bytes.len() as u64;
            self.complain(why);
        }
        Poll::Ready(Step::Again)
    }

    /// A terminal's last bytes, for which there may be no room.
    pub(super) fn put_rest(&mut self, bytes: &[u8], tally: &mut Tally) {
        if let Some(stalled) = &mut self.stalled
            && !(stalled.backlog.admit(bytes.len()) && stalled.backlog.put(bytes).is_ok())
        {
            tally.lost += bytes.len() as u64;
            self.complain(Errno::ENOMEM);
        }
    }
}
