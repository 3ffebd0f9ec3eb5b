//! Sets of capabilities, by their names. Pure.
//!
//! Invariant: a set with a name that is not known is none: what it would mean is the runtime's to say.

/// As the kernel numbers them (capabilities(7)).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// How many there are.
pub const COUNT: usize = NAMES.len();

/// A set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set(pub u64);

impl Set {
    /// What names as in a spec mean (`CAP_KILL`).
    pub fn of(names: &[String]) -> Option<Self> {
        let mut bits = names.iter().map(|name| {
            let name = name.strip_prefix("CAP_")?;
            let number = NAMES.iter().position(|known| *known == name)?;
            Some(1_u64 << number)
        });
        let bits = bits.try_fold(0, |all, bit| Some(all | bit?))?;
        Some(Self(bits))
    }

    /// Whether it has what lets a process look into others, or do what it likes.
    pub fn is_mighty(self) -> bool {
        let mighty = ["CAP_SYS_PTRACE", "CAP_SYS_ADMIN"].map(str::to_owned);
        Self::of(&mighty).is_none_or(|mighty| self.0 & mighty.0 != 0)
    }

    /// Whether the other has all of it.
    pub fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Its members' numbers.
    pub fn numbers(self) -> impl Iterator<Item = usize> {
        (0..COUNT).filter(move |number| self.0 & (1 << number) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> Option<Set> {
        Set::of(
            &names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn sets_by_name() {
        assert_eq!(set(&[]), Some(Set(0)));
        assert_eq!(set(&["CAP_CHOWN", "CAP_KILL", "CAP_KILL"]), Some(Set(0x21)));
        assert_eq!(set(&["CAP_CHECKPOINT_RESTORE"]), Some(Set(1 << 40)));
        for unknown in ["CHOWN", "CAP_", "CAP_CHOWN ", "cap_chown", "CAP_NEWER"] {
            assert_eq!(set(&["CAP_KILL", unknown]), None, "{unknown}");
        }
        let kill = set(&["CAP_KILL"]).unwrap();
        assert!(kill.is_within(Set(0x21)) && !Set(0x21).is_within(kill) && Set(0).is_within(kill));
        assert_eq!(Set(0x21).numbers().collect::<Vec<_>>(), [0, 5]);
        assert!(!Set(0x21).is_mighty());
        assert!(Set(1 << 19).is_mighty() && Set(1 << 21).is_mighty());
    }
}
