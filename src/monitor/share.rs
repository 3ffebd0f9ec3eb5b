//! How much of the thread a work may have that is as long as somebody else makes it.
//!
//! Invariant: over any time longer than a few slices, it has at most one part in [`PARTS`].

use std::time::{Duration, Instant};

/// One part is work, the others are for everybody else on the thread.
const PARTS: u32 = 4;
/// What may be used at once, before the first pause.
pub(super) const SLICE: Duration = Duration::from_millis(1);

/// What has been used and not been paused for.
#[derive(Debug)]
pub(super) struct Share {
    owed: Duration,
    at: Instant,
}

impl Share {
    pub(super) fn new(now: Instant) -> Self {
        let owed = Duration::ZERO;
        Self { owed, at: now }
    }

    /// Work from `begun` to `ended`; answers how long to leave it now.
    pub(super) fn used(&mut self, begun: Instant, ended: Instant) -> Duration {
        let left = begun.saturating_duration_since(self.at);
        let took = ended.saturating_duration_since(begun);
        self.owed = self.owed.saturating_sub(left / (PARTS - 1)) + took;
        self.at = ended;
        match self.owed < SLICE {
            true => Duration::ZERO,
            false => self.owed * (PARTS - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: fn(u64) -> Duration = Duration::from_micros;

    #[test]
    fn work_is_paused_for_in_proportion() {
        let start = Instant::now();
        let mut share = Share::new(start);
        let mut now = start;
        // Took, the pause that follows, the time until the next work.
        for (took, pause, left) in [
            (200, 0, 0),
            (700, 0, 0),
            (100, 3_000, 3_000),
            (900, 0, 0),
            // A stranger that makes one step long.
            (9_100, 30_000, 15_000),
            // Woken too early, it still owes half.
            (1_000, 18_000, 1_000_000),
            (999, 0, 0),
        ] {
            let ended = now + US(took);
            assert_eq!(share.used(now, ended), US(pause), "{took}");
            now = ended + US(left);
        }
    }

    #[test]
    fn it_has_its_part_and_no_more() {
        let start = Instant::now();
        let mut share = Share::new(start);
        let (mut now, mut used) = (start, Duration::ZERO);
        for n in 0..10_000 {
            let took = US(n * 7919 % 1_500);
            used += took;
            now = now + took + share.used(now, now + took);
        }
        let all = now - start;
        assert!(used <= all / PARTS + 2 * SLICE && used >= all / PARTS - 2 * SLICE);
    }
}
