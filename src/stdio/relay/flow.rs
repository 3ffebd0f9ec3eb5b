//! What is particular to a stream that flows: pipes that hold more, and others who go first.
//!
//! Invariant: it costs nothing while nothing flows. The wake-ups after the last bytes are few, and the last
//! of them, within two seconds, gives the pipes their size back.
//!
//! A relay that looks again at once finds what was written since, which is little: each page, or each line,
//! is then a turn of the reactor and a switch of processes. So it lets its processes go first and then moves
//! all that they have written meanwhile:
//!
//! | what is written | what the relay does after a move |
//! |---|---|
//! | pages | gives others its processor, once; seldom where many want it, as it is long gone then |
//! | lines, and many of them | does not look for [`TICK`], nor is it woken by what is written |
//!
//! How fast that is, and for how much processor time, is in docs/bench.md.

use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::time::{Sleep, sleep};

use super::{Mode, RETRY, Relay, Step, Tally, Target};
use crate::errno::Words;
use crate::stdio::sys;

/// A page: less at once is a program's single line.
const SOME: usize = 4096;
/// Of a pipe of the usual size (64 KiB) nearly all, however its writer filled the pages: it may have been
/// waiting for room.
const FULL: usize = 48 * 1024;
/// What the pipes hold while a stream flows. More is not faster, as it leaves the processor's caches.
const FLOWING: u64 = 256 * 1024;
/// The same of many lines: more than is written until the next look, which may be two [`TICK`]s away.
const LINES: u64 = 512 * 1024;
/// What a writer and a reader of such pipes are done in.
const TURN: Duration = Duration::from_micros(500);
/// How many moves the processor is kept for after others had it for longer.
const KEEP: u32 = 64;
/// How long nothing has moved when it counts as over.
const OVER: Duration = Duration::from_secs(1);
/// So many moves of less than [`SOME`] within so long are many.
const MANY: (u32, Duration) = (16, Duration::from_millis(4));
/// Between two looks at a stream of many lines.
const TICK: Duration = Duration::from_millis(1);

/// Of one stream.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// The last move emptied a full pipe. One may have gone where nobody reads; after two, somebody does.
    full: bool,
    /// How many more moves the processor is kept for.
    keep: u32,
    /// Small moves, and since when they are counted.
    small: Option<(Instant, u32)>,
    /// What the source and the target held before.
    before: [Option<u64>; 2],
    /// What they hold now, while [`over`](Self::over) runs.
    size: u64,
    /// Runs while they hold more, and how much had moved when it was started.
    over: Option<(Pin<Box<Sleep>>, u64)>,
}

impl Relay {
    /// What comes after so many bytes were moved at once.
    pub(super) fn flowed(&mut self, moved: usize, total: u64) -> Step {
        let again = std::mem::replace(&mut self.flow.full, moved >= FULL);
        if again && self.flow.full {
            self.grow_pipes(FLOWING, total);
        }
        if moved >= SOME {
            return match self.flow.keep.checked_sub(1) {
                None => Step::Flows,
                Some(left) => {
                    self.flow.keep = left;
                    Step::Again
                }
            };
        }
        if self.is_one_of_many()
            && (self.grow_pipes(LINES, total) || self.grow_pipes(FLOWING, total))
        {
            self.stop_watching();
        }
        Step::Again
    }

