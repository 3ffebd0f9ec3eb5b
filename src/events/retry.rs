//! When to try again, how long to wait for an answer, and when an answer means "never".
//!
//! Invariant: pure, no clock and no I/O; a failure of the transport is never a reason to give an
//! event up, and every answer of the manager leads to an end. Pinned by the tables below.

use std::time::Duration;

use ttrpc::Code;

/// The publisher's time limits; the defaults are what a shim runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A try that is unanswered for longer makes this shim keep its events elsewhere too
    /// ([`Keeper`](super::Keeper)).
    pub prompt: Duration,
    /// How long the first try of an event may stay unanswered (the Go shim's 5 s).
    pub first_try: Duration,
    /// How long a try may stay unanswered at most, after the doublings of [`Limits::try_limit`].
    pub longest_try: Duration,
    /// The pause after the second failure in a row.
    pub first_pause: Duration,
    /// The longest pause between two tries.
    pub longest_pause: Duration,
    /// How old a manager that was away must be before it is told anything. Those whom it tells have
    /// to find it again first, and it keeps nothing for them: dockerd tries every 3 s, give or take
    /// a fifth (gRPC's backoff), and believes until its own restart in what it did not hear.
    pub settling: Duration,
    /// How long after one of them has had something done it is sure to listen, too: dockerd subscribes a
    /// millisecond after its connection stands, on that same connection.
    pub subscribing: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            prompt: Duration::from_millis(250),
            first_try: Duration::from_secs(5),
            longest_try: Duration::from_secs(60),
            first_pause: Duration::from_millis(20),
            longest_pause: Duration::from_secs(2),
            settling: Duration::from_secs(5),
            subscribing: Duration::from_millis(500),
        }
    }
}

impl Limits {
    /// The pause before the next try after `failures` failed ones in a row: none after the first
    /// (a connection found stale after the manager's restart), then doubling to the limit.
    #[must_use]
    pub fn backoff(&self, failures: u32) -> Duration {
        match failures {
            0 | 1 => Duration::ZERO,
            n => doubled(self.first_pause, n - 2, self.longest_pause),
        }
    }

    /// How long to hold events back on a new connection, after a failed try, to a manager that is
    /// `age` old, when a client last had something done `acted` ago. A client that did so before there
    /// was this manager proves nothing. `None` is an age that cannot be known, and not waited for.
    #[must_use]
    pub fn hold(&self, age: Option<Duration>, acted: Option<Duration>) -> Duration {
        let Some(age) = age else {
            return Duration::ZERO;
        };
        let settled = self.settling.saturating_sub(age);
        match acted {
            Some(ago) if ago < age => settled.min(self.subscribing.saturating_sub(ago)),
            _ => settled,
        }
    }

    /// The time limit for a try after `timeouts` tries of the same event ran out of theirs.
    ///
    /// Doubling, because a stopped manager finds every abandoned try in its sockets when it goes
    /// on, and each is a duplicate to it; on a Unix socket a manager that died is noticed at once
    /// anyway, so waiting longer loses nothing.
    #[must_use]
    pub fn try_limit(&self, timeouts: u32) -> Duration {
        doubled(self.first_try, timeouts, self.longest_try)
    }
}

fn doubled(first: Duration, times: u32, cap: Duration) -> Duration {
    first
        .saturating_mul(2u32.saturating_pow(times.min(31)))
        .min(cap)
}

/// How many answers with status `code` an event survives before it is skipped; `None` is without
/// end.
///
/// - The manager is busy or ending: without end.
/// - The manager failed, and nobody can tell whether it will again: 10 times.
/// - The manager refused (unknown topic, malformed envelope, no such service): asking again
///   changes nothing, and a refused head must not block what follows for ever: once.
///
/// Exits are what managers cannot do without: 100 and 5 times.
#[must_use]
pub(super) fn patience(code: Code, exit: bool) -> Option<u32> {
    match code {
        Code::CANCELLED | Code::DEADLINE_EXCEEDED | Code::ABORTED | Code::UNAVAILABLE => None,
        Code::OK | Code::UNKNOWN | Code::INTERNAL | Code::DATA_LOSS | Code::RESOURCE_EXHAUSTED => {
            Some(if exit { 100 } else { 10 })
        }
        Code::INVALID_ARGUMENT
        | Code::NOT_FOUND
        | Code::ALREADY_EXISTS
        | Code::PERMISSION_DENIED
        | Code::UNAUTHENTICATED
        | Code::FAILED_PRECONDITION
        | Code::OUT_OF_RANGE
        | Code::UNIMPLEMENTED => Some(if exit { 5 } else { 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_starts_at_once_and_doubles_to_its_limit() {
        let limits = Limits::default();
        let pauses: Vec<u128> = (0..12).map(|n| limits.backoff(n).as_millis()).collect();
        assert_eq!(
            pauses,
            [0, 0, 20, 40, 80, 160, 320, 640, 1280, 2000, 2000, 2000]
        );
        assert_eq!(limits.backoff(u32::MAX), limits.longest_pause);
    }

    #[test]
    fn a_manager_just_back_is_given_time_and_an_old_one_is_not() {
        let limits = Limits::default();
        let held = |ms| {
            limits
                .hold(Some(Duration::from_millis(ms)), None)
                .as_millis()
        };
        let holds = [0, 1, 4_999, 5_000, 5_001, u64::MAX].map(held);
        assert_eq!(holds, [5_000, 4_999, 1, 0, 0, 0]);
        assert_eq!(limits.hold(None, None), Duration::ZERO);
        assert_eq!(limits.hold(None, Some(Duration::ZERO)), Duration::ZERO);
    }

    #[test]
    fn a_client_that_acts_through_the_manager_ends_the_wait_and_one_before_it_does_not() {
        let limits = Limits::default();
        for (age, acted, held) in [
            (1_000, 0, 500),
            (1_000, 1, 499),
            (1_000, 499, 1),
            (1_000, 500, 0),
            (1_000, 999, 0),
            (1_000, 1_000, 4_000),
            (1_000, 60_000, 4_000),
            (0, 0, 5_000),
            (1, 0, 500),
            (4_800, 0, 200),
            (5_000, 0, 0),
            (5_001, 5_000, 0),
        ] {
            let [age, acted, held] = [age, acted, held].map(Duration::from_millis);
            let hold = limits.hold(Some(age), Some(acted));
            assert_eq!(hold, held, "{age:?} old, a client {acted:?} ago");
        }
    }

    #[test]
    fn a_try_waits_longer_after_each_time_out() {
        let limits = Limits::default();
        let tries: Vec<u64> = (0..6).map(|n| limits.try_limit(n).as_secs()).collect();
        assert_eq!(tries, [5, 10, 20, 40, 60, 60]);
        assert_eq!(limits.try_limit(u32::MAX), limits.longest_try);
    }

    #[test]
    fn a_busy_manager_is_waited_for_and_a_refusing_one_is_not() {
        assert_eq!(patience(Code::UNAVAILABLE, false), None);
        assert_eq!(patience(Code::DEADLINE_EXCEEDED, true), None);
        assert_eq!(patience(Code::UNIMPLEMENTED, false), Some(1));
        assert_eq!(patience(Code::UNIMPLEMENTED, true), Some(5));
        assert_eq!(patience(Code::UNKNOWN, false), Some(10));
        assert_eq!(patience(Code::INTERNAL, true), Some(100));
    }
}
