//! How much of the thread a work may have that is as long as somebody else makes it.
//!
//! Invariant: over any time longer than a few slices, it has at most one part in [`PARTS`]; and only for what
//! it has used is there a pause, not for time in which this thread did not run: it may have been stopped, or
//! have had no processor, for as long as somebody else liked.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// One part is work, the others are for everybody else on the thread.
const PARTS: u32 = 4;
/// What may be used at once, before the first pause.
pub(super) const SLICE: Duration = Duration::from_millis(1);

/// A spell of work, on one thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spell {
    pub(super) begun: Instant,
    /// What this thread had used of its processor by then.
    used: Option<Duration>,
}

impl Spell {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            used: used(),
        }
    }

    /// When it would have ended by now, had the thread run all the time.
    pub(super) fn ended(&self) -> Instant {
        let took = used()
            .zip(self.used)
            .map(|(now, then)| now.saturating_sub(then));
        let took = took.unwrap_or_else(|| self.begun.elapsed());
        self.begun + took
    }
}

/// What this thread has used of its processor.
fn used() -> Option<Duration> {
    let used = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    used.ok().map(Duration::from)
}

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

    /// Seen with the time on the wall: after a stop of an hour, no exit was seen for three.
    #[test]
    fn time_without_the_processor_is_not_paused_for() {
        let stop = Duration::from_millis(50);
        let spell = Spell::begin();
        std::thread::sleep(stop);
        let ended = spell.ended();
        assert!(ended < spell.begun + stop / 2);
        let mut share = Share::new(spell.begun);
        assert!(share.used(spell.begun, ended) < stop);
        // Work is.
        while spell.ended() < ended + SLICE {}
        assert!(share.used(ended, spell.ended()) >= SLICE * (PARTS - 1));
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
