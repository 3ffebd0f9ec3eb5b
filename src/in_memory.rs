//! Directories that lie in memory, as a manager's state directory mostly does (`/run`, a tmpfs): what is
//! written there is written at once, without a thread that waits for it.
//!
//! Invariant: a directory is said to be in memory only while no other file system, which may hang, has been
//! mounted in its place; and to find that out nobody is asked who may hang. Pinned by
//! `tests/faults/dead_disk.rs::under_a_bundle_in_memory`.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::SFlag;
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

    /// The FIFO at `path`, if it certainly is one and on it: to be opened by its descriptor (`/proc/self/fd`), as the
    /// path may lead elsewhere by then. The way there is walked only as far as the kernel has it in memory, all of it
    /// (openat2(2) since Linux 5.12; before that nothing is certain).
    #[must_use]
    pub fn fifo(self, path: &Path) -> Option<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED));
        let found = openat2(AT_FDCWD, path, how).ok()?;
        let known = known(found.as_raw_fd(), c"", libc::AT_EMPTY_PATH)?;
        (known.device == self && known.kind == SFlag::S_IFIFO).then_some(found)
    }
}

/// The device of a file system, from what the kernel has in memory.
fn device(dir: &Path) -> Option<Memory> {
    let path = CString::new(dir.as_os_str().as_bytes()).ok()?;
    known(libc::AT_FDCWD, &path, 0).map(|it| it.device)
}

struct Known {
    device: Memory,
    /// What it is; nothing if the kernel would have to ask.
    kind: SFlag,
}

/// What the kernel has in memory of a file.
fn known(at: RawFd, path: &CStr, flags: libc::c_int) -> Option<Known> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // Whatever is known, also if it is old: the device of a file system never changes.
    let flags = flags | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    // Needed because std's and nix's stat ask the file system.
    // SAFETY: the path ends with a zero byte, and both outlive the call, which writes no more than one
    // `statx`; zeroed, that is a valid value whatever is written of it.
    let answer = unsafe {
        let wanted = libc::STATX_TYPE;
        let done = libc::statx(at, path.as_ptr(), flags, wanted, answer.as_mut_ptr());
        (done == 0).then(|| answer.assume_init())
    };
    answer.map(|answer| Known {
        device: Memory(answer.stx_dev_major, answer.stx_dev_minor),
        kind: SFlag::from_bits_truncate(answer.stx_mode.into()) & SFlag::S_IFMT,
    })
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

    #[test]
    fn a_fifo_in_memory_is_one() {
        use std::os::unix::fs::symlink;

        use nix::sys::stat::Mode;
        use nix::unistd::mkfifo;

        let name = format!("cotter-in-memory-{}", std::process::id());
        let [here, there] = ["/dev/shm".into(), std::env::temp_dir()].map(|dir| dir.join(&name));
        for dir in [&here, &there] {
            std::fs::create_dir(dir).unwrap();
            mkfifo(&dir.join("fifo"), Mode::S_IRWXU).unwrap();
            std::fs::write(dir.join("file"), "").unwrap();
        }
        symlink(here.join("fifo"), here.join("link")).unwrap();
        let memory = Memory::of(&here).unwrap();
        let is = ["fifo", "link", "file", "missing", "."]
            .map(|name| memory.fifo(&here.join(name)).is_some());
        // As for the temporary directory: on another file system, or another tmpfs.
        let elsewhere =
            Memory::of(&there) != Some(memory) && memory.fifo(&there.join("fifo")).is_some();
        for dir in [here, there] {
            std::fs::remove_dir_all(dir).unwrap();
        }
        assert_eq!(is, [true, true, false, false, false]);
        assert!(!elsewhere);
    }
}
