//! How long what is left is waited for; pure.
//!
//! Invariant: what may still go is waited for to the end, whoever's it is. What is left of the Go shim
//! and has nobody any more who could take it away stays: that need not be waited for.

use std::time::{Duration, Instant};

/// With what is left after a fault.
#[derive(Debug)]
pub struct Patience {
    end: Instant,
    /// How long nothing changes before it stays as it is; none where all is waited for.
    still: Option<Duration>,
    since: Instant,
    left: Vec<String>,
}

impl Patience {
    /// From `now` on, `longest` at most.
    pub fn new(now: Instant, longest: Duration, still: Option<Duration>) -> Self {
        Self {
            end: now + longest,
            still,
            since: now,
            left: Vec::new(),
        }
    }

    /// This is left `now`; whether that is the verdict.
    pub fn is_over(&mut self, left: &[String], now: Instant) -> bool {
        if self.left != left {
            self.left = left.to_vec();
            self.since = now;
        }
        // A process may clear away, or be about to end.
        let somebody = left.iter().any(|line| line.starts_with("+ process "));
        let still = self.still.filter(|_| !somebody);
        left.is_empty()
            || now > self.end
            || still.is_some_and(|still| now.duration_since(self.since) >= still)
    }
}
