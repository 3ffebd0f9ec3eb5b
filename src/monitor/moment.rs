//! When a process was born, and the present on the same clock.
//!
//! The kernel tells births in ticks of 1/100 s since the machine's boot, sleep included. No step of the
//! machine's time moves that clock. A file's time is of the other one, which may be stepped.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

use super::Pid;
use crate::kernel_file;

/// How far a file's time may lie behind the moment at which it was written: the kernel takes the time
/// of its last tick (10 ms at the most), and both roundings to our ticks.
const SLACK: u64 = 3;

/// A moment in ticks of 1/100 s since boot, rounded down. The kernel shows births to all in this unit,
/// whatever its own tick (USER_HZ).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// The present; the beginning of time if the clock cannot be read.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
        Self(now.map_or(0, ticks))
    }

    /// When the process that has this pid was born; none if there is none. Of one that is not reaped yet
    /// it can be told too.
    pub fn born(pid: Pid) -> Option<Self> {
        born(&kernel_file::bytes(format!("/proc/{pid}/stat")).ok()?)
    }
}

/// Field 22 of a `stat` file.
fn born(stat: &[u8]) -> Option<Moment> {
    fields(stat)?.nth(19)?.parse().ok().map(Moment)
}

/// The fields of a `stat` file, from the third on.
pub(crate) fn fields(stat: &[u8]) -> Option<impl Iterator<Item = &str>> {
    // The name in parentheses may hold anything, but no later field a parenthesis.
    let name = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(stat.get(name + 2..)?).ok()?;
    Some(fields.split(' '))
}

fn ticks(since: Duration) -> u64 {
    u64::try_from(since.as_millis() / 10).unwrap_or(u64::MAX)
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Since boot.
    pub boot: Moment,
    /// The machine's time, as files have it.
    pub wall: SystemTime,
}

impl Clocks {
    /// The present.
    pub fn now() -> Self {
        Self {
            boot: Moment::now(),
            wall: SystemTime::now(),
        }
    }

    /// The time of a file by these clocks, as if no step had come between.
    fn of(self, file: SystemTime) -> u64 {
        let at = match file.duration_since(self.wall) {
            Ok(after) => self.boot.0.saturating_add(ticks(after)),
            Err(before) => self.boot.0.saturating_sub(ticks(before.duration())),
        };
        at.saturating_add(SLACK)
    }

    /// The moment by which a file with this time was certainly written, whether the machine's time has been
    /// stepped between `self` and `now` or not.
    pub fn surely(self, file: SystemTime, now: Self) -> Moment {
        Moment(self.of(file).min(now.of(file)).min(now.boot.0))
    }

    /// The latest moment at which a file with this time can have been written, if that was between `self`
    /// and `now`. The machine's time may have been stepped between the two, before or after the writing.
    pub fn latest(self, file: SystemTime, now: Self) -> Moment {
        let latest = self.of(file).max(now.of(file));
        // A time that is not between them is another machine's, as on a disk of the network.
        let now = now.boot.0;
        match latest < self.boot.0 {
            true => Moment(now),
            false => Moment(latest.min(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn births_in_stat_files() {
        let fields = "S 1 7 7 0 -1 4194560 92 0 0 0 0 0 0 0 20 0 1 0 8154 2 3";
        for (stat, expected) in [
            (format!("7 (sh) {fields}"), Some(Moment(8154))),
            (format!("7 (a ) b) (c) {fields}"), Some(Moment(8154))),
            (format!("7 (sh) {}", &fields[..40]), None),
            ("7 (sh)".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(born(stat.as_bytes()), expected, "{stat}");
        }
        assert_eq!(born(b"7 (\xff) S 1"), None);
    }

    #[test]
    fn a_child_is_born_between_the_moments_around_it() {
        let before = Moment::now();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        let born = Moment::born(pid).unwrap();
        let after = Moment::now();
        child.wait().unwrap();
        assert!(before > Moment(0) && (before..=after).contains(&born));
    }

    #[test]
    fn when_a_file_was_written() {
        let wall = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000 + ms);
        let clocks = |boot, ms| Clocks {
            boot: Moment(boot),
            wall: wall(ms),
        };
        let begun = clocks(100, 0);
        for (what, file, now, latest, surely) in [
            ("plain", 50, clocks(200, 1000), 105 + SLACK, 105 + SLACK),
            ("just now", 1000, clocks(200, 1000), 200, 200),
            (
                "a coarse clock, behind the beginning",
                0,
                clocks(200, 1000),
                100 + SLACK,
                100 + SLACK,
            ),
            (
                "stepped on after it",
                50,
                clocks(200, 61_000),
                105 + SLACK,
                SLACK,
            ),
            (
                "stepped on before it",
                60_500,
                clocks(200, 61_000),
                200,
                150 + SLACK,
            ),
            (
                "of a clock that is ahead",
                90_000,
                clocks(200, 1000),
                200,
                200,
            ),
        ] {
            assert_eq!(begun.surely(wall(file), now), Moment(surely), "{what}");
            assert_eq!(begun.latest(wall(file), now), Moment(latest), "{what}");
        }
        let stepped_back = Clocks {
            boot: Moment(200),
            wall: wall(0) - Duration::from_secs(60),
        };
        assert_eq!(begun.latest(wall(50), stepped_back), Moment(200));
        assert_eq!(begun.surely(wall(50), stepped_back), Moment(105 + SLACK));
        let foreign = wall(0) - Duration::from_secs(60);
        assert_eq!(begun.latest(foreign, clocks(200, 1000)), Moment(200));
    }
}
