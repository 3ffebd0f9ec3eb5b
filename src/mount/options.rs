//! From the words of fstab to what mount(2) takes. Pure; the table below is the whole truth.
//!
//! Invariant: a word is either understood here, refused by name, or handed to the file system
//! unchanged and in order. For two words on the same flag the later one counts.

use nix::mount::MsFlags;

use super::idmap::IdMap;
use crate::error::{Error, Result};

/// The kernel copies one page of options, the last byte of it is the terminator; what is longer
/// it cuts off without a word.
pub(super) fn longest_data(page: usize) -> usize {
    page.saturating_sub(1)
}

/// The flags the kernel keeps per mount, the only ones a bind mount can have of its own.
const PER_MOUNT: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NODIRATIME)
    .union(ATIME);

/// The flags of which a mount has one at most.
const ATIME: MsFlags = MsFlags::MS_NOATIME
    .union(MsFlags::MS_RELATIME)
    .union(MsFlags::MS_STRICTATIME);

/// Mount options, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// Flags for the mount call, without propagation.
    pub flags: MsFlags,
    /// Flags that were asked to be off.
    pub cleared: MsFlags,
    /// Propagation type, perhaps recursive: mount(2) takes it in a call of its own only.
    pub propagation: Option<MsFlags>,
    /// The source is an image, to be mounted through a loop device.
    pub image: bool,
    /// The loop device shall bypass the page cache.
    pub direct_io: bool,
    /// The owners that the mount shall show.
    pub map: Option<IdMap>,
    /// What is left for the file system.
    pub data: Vec<String>,
}

impl Options {
    /// Sorts the words.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Self> {
        let mut options = Self {
            flags: MsFlags::empty(),
            cleared: MsFlags::empty(),
            propagation: None,
            image: false,
            direct_io: false,
            map: None,
            data: Vec::new(),
        };
        let (mut uids, mut gids) = (None, None);
        for word in words.iter().map(AsRef::as_ref) {
            if let Some((set, flags)) = flag(word) {
                if set {
                    options.flags |= flags;
                    options.cleared -= flags;
                } else {
                    options.flags -= flags;
                    options.cleared |= flags;
                }
            } else if let Some(kind) = propagation(word) {
                options.propagation = Some(kind);
            } else if word == "loop" {
                options.image = true;
            } else if let Some(map) = word.strip_prefix("uidmap=") {
                uids = Some(map);
            } else if let Some(map) = word.strip_prefix("gidmap=") {
                gids = Some(map);
            } else if !word.is_empty() {
                check_word(word)?;
                options.data.push(word.to_owned());
            }
        }
        if options.image {
            let all = options.data.len();
            options.data.retain(|word| word != "direct-io");
            options.direct_io = options.data.len() < all;
        }
        options.map = IdMap::parse(uids, gids)?;
        options.check()?;
        Ok(options)
    }

    /// What cannot be done together.
    fn check(&self) -> Result<()> {
        let not_new = MsFlags::MS_REMOUNT;
        for (asked, what, not_with) in [
            (self.image, "loop", not_new | MsFlags::MS_BIND),
            (self.map.is_some(), "uidmap", not_new),
        ] {
            if asked && self.flags.intersects(not_with) {
                let word = if self.flags.contains(MsFlags::MS_REMOUNT) {
                    "remount"
                } else {
                    "bind"
                };
                return Err(Error::invalid_argument(format!(
                    "mount option \"{what}\" together with \"{word}\""
                )));
            }
        }
        Ok(())
    }

    /// The data argument.
    pub fn joined(&self) -> String {
        self.data.join(",")
    }

    /// The flags of the second call a bind mount needs to get flags of its own, if it needs one.
    ///
    /// A bind mount starts with the flags of its source, and a remount replaces them all, so those
    /// it `has` are kept unless a word took them back: dropping `nosuid` would be a hole, and in a
    /// user namespace the kernel refuses it.
    pub fn bind_remount(&self, has: MsFlags) -> Option<MsFlags> {
        let own = self.flags & PER_MOUNT;
        if !self.flags.contains(MsFlags::MS_BIND) || own.is_empty() {
            return None;
        }
        let mut kept = (has & PER_MOUNT) - self.cleared;
        if own.intersects(ATIME) {
            kept -= ATIME;
        }
        Some(kept | own | MsFlags::MS_BIND | MsFlags::MS_REMOUNT)
    }
}

