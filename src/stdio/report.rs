//! The streams of a process, for the dump.
//!
//! Invariant: reading them waits for no relay: a relay's lock is held for one turn, which does not block.

use serde::Serialize;

use super::io::{Io, STREAMS};
use crate::dump::age_ms;

/// One stream, or what takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamReport {
    /// `stdin`, `stdout`, `stderr`, `terminal`, or the stream of a logging program.
    pub stream: String,
    /// What it waits for.
    pub waits_for: &'static str,
    /// Bytes handed on.
    pub moved_bytes: u64,
    /// Bytes that could not be.
    pub lost_bytes: u64,
    /// Bytes taken from the container that wait here for a reader.
    pub buffered_bytes: u64,
    /// Bytes handed on that are still in the target's pipe.
    pub unread_bytes: Option<usize>,
    /// How long its reader has taken nothing although there is no more room. Of a logging program, from the
    /// first of the dumps in a row that have found its pipe full.
    pub stuck_ms: Option<u64>,
    /// How often it was woken.
    pub turns: u64,
}

impl StreamReport {
    /// Of what moves no bytes here.
    pub(super) fn of(stream: impl Into<String>, waits_for: &'static str) -> Self {
        Self {
            stream: stream.into(),
            waits_for,
            moved_bytes: 0,
            lost_bytes: 0,
            buffered_bytes: 0,
            unread_bytes: None,
            stuck_ms: None,
            turns: 0,
        }
    }
}

impl Io {
    /// All streams that the process has or had.
    pub fn report(&self) -> Vec<StreamReport> {
        let mut all = Vec::new();
        for stream in STREAMS {
            let lane = self.shared.lane(stream);
            let tally = lane.tally;
            if lane.relay.is_none() && tally.turns == 0 {
                continue;
            }
            let relay = lane.relay.as_ref();
            all.push(StreamReport {
                moved_bytes: tally.moved,
                lost_bytes: tally.lost,
                buffered_bytes: relay.map_or(0, |relay| relay.backlog()),
                unread_bytes: relay.and_then(|relay| relay.unread()),
                stuck_ms: relay.and_then(|relay| relay.stuck()).map(age_ms),
                turns: tally.turns,
                ..StreamReport::of(
                    stream.to_string(),
                    relay.map_or("nothing: it has ended", |relay| relay.waits_for()),
                )
            });
        }
        all.extend(self.shared.report_others());
        all
    }
}
