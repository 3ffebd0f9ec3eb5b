//! The time that an action has.
//!
//! Invariant: whoever has the same after another has the rest of it, and nobody more than there is.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The time that is left to clear something away.
#[derive(Clone, Copy)]
pub(super) struct Time {
    pub(super) end: Instant,
}

impl Time {
    pub(super) fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// The share that one of `all` has who have the same, one after the other. What one leaves the next
    /// ones have.
    pub(super) fn share(self, all: usize) -> Self {
        let all = u32::try_from(all).unwrap_or(u32::MAX).max(1);
        let end = Instant::now() + self.left() / all;
        Self { end }
    }

    /// So many eighths of it, if there is any.
    pub(super) fn eighths(self, of: u32, what: &str) -> Result<Duration> {
        match self.left() * of / 8 {
            Duration::ZERO => Err(Error::deadline_exceeded(format!("{what}: no time left"))),
            some => Ok(some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn the_time_is_shared() {
        let whole = Duration::from_secs(3600);
        let time = Time {
            end: Instant::now() + whole,
        };
        for all in [1, 2, 3, 100] {
            let share = time.share(all as usize).left();
            assert!(!share.is_zero() && share <= whole / all, "{all}");
        }
        assert!(time.eighths(5, "run").unwrap() <= whole * 5 / 8);
        let none = Time {
            end: Instant::now(),
        };
        assert_eq!(none.share(2).left(), Duration::ZERO);
        let error = none.eighths(8, "unmount /x").unwrap_err();
        let told = "unmount /x: no time left: context deadline exceeded";
        assert_eq!(error, Error::new(Code::DeadlineExceeded, told));
    }
}