/// A flag word: whether it sets or clears, and what.
fn flag(word: &str) -> Option<(bool, MsFlags)> {
    Some(match word {
        "defaults" => (true, MsFlags::empty()),
        "ro" => (true, MsFlags::MS_RDONLY),
        "rw" => (false, MsFlags::MS_RDONLY),
        "nosuid" => (true, MsFlags::MS_NOSUID),
        "suid" => (false, MsFlags::MS_NOSUID),
        "nodev" => (true, MsFlags::MS_NODEV),
        "dev" => (false, MsFlags::MS_NODEV),
        "noexec" => (true, MsFlags::MS_NOEXEC),
        "exec" => (false, MsFlags::MS_NOEXEC),
        "sync" => (true, MsFlags::MS_SYNCHRONOUS),
        "async" => (false, MsFlags::MS_SYNCHRONOUS),
        "dirsync" => (true, MsFlags::MS_DIRSYNC),
        "mand" => (true, MsFlags::MS_MANDLOCK),
        "nomand" => (false, MsFlags::MS_MANDLOCK),
        "noatime" => (true, MsFlags::MS_NOATIME),
        "atime" => (false, MsFlags::MS_NOATIME),
        "nodiratime" => (true, MsFlags::MS_NODIRATIME),
        "diratime" => (false, MsFlags::MS_NODIRATIME),
        "relatime" => (true, MsFlags::MS_RELATIME),
        "norelatime" => (false, MsFlags::MS_RELATIME),
        "strictatime" => (true, MsFlags::MS_STRICTATIME),
        "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
        "lazytime" => (true, MsFlags::MS_LAZYTIME),
        "nolazytime" => (false, MsFlags::MS_LAZYTIME),
        "silent" => (true, MsFlags::MS_SILENT),
        "loud" => (false, MsFlags::MS_SILENT),
        "bind" => (true, MsFlags::MS_BIND),
        "rbind" => (true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
        "remount" => (true, MsFlags::MS_REMOUNT),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<MsFlags> {
    let (recursive, kind) = match word.strip_prefix('r') {
        Some(kind) => (MsFlags::MS_REC, kind),
        None => (MsFlags::empty(), word),
    };
    let kind = match kind {
        "private" => MsFlags::MS_PRIVATE,
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some(kind | recursive)
}

/// Refuses what is for containerd's mount manager: a mount that still has it was not prepared.
pub(super) fn check_word(word: &str) -> Result<()> {
    if word.starts_with("X-containerd.") {
        return Err(Error::invalid_argument(format!(
            "unknown mount option {word:?}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const NONE: MsFlags = MsFlags::empty();

    /// Words; flags, cleared flags, propagation and data they become.
    type Row<'a> = (&'a [&'a str], MsFlags, MsFlags, Option<MsFlags>, &'a str);

    #[test]
    fn words_become_flags_propagation_and_data() {
        let rbind = MsFlags::MS_BIND | MsFlags::MS_REC;
        let table: &[Row<'_>] = &[
            (&[], NONE, NONE, None, ""),
            (&["defaults", ""], NONE, NONE, None, ""),
            (&["rbind", "ro"], rbind | MsFlags::MS_RDONLY, NONE, None, ""),
            (&["ro", "rw"], NONE, MsFlags::MS_RDONLY, None, ""),
            (&["rw", "ro"], MsFlags::MS_RDONLY, NONE, None, ""),
            (
                &["nosuid", "mode=755", "nodev", "size=64k"],
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
                NONE,
                None,
                "mode=755,size=64k",
            ),
            (
                &["bind", "rslave"],
                MsFlags::MS_BIND,
                NONE,
                Some(MsFlags::MS_SLAVE | MsFlags::MS_REC),
                "",
            ),
            (
                &["private", "shared"],
                NONE,
                NONE,
                Some(MsFlags::MS_SHARED),
                "",
            ),
            // Not words of ours, however alike: the file system decides.
            (
                &["RO", "ro=1", "runknown", "index=off"],
                NONE,
                NONE,
                None,
                "RO,ro=1,runknown,index=off",
            ),
        ];
        for (words, flags, cleared, propagation, data) in table {
            let options = Options::parse(words).unwrap();
            assert_eq!(options.flags, *flags, "{words:?}");
            assert_eq!(options.cleared, *cleared, "{words:?}");
            assert_eq!(options.propagation, *propagation, "{words:?}");
            assert_eq!(options.joined(), *data, "{words:?}");
        }
    }

    #[test]
    fn every_pair_sets_and_clears_the_same_flag() {
        for (on, off) in [
            ("ro", "rw"),
            ("nosuid", "suid"),
            ("nodev", "dev"),
            ("noexec", "exec"),
            ("sync", "async"),
            ("mand", "nomand"),
            ("noatime", "atime"),
            ("nodiratime", "diratime"),
            ("relatime", "norelatime"),
            ("strictatime", "nostrictatime"),
            ("lazytime", "nolazytime"),
            ("silent", "loud"),
        ] {
            let set = Options::parse(&[on]).unwrap().flags;
            assert!(!set.is_empty(), "{on}");
            assert_eq!(Options::parse(&[off]).unwrap().cleared, set, "{off}");
            assert_eq!(Options::parse(&[on, off]).unwrap().flags, NONE, "{off}");
        }
    }

    #[test]
    fn an_image_and_its_options() {
        let table: &[(&[&str], bool, bool, &str)] = &[
            (&["loop"], true, false, ""),
            (&["ro", "loop", "noload"], true, false, "noload"),
            (&["direct-io", "a", "loop"], true, true, "a"),
            // Without a loop device the word is the file system's.
            (&["direct-io"], false, false, "direct-io"),
            (&["loop=/dev/loop0"], false, false, "loop=/dev/loop0"),
        ];
        for (words, image, direct_io, data) in table {
            let options = Options::parse(words).unwrap();
            assert_eq!(options.image, *image, "{words:?}");
            assert_eq!(options.direct_io, *direct_io, "{words:?}");
            assert_eq!(options.joined(), *data, "{words:?}");
        }
    }

    #[test]
    fn a_map_is_no_data() {
        let options = Options::parse(&["uidmap=0:1000:10", "a=b", "gidmap=0:2000:10"]).unwrap();
        let map = IdMap::parse(Some("0:1000:10"), Some("0:2000:10")).unwrap();
        assert!(map.is_some());
        assert_eq!(options.map, map);
        assert_eq!(options.joined(), "a=b");
        let twice = ["uidmap=0:1:1", "gidmap=0:2:1", "uidmap=0:3:1"];
        let last = IdMap::parse(Some("0:3:1"), Some("0:2:1")).unwrap();
        assert_eq!(Options::parse(&twice).unwrap().map, last);
    }

    #[test]
    fn refused_by_name() {
        let table: &[(&[&str], &str)] = &[
            (&["X-containerd.new"], "\"X-containerd.new\""),
            (&["loop", "X-containerd.mkfs.fs=ext4"], "X-containerd.mkfs"),
            (&["uidmap=0:1:1"], "\"uidmap\" without \"gidmap\""),
            (&["gidmap=0:1:1"], "\"gidmap\" without \"uidmap\""),
            (&["uidmap=0:1:1", "gidmap="], "gidmap"),
            (&["loop", "rbind"], "\"loop\" together with \"bind\""),
            (&["loop", "remount"], "\"loop\" together with \"remount\""),
            (
                &["remount", "uidmap=0:1:1", "gidmap=0:1:1"],
                "\"uidmap\" together with \"remount\"",
            ),
        ];
        for (words, part) in table {
            let err = Options::parse(words).unwrap_err();
            assert_eq!(err.code, Code::InvalidArgument, "{words:?}");
            assert!(err.message.contains(part), "{}", err.message);
        }
    }

    #[test]
    fn a_bind_keeps_what_it_has() {
        let bind = MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        let has = MsFlags::MS_NOSUID | MsFlags::MS_RELATIME;
        let table: &[(&[&str], Option<MsFlags>)] = &[
            (&["bind"], None),
            (&["rbind", "rw"], None),
            (&["ro"], None),
            (&["rbind", "ro"], Some(bind | MsFlags::MS_RDONLY | has)),
            (
                &["bind", "ro", "suid"],
                Some(bind | MsFlags::MS_RDONLY | MsFlags::MS_RELATIME),
            ),
            (
                &["bind", "noatime"],
                Some(bind | MsFlags::MS_NOATIME | MsFlags::MS_NOSUID),
            ),
        ];
        for (words, remount) in table {
            let options = Options::parse(words).unwrap();
            assert_eq!(options.bind_remount(has), *remount, "{words:?}");
        }
    }
}
