//! The exit log: what died while a start is in flight whose process has no name yet.
//!
//! Invariant: it holds nothing that no such start can ask for, and never more than [`MOST`] entries.
//!
//! At that bound the oldest entry goes: the exit of a process that died [`MOST`] others' deaths ago and
//! was not named since. A start that may have missed its own exit so is [told](ExitLog::has_lost), and
//! then takes no other one's for it.

use std::collections::VecDeque;

use crate::monitor::{Exit, Moment, Pid};

/// As many as there are pids on most machines.
pub(super) const MOST: usize = 32_768;
/// Room the empty log may keep after a burst, in entries.
const ROOM: usize = 64;

/// One log for all such starts, in the order of the reaps.
#[derive(Clone, Debug, Default)]
pub(super) struct ExitLog {
    entries: VecDeque<Recorded>,
    /// The newest that was dropped at the bound; 0 if none was.
    lost: u64,
}

/// An exit, and when the process was born, if that could be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) born: Option<Moment>,
}

#[derive(Clone, Copy, Debug)]
struct Recorded {
    seq: u64,
    ended: Ended,
}

impl ExitLog {
    /// Writes an exit down; `seq` grows from call to call.
    pub(super) fn record(&mut self, seq: u64, ended: Ended) {
        if self.entries.len() == MOST
            && let Some(oldest) = self.entries.pop_front()
        {
            self.lost = oldest.seq;
        }
        self.entries.push_back(Recorded { seq, ended });
    }

    /// The exits of processes that had this pid and were reaped after `since`, in that order.
    pub(super) fn of(&self, since: u64, pid: Pid) -> impl Iterator<Item = Ended> {
        let all = self.entries.iter();
        all.filter(move |recorded| recorded.seq > since && recorded.ended.exit.pid == pid)
            .map(|recorded| recorded.ended)
    }

    /// Whether an exit after `since` is in it no more.
    pub(super) fn has_lost(&self, since: u64) -> bool {
        self.lost > since
    }

    /// Drops what is older than the oldest start that may ask; everything when none may.
    pub(super) fn trim(&mut self, oldest: Option<u64>) {
        let Some(oldest) = oldest else {
            self.entries.clear();
            self.entries.shrink_to(ROOM);
            return;
        };
        while self.entries.front().is_some_and(|first| first.seq < oldest) {
            self.entries.pop_front();
        }
    }

    /// Entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entries there is room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity()
    }
}
