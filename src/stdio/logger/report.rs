//! The pipes that a logging program reads, for the dump.
//!
//! Invariant: a look keeps no pipe open, and wakes nobody who does not find things as they were.
//!
//! The shim has no part in these pipes and is not woken by what happens in them. So since when one is full
//! is known from looks alone: from the first of those in a row that have found it full.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::Logger;
use crate::dump::age_ms;
use crate::stdio::sys::{self, End};
use crate::stdio::{Stream, StreamReport};

/// Read ends that the program's keeper owns.
#[derive(Debug)]
pub(super) struct Pipes(Vec<Pipe>);

#[derive(Debug)]
struct Pipe {
    stream: Stream,
    end: Weak<OwnedFd>,
    full_since: Option<Instant>,
}

impl Pipes {
    /// Of standard output and standard error, those that the program `reads`.
    pub(super) fn of(ends: &[Arc<OwnedFd>; 2], reads: [bool; 2]) -> Self {
        let streams = [Stream::Stdout, Stream::Stderr];
        let all = streams.into_iter().zip(ends).zip(reads);
        let read = all.filter(|(_, reads)| *reads);
        let pipe = |((stream, end), _): ((_, &Arc<OwnedFd>), _)| Pipe {
            stream,
            end: Arc::downgrade(end),
            full_since: None,
        };
        Self(read.map(pipe).collect())
    }
}

impl Pipe {
    /// Looks how full it is: the bytes in it, and whether a writer would have to wait.
    fn look(&mut self) -> Option<(usize, bool)> {
        let end = self.end.upgrade()?;
        // For this moment: only a write end is told of room. Without one it is not known.
        let full = sys::reopen(end.as_fd(), End::Write)
            .ok()
            .and_then(|write| sys::sides(end.as_fd(), write.as_fd()).ok())
            .is_some_and(|sides| !sides.room);
        let since = self.full_since.unwrap_or_else(Instant::now);
        self.full_since = full.then_some(since);
        Some((sys::unread(&end), full))
    }
}

impl Logger {
    /// One row for each stream that it reads.
    pub(in crate::stdio) fn report(&mut self) -> Vec<StreamReport> {
        let (over, lost) = (self.is_over(), self.lost());
        let row = |(nth, pipe): (usize, &mut Pipe)| {
            let looked = pipe.look();
            let waits_for = match looked {
                _ if over => "nothing: it has ended",
                Some((_, true)) => "the logging program to read; the container waits",
                _ => "the logging program",
            };
            StreamReport {
                // Nobody counts them by stream.
                lost_bytes: if nth == 0 { lost } else { 0 },
                unread_bytes: looked.map(|(unread, _)| unread),
                stuck_ms: pipe.full_since.map(age_ms),
                ..StreamReport::of(format!("{} by logger", pipe.stream), waits_for)
            }
        };
        self.pipes.0.iter_mut().enumerate().map(row).collect()
    }
}
