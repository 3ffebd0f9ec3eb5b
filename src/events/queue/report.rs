//! A queue, for people to look at.

use std::time::SystemTime;

use serde::Serialize;

use super::{Entry, Queue};

/// What waits in a queue.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many events wait, the one on its way included.
    pub events: usize,
    /// About how much memory they take.
    pub size_bytes: usize,
    /// How many have been dropped.
    pub dropped: u64,
    /// The manager leaves them unanswered, so they are kept in the bundles.
    pub unanswered: bool,
    /// How many exits are not told yet, because they are not kept yet.
    pub withheld: usize,
    /// The topic of the oldest.
    pub head: Option<&'static str>,
    /// Its container.
    pub head_container: Option<String>,
    /// How long it has waited.
    pub head_age_ms: Option<u64>,
}

impl Queue {
    /// What waits, for the dump.
    #[must_use]
    pub fn report(&self) -> Report {
        let inner = self.lock();
        let head = inner.head();
        let age = |entry: &Entry| {
            SystemTime::now()
                .duration_since(entry.time)
                .unwrap_or_default()
        };
        Report {
            events: inner.len(),
            size_bytes: inner.bytes,
            dropped: inner.dropped,
            unanswered: self.is_unanswered(),
            withheld: inner.withheld.len(),
            head: head.map(|entry| entry.topic),
            head_container: head.map(|entry| entry.container.to_string()),
            head_age_ms: head.map(|entry| crate::dump::ms(age(entry))),
        }
    }
}
