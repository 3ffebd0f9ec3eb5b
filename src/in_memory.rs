//! Directories that lie in memory, as a manager's state directory mostly does (`/run`, a tmpfs): what is
//! written there is written at once, without a thread that waits for it.
//!
//! Invariant: a directory is said to be in memory only while no other file system, which may hang, has been
//! mounted in its place; and to find that out nobody is asked who may hang. Pinned by
//! `tests/faults/dead_disk.rs::under_a_bundle_in_memory`.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// A tmpfs, by its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(u32, u32);

impl Memory {
    /// The tmpfs that `dir` is on; none if it is on anything else. Asks the file system: for a moment in which
    /// it is worked with anyhow.
    #[must_use]
    pub fn of(dir: &Path) -> Option<Self> {
        let kind = statfs(dir).ok()?.filesystem_type();
        device(dir).filter(|_| kind == TMPFS_MAGIC)
    }

    /// Whether `dir` is still on it.
    #[must_use]
    pub fn holds(self, dir: &Path) -> bool {
        device(dir) == Some(self)
    }
}

/// The device of a file system, from what the kernel has in memory.
fn device(dir: &Path) -> Option<Memory> {
    let path = CString::new(dir.as_os_str().as_bytes()).ok()?;
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // Whatever is known, also if it is old: the device of a file system never changes.
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    // Needed because std's and nix's stat ask the file system.
    // SAFETY: the path ends with a zero byte, and both outlive the call, which writes no more than one
    // `statx`; zeroed, that is a valid value whatever is written of it.
    let answer = unsafe {
        let done = libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, 0, answer.as_mut_ptr());
        (done == 0).then(|| answer.assume_init())
    };
    answer.map(|answer| Memory(answer.stx_dev_major, answer.stx_dev_minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tmpfs_and_another_are_told_apart() {
        let memory = Memory::of(Path::new("/dev/shm")).unwrap();
        assert!(memory.holds(Path::new("/dev/shm")));
        for other in ["/proc", "/sys", "/nowhere"] {
            assert_eq!(Memory::of(Path::new(other)), None, "{other}");
            assert!(!memory.holds(Path::new(other)), "{other}");
        }
    }
}
