//! Which runtimes are known so well that the shim can do an exec in their place. Pure.
//!
//! Invariant: a version that is not in the table is not known, however near it is to one that is:
//! runtimes change what an exec gives in minor releases.

/// What an exec gives, by the runtime's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    /// runc 1.1: its umask is the caller's.
    Runc11,
    /// runc 1.3.
    Runc13,
    /// crun since 1.20.
    Crun,
}

/// Versions whose matrix has passed (`tests/direct`).
const KNOWN: [(&str, &str, Ways); 4] = [
    ("runc", "1.1.5", Ways::Runc11),
    ("runc", "1.3.6", Ways::Runc13),
    ("crun", "1.21", Ways::Crun),
    ("crun", "1.28", Ways::Crun),
];

/// With which it was built, as it says itself.
const GO_OF_RUNC11: &str = "go: go1.19.8";

impl Ways {
    /// From what `--version` prints: `runc version 1.3.6+ds1` on its first line. What follows a plus
    /// is the packager's.
    pub fn of(text: &str) -> Option<Self> {
        let mut words = text.lines().next()?.split_whitespace();
        let (name, version) = (words.next()?, words.nth(1)?);
        let version = version
            .split_once("+")
            .map_or(version, |(version, _)| version);
        let mut known = KNOWN.iter();
        let known = known.find(|(its, of, _)| (*its, *of) == (name, version))?;
        // Later ones give back the limit of open files that they have raised.
        let is_built = known.2 != Ways::Runc11 || text.lines().any(|line| line == GO_OF_RUNC11);
        is_built.then_some(known.2)
    }

    /// Whether it is runc.
    pub fn is_runc(self) -> bool {
        match self {
            Self::Runc11 | Self::Runc13 => true,
            Self::Crun => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known() {
        for (text, expected) in [
            (
                "runc version 1.1.5+ds1\ncommit: x\ngo: go1.19.8\n",
                Some(Ways::Runc11),
            ),
            ("runc version 1.1.5\ngo: go1.20.4\n", None),
            ("runc version 1.1.5", None),
            ("runc version 1.3.6\n", Some(Ways::Runc13)),
            ("runc version 1.3.7\n", None),
            // A candidate is none of the release.
            ("runc version 1.3.6-rc.1", None),
            ("crun version 1.21\ncommit: 1\n", Some(Ways::Crun)),
            ("crun version 1.28", Some(Ways::Crun)),
            ("crun version 1.8.1", None),
            ("crun version 1.2", None),
            ("youki version 1.21", None),
            ("runc", None),
            ("", None),
        ] {
            assert_eq!(Ways::of(text), expected, "{text}");
        }
    }
}
