//! The owners that an id-mapped mount shows, from the options `uidmap=` and `gidmap=`. Pure.
//!
//! Invariant: a map that was read is one the kernel takes (user_namespaces(7)): at least one and
//! at most 340 ranges in less than a page, none empty, and no two that overlap on either side.

use std::fmt;
use std::ops::Range;

use crate::error::{Error, Result};

/// The kernel's limit of lines in a map.
const MOST_RANGES: usize = 340;
/// A map is written at once, as less than a page of the smallest size.
const LONGEST: usize = 4095;

/// What the ids on disk become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IdMap {
    pub uids: Ranges,
    pub gids: Ranges,
}

/// The map of one kind of id. Shown, it is what `/proc/<pid>/uid_map` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Extent>);

/// Neighbouring ids that stay neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    /// The first one in the container: what is on disk.
    inside: u32,
    /// What it is on the host: what the mount shows.
    outside: u32,
    size: u32,
}

impl IdMap {
    /// Reads the values of both options. None when there is neither; one alone is refused, since
    /// files would have an owner of one world and a group of the other.
    pub fn parse(uids: Option<&str>, gids: Option<&str>) -> Result<Option<Self>> {
        let alone = |one: &str, other: &str| {
            Error::invalid_argument(format!("mount option \"{one}\" without \"{other}\""))
        };
        match (uids, gids) {
            (None, None) => Ok(None),
            (Some(uids), Some(gids)) => Ok(Some(Self {
                uids: Ranges::parse("uidmap", uids)?,
                gids: Ranges::parse("gidmap", gids)?,
            })),
            (Some(_), None) => Err(alone("uidmap", "gidmap")),
            (None, Some(_)) => Err(alone("gidmap", "uidmap")),
        }
    }
}

impl Ranges {
    /// Reads `containerID:hostID:size`, several separated by commas.
    fn parse(option: &str, text: &str) -> Result<Self> {
        let shown: String = text.chars().take(200).collect();
        let bad =
            |why: &str| Error::invalid_argument(format!("mount option {option}={shown:?}: {why}"));
        if text.split(',').count() > MOST_RANGES {
            return Err(bad("more than 340 ranges"));
        }
        let ranges: Option<Vec<Extent>> = text.split(',').map(Extent::parse).collect();
        let ranges = ranges.ok_or_else(|| bad("not of the form containerID:hostID:size"))?;
        if ranges.iter().any(|range| range.size == 0) {
            return Err(bad("an empty range"));
        }
        for side in [Extent::insides, Extent::outsides] {
            let mut ids: Vec<_> = ranges.iter().map(side).collect();
            ids.sort_by_key(|ids| ids.start);
            if ids.iter().any(|ids| ids.end > u64::from(u32::MAX)) {
                return Err(bad("an id above 4294967294"));
            }
            if ids.windows(2).any(|pair| pair[0].end > pair[1].start) {
                return Err(bad("ranges overlap"));
            }
        }
        let map = Self(ranges);
        if map.to_string().len() > LONGEST {
            return Err(bad("too many ranges"));
        }
        Ok(map)
    }
}

impl Extent {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(':').map(|number| {
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| number.parse().ok()).flatten()
        });
        let extent = Self {
            inside: numbers.next()??,
            outside: numbers.next()??,
            size: numbers.next()??,
        };
        numbers.next().is_none().then_some(extent)
    }

    fn insides(&self) -> Range<u64> {
        self.from(self.inside)
    }

    fn outsides(&self) -> Range<u64> {
        self.from(self.outside)
    }

    fn from(&self, first: u32) -> Range<u64> {
        u64::from(first)..u64::from(first) + u64::from(self.size)
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for range in &self.0 {
            writeln!(f, "{} {} {}", range.inside, range.outside, range.size)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use proptest::prelude::*;

    #[test]
    fn maps_as_the_kernel_takes_them() {
        for (text, lines) in [
            ("0:100000:65536", "0 100000 65536\n"),
            ("0:1000:1,1:100000:65535", "0 1000 1\n1 100000 65535\n"),
            ("10:0:10,0:10:10", "10 0 10\n0 10 10\n"),
            ("0:0:4294967295", "0 0 4294967295\n"),
            ("4294967294:0:1", "4294967294 0 1\n"),
        ] {
            assert_eq!(Ranges::parse("uidmap", text).unwrap().to_string(), lines);
        }
    }

    #[test]
    fn bad_maps() {
        let many = vec!["0:0:1"; 341].join(",");
        let long: Vec<_> = (0..200)
            .map(|n| format!("{0}:{0}:1", 4_000_000_000_u32 + n))
            .collect();
        let long = long.join(",");
        let form = "not of the form containerID:hostID:size";
        for (text, why) in [
            ("", form),
            ("0", form),
            ("0:1", form),
            ("0:1:2:3", form),
            ("0:1:2,", form),
            (",0:1:2", form),
            ("a:1:2", form),
            ("-1:1:2", form),
            ("+1:1:2", form),
            (" 0:1:2", form),
            ("0::2", form),
            ("0:1:4294967296", form),
            ("0:1:0", "an empty range"),
            ("4294967295:0:1", "an id above 4294967294"),
            ("0:4294967290:10", "an id above 4294967294"),
            ("0:0:10,9:20:1", "ranges overlap"),
            ("20:0:10,0:9:1", "ranges overlap"),
            (many.as_str(), "more than 340 ranges"),
            (long.as_str(), "too many ranges"),
        ] {
            let error = Ranges::parse("uidmap", text).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{text}");
            assert!(error.message.contains(why), "{text}: {error}");
            assert!(error.message.len() < 400, "{error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_a_map_or_an_error(text in "[0-9:,-]{0,24}") {
            if let Ok(ranges) = Ranges::parse("gidmap", &text) {
                let read = ranges.to_string().trim_end().replace(' ', ":").replace('\n', ",");
                prop_assert_eq!(Ranges::parse("gidmap", &read).unwrap(), ranges);
            }
        }
    }
}
