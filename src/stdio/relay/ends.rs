//! A FIFO of the manager's, which a relay opens for both directions, and the end of a stream: which side is
//! given up when.
//!
//! Invariant: whoever waits for EOF gets it. The side that keeps the other's end of file away is closed at
//! the end of the stream, or the whole FIFO is where that cannot be done.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;

use super::{Door, Mode, RETRY, Relay, Target};
use crate::errno::Words;
use crate::stdio::sys;

/// Between two looks for a reader of a FIFO whose stream has ended: doubled from the first to the
/// last. The kernel wakes no writer when a reader opens a FIFO (`wake_up_partner` in fs/pipe.c
/// wakes readers only), so this one state has to look.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

impl Relay {
    /// Has our own write end of the stdin FIFO closed at the next poll.
    pub(in crate::stdio) fn close_stdin(&mut self) {
        self.drop_keeper = matches!(self.target, Target::Pipe | Target::Terminal);
    }

    /// After the end of an output: gives up the read side of its FIFO, so that "no reader" can be
    /// seen, and keeps the write side. False when that cannot be done: a reader who waits for EOF
    /// must get it, so the FIFO is closed then.
    pub(super) fn hold(&mut self) -> bool {
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
                log::warn!(
                    "{}: close without looking for a reader: {why}",
                    self.stream,
                    why = why.words()
                );
                false
            }
        }
    }

    /// Replaces the stdin FIFO, open for both directions, by its read end.
    pub(super) fn give_up_keeper(&mut self) {
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
                log::debug!(
                    "{}: close our write end: {why}, trying again",
                    self.stream,
                    why = why.words()
                );
                self.rest(RETRY);
            }
        }
    }

    /// Lets time pass until the next look for a reader, `now` and longer each time.
    pub(super) fn look_later(&mut self, now: Duration) {
        self.mode = Mode::Hold(LOOK.1.min(now * 2));
        self.unwatch_target();
        self.rest(now);
    }
}
