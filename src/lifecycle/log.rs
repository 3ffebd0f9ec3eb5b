//! The exit log: what died while a start is in flight, and whose it turned out to be.
//!
//! Invariant: it holds nothing that no open start can ask for.

use std::collections::VecDeque;

use crate::monitor::{Exit, Pid};

/// Room the empty log may keep after a burst, in entries.
const ROOM: usize = 64;

/// One log for all open starts, in the order of the reaps.
#[derive(Clone, Debug, Default)]
pub(super) struct ExitLog(VecDeque<Recorded>);

#[derive(Clone, Copy, Debug)]
struct Recorded {
    seq: u64,
    exit: Exit,
}

impl ExitLog {
    /// Writes an exit down; `seq` grows from call to call.
    pub(super) fn record(&mut self, seq: u64, exit: Exit) {
        self.0.push_back(Recorded { seq, exit });
    }

    /// The exit that a process which appeared as `pid` after `since`, and is gone, must have had:
    /// the last of that number, as the first ones may be a former owner's.
    pub(super) fn last(&self, since: u64, pid: Pid) -> Option<Exit> {
        let newest_first = self.0.iter().rev();
        newest_first
            .take_while(|recorded| recorded.seq > since)
            .find(|recorded| recorded.exit.pid == pid)
            .map(|recorded| recorded.exit)
    }

    /// Drops what is older than the oldest open start; everything when none is open.
    pub(super) fn trim(&mut self, oldest: Option<u64>) {
        let Some(oldest) = oldest else {
            self.0.clear();
            self.0.shrink_to(ROOM);
            return;
        };
        while self.0.front().is_some_and(|first| first.seq < oldest) {
            self.0.pop_front();
        }
    }

    /// Entries.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Entries there is room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}
