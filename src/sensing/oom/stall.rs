//! Memory that is short while the kernel kills nobody: its OOM killer is switched off (cgroup v1), or all that
//! could be killed is spared (`oom_score_adj` -1000). The container's processes wait, or try without end.
//!
//! Invariant: told once when it begins, by a TaskOOM and `/cotter/oom`, and once when it is over, by
//! `/cotter/oom` (`tests/resources/oom_stall.rs`); at the latest before the exit of the container's init.

use std::time::{Duration, Instant, SystemTime};

use super::{Sensed, State};
use crate::cgroup::Cgroup;
use crate::events::describe;
use crate::proto::cotter_oom::OomKill;
use crate::proto::cotter_oom::oom_kill::Stall;
use crate::proto::timestamp;

/// Between two looks while memory is short: nobody tells of the end.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// A kill comes sooner, unless there is none; and who could not have memory for so long has it by then.
const LONG: Duration = Duration::from_secs(2);

/// What is seen of a cgroup at one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub kills: u64,
    /// The kernel says itself that processes wait for memory and that it will kill none.
    pub held: bool,
    /// How often memory could not be had.
    pub shortages: u64,
}

/// What has been seen so far. Pure.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    before: Seen,
    /// The first and the last shortage of some that none was killed for.
    unkilled: Option<(Instant, Instant)>,
}

impl Shortage {
    /// Whether memory is short and nobody is killed.
    pub(super) fn saw(&mut self, now: Instant, seen: Seen) -> bool {
        let before = std::mem::replace(&mut self.before, seen);
        if seen.kills != before.kills {
            self.unkilled = None;
        } else if seen.shortages > before.shortages {
            let (first, _) = self.unkilled.unwrap_or((now, now));
            self.unkilled = Some((first, now));
        } else if self.unkilled.is_some_and(|(_, last)| now - last >= LONG) {
            self.unkilled = None;
        }
        seen.held
            || self
                .unkilled
                .is_some_and(|(first, last)| last - first >= LONG)
    }

    /// Whether it may be so soon, or be over.
    pub(super) fn is_open(&self) -> bool {
        self.before.held || self.unkilled.is_some()
    }
}

impl dyn Sensed {
    /// What the cgroup says; `words` of the kernel's, where it does not count itself.
    pub(super) fn memory_seen(&self, words: u64) -> Option<Seen> {
        let cgroup = self.cgroup()?;
        let now = cgroup.shortage().ok()?;
        Some(Seen {
            kills: now.kills,
            held: now.held,
            shortages: now.count.unwrap_or(words),
        })
    }

    /// Tells if this is new.
    pub(super) fn memory_is_short(&self, short: bool) {
        let mut state = self.senses().oom.state();
        // What it has left behind is nobody's business any more.
        if state.stalled != short && !(short && self.init().reaped) {
            self.tell_stall(&mut state, short);
        }
    }

    fn tell_stall(&self, state: &mut State, short: bool) {
        state.stalled = short;
        let stall = match short {
            true => Stall::STALL_BEGAN,
            false => Stall::STALL_ENDED,
        };
        let event = OomKill {
            container_id: self.id().to_owned(),
            at: Some(timestamp(Some(SystemTime::now()))).into(),
            kills_total: state.recent.back().map_or(0, |last| last.kills_total),
            limit_bytes: self.cgroup().and_then(Cgroup::memory_limit).unwrap_or(0),
            stall: stall.into(),
            ..OomKill::default()
        };
        log::warn!("container {}: the kernel {}", self.id(), describe(&event));
        state.keep(event.clone());
        self.tell_short(event, short);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_that_goes_on_without_a_kill() {
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let seen = |kills, held, shortages| Seen {
            kills,
            held,
            shortages,
        };
        for (what, looks) in [
            (
                "held",
                &[
                    (0, seen(0, true, 1), true),
                    (1000, seen(0, true, 1), true),
                    (2000, seen(0, false, 1), false),
                ][..],
            ),
            (
                "a kill",
                &[
                    (0, seen(0, false, 1), false),
                    (900, seen(1, false, 1), false),
                    (3000, seen(1, false, 2), false),
                    (3900, seen(2, false, 2), false),
                ],
            ),
            (
                "nobody can be killed",
                &[
                    (0, seen(0, false, 1), false),
                    (1000, seen(0, false, 900), false),
                    (2000, seen(0, false, 2000), true),
                    (3000, seen(0, false, 2000), true),
                    (4000, seen(0, false, 2000), false),
                ],
            ),
            (
                "in the end somebody is",
                &[
                    (0, seen(0, false, 1), false),
                    (2000, seen(0, false, 5), true),
                    (2500, seen(1, false, 6), false),
                ],
            ),
            (
                "one now and then that comes to nothing",
                &[
                    (0, seen(0, false, 1), false),
                    (2100, seen(0, false, 1), false),
                    (9000, seen(0, false, 2), false),
                    (11_100, seen(0, false, 2), false),
                ],
            ),
        ] {
            let mut shortage = Shortage::default();
            for (at, seen, expected) in looks {
                let short = shortage.saw(begin + ms(*at), *seen);
                assert_eq!(short, *expected, "{what} at {at}");
            }
            assert!(!shortage.is_open(), "{what}");
        }
    }
}