    /// Lets other processes have this one's processor, then this process's other tasks go on, and wakes
    /// the task.
    pub(super) fn let_others_go_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begun = Instant::now();
        std::thread::yield_now();
        if begun.elapsed() > TURN {
            self.flow.keep = KEEP;
        }
        // Of the first poll nothing else comes; unlike a mere wake-up it has the reactor looked at.
        pin!(tokio::task::yield_now()).poll(cx)
    }

    /// Whether such small moves are many.
    fn is_one_of_many(&mut self) -> bool {
        let now = Instant::now();
        let (since, count) = match self.flow.small {
            Some((since, count)) if now - since < MANY.1 => (since, count + 1),
            _ => (now, 1),
        };
        self.flow.small = (count < MANY.0).then_some((since, count));
        count >= MANY.0
    }

    /// Has the pipes hold more, for as long as bytes move; not if a buffer so large is not wanted.
    fn grow_pipes(&mut self, size: u64, total: u64) -> bool {
        if !self.patience.allows(size) {
            return false;
        }
        if self.flow.over.is_none() || self.flow.size < size {
            let [source, target] = self.flow.before;
            let grown = [
                self.source().and_then(|pipe| grow(pipe, size)),
                grow(self.to.as_fd(), size),
            ];
            // The first size is the one to go back to.
            self.flow.before = [source.or(grown[0]), target.or(grown[1])];
            self.flow.size = size;
            self.flow.over = Some((Box::pin(sleep(OVER)), total));
        }
        true
    }

    /// Gives the pipes their size back once nothing has moved for a while.
    pub(super) fn look_if_over(&mut self, cx: &mut Context<'_>, total: u64) {
        while let Some((timer, then)) = &mut self.flow.over
            && timer.as_mut().poll(cx).is_ready()
        {
            if *then != total {
                self.flow.over = Some((Box::pin(sleep(OVER)), total));
                continue;
            }
            self.flow.over = None;
            // One that nobody has read out stays as it is until more flows.
            let [source, target] = self.flow.before;
            self.flow.before = [
                source.filter(|size| self.source().is_some_and(|pipe| !shrink(pipe, *size))),
                target.filter(|size| !shrink(self.to.as_fd(), *size)),
            ];
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        match (&self.mode, &self.from) {
            (Mode::Clocked(pipe), _) => Some(pipe.as_fd()),
            (_, from) => from.as_ref().map(|from| from.get_ref().as_fd()),
        }
    }

    /// From here on the source is looked at by the clock. Only an output's: a container's input may
    /// have its FIFO exchanged.
    fn stop_watching(&mut self) {
        if self.target == Target::Fifo
            && let Some(source) = self.from.take()
        {
            // Its reactor would be woken by each write.
            self.mode = Mode::Clocked(source.into_inner());
            self.rest(TICK);
        }
    }

    /// One look at a stream that is not watched.
    pub(super) fn by_the_clock(&mut self, cx: &mut Context<'_>, tally: &mut Tally) -> Step {
        self.look_if_over(cx, tally.moved);
        let Mode::Clocked(source) = &self.mode else {
            return Step::Again;
        };
        match sys::splice(source.as_fd(), self.to.as_fd()) {
            Ok(0) => Step::Eof,
            Ok(moved) => {
                tally.moved += moved as u64;
                self.patience.renew();
                // Nearly as much as there is room for is not lines any more.
                match (moved as u64) < self.flow.size / 4 * 3 {
                    true => self.rest(TICK),
                    false => self.watch_again(),
                }
                Step::Again
            }
            Err(Errno::EINTR) => Step::Again,
            Err(Errno::EPIPE) => Step::Stop,
            // Nothing was written, or there is no room, or what else there is to find out.
            Err(_) => {
                self.watch_again();
                Step::Again
            }
        }
    }

    fn watch_again(&mut self) {
        let Mode::Clocked(source) = &self.mode else {
            return;
        };
        match sys::watch(Arc::clone(source), Interest::READABLE) {
            Ok(watched) => {
                self.from = Some(watched);
                self.mode = Mode::Splice;
            }
            Err(why) => {
                log::debug!(
                    "{}: watch it: {why}, trying again",
                    self.stream,
                    why = why.words()
                );
                self.rest(RETRY);
            }
        }
    }
}

/// Answers what it held before, unless that is as much or more cannot be had.
fn grow(pipe: BorrowedFd<'_>, size: u64) -> Option<u64> {
    let before = sys::pipe_size(pipe).ok().filter(|now| *now < size)?;
    sys::resize_pipe(pipe, size).ok()?;
    Some(before)
}

fn shrink(pipe: BorrowedFd<'_>, size: u64) -> bool {
    sys::resize_pipe(pipe, size).is_ok()
}
