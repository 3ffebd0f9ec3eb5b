//! Moves bytes from a relay's source to its target, with one system call at a time.
//!
//! Invariant: a readiness flag is cleared only after the system call that was tried *while the flag was
//! held* failed and that side was seen empty or full. Readiness is edge-triggered, so an edge in between
//! is never lost.

use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;

use super::{Mode, RETRY, Relay, Source, Step, Tally, Target};
use crate::errno::Words;
use crate::stdio::sys;

impl Relay {
    pub(super) fn splice(&mut self, cx: &mut Context<'_>, tally: &mut Tally) -> Poll<Step> {
        self.look_if_over(cx, tally.moved);
        let Some(source) = &self.from else {
            return Poll::Ready(Step::Eof);
        };
        let Ok(mut readable) = ready!(source.poll_read_ready(cx)) else {
            return Poll::Ready(Step::Stop);
        };
        let writable = match ready!(self.to.room(cx, &mut self.patience)) {
            Ok(writable) => writable,
            Err(step) => return Poll::Ready(step),
        };
        let (from, to) = (source.get_ref().as_fd(), self.to.as_fd());
        Poll::Ready(match sys::splice(from, to) {
            Ok(0) => Step::Eof,
            Ok(moved) => {
                tally.moved += moved as u64;
                self.patience.renew();
                self.flowed(moved, tally.moved)
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
                log::debug!(
                    "{}: splice refused ({why}), copying",
                    self.stream,
                    why = why.words()
                );
                Step::Refused
            }
        })
    }

    pub(super) fn copy(&mut self, cx: &mut Context<'_>, tally: &mut Tally) -> Poll<Step> {
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
        let writable = match ready!(self.to.room(cx, &mut self.patience)) {
            Ok(writable) => writable,
            Err(step) => return Poll::Ready(step),
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
    pub(super) fn read(
        &mut self,
        cx: &mut Context<'_>,
        len: usize,
        into: &mut Vec<u8>,
    ) -> Poll<Option<Step>> {
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
    pub(super) fn complain(&mut self, why: Errno) {
        if !self.complained {
            log::warn!(
                "{}: dropping output that cannot be written: {why}",
                self.stream,
                why = why.words()
            );
        }
        self.complained = true;
    }
}
