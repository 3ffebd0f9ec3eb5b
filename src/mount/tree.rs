//! Mounts that are nowhere yet: made, given other owners, and only then moved to their place.
//!
//! Invariant: what is prepared here is seen by nobody, and is gone when it is dropped or the
//! process ends, however that comes. So there is nothing to clean up.

use crate::errno::Words;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::thread;

use nix::NixPath;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// A mount, perhaps with those below it, that is attached to no place.
pub(super) struct Tree {
    mount: OwnedFd,
    recursive: bool,
}

impl Tree {
    /// A copy of what is at `path`, as a bind mount makes it.
    pub fn copy(path: &Path, recursive: bool) -> Result<Self, String> {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | at_recursive(recursive);
        let opened = path.with_nix_path(|path| {
            // SAFETY: nix has no wrapper. The path is a live, terminated string.
            let fd =
                unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
            let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EOVERFLOW)?;
            // SAFETY: a descriptor just made that nothing else knows.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        });
        match opened {
            Ok(Ok(mount)) => Ok(Self { mount, recursive }),
            Ok(Err(why)) | Err(why) => Err(format!(
                "copy the mount of {}: {}",
                path.display(),
                why.words()
            )),
        }
    }

    /// Makes it show the owners that the user namespace's map gives.
    pub fn mapped(self, users: &OwnedFd) -> Result<Self, String> {
        // SAFETY: all zeroes is what the fields not set below are to be.
        let mut wanted: libc::mount_attr = unsafe { std::mem::zeroed() };
        wanted.attr_set = libc::MOUNT_ATTR_IDMAP;
        wanted.userns_fd = u64::from(users.as_raw_fd().cast_unsigned());
        let flags = libc::AT_EMPTY_PATH.cast_unsigned() | at_recursive(self.recursive);
        // SAFETY: nix has no wrapper. The path is a literal, the struct a live local of the size
        // given, and both descriptors are open.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.mount.as_raw_fd(),
                c"".as_ptr(),
                flags,
                &raw const wanted,
                size_of::<libc::mount_attr>(),
            )
        };
        match Errno::result(done) {
            Ok(_) => Ok(self),
            Err(why) => Err(format!("id-mapped mount: {}", unmappable(why))),
        }
    }

    /// Attaches it to an opened place.
    pub fn move_onto(self, place: &OwnedFd) -> Result<(), String> {
        self.attach(place.as_raw_fd(), c"", libc::MOVE_MOUNT_T_EMPTY_PATH)
    }

    /// Attaches it to where the path leads, links followed.
    pub fn move_to(self, path: &Path) -> Result<(), String> {
        let flags = libc::MOVE_MOUNT_T_SYMLINKS;
        path.with_nix_path(|path| self.attach(libc::AT_FDCWD, path, flags))
            .unwrap_or_else(|why| Err(why.words()))
    }

    fn attach(self, dir: libc::c_int, path: &CStr, flags: u32) -> Result<(), String> {
        // SAFETY: nix has no wrapper. Both paths are live, terminated strings and the descriptors
        // are open.
        let done = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.mount.as_raw_fd(),
                c"".as_ptr(),
                dir,
                path.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH | flags,
            )
        };
        match Errno::result(done) {
            Ok(_) => Ok(()),
            Err(why) => Err(format!("move the mount to its place: {}", why.words())),
        }
    }
}

/// Runs `prepare` on a thread with a mount namespace of its own, a copy of ours: whatever it
/// mounts goes with the thread, save for the trees it returns.
pub(super) fn in_private<T: Send>(
    prepare: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    let step = |what: &'static str| {
        move |why: Errno| format!("prepare a mount namespace: {what}: {}", why.words())
    };
    thread::scope(|scope| {
        thread::Builder::new()
            .name("private".into())
            .stack_size(128 * 1024)
            .spawn_scoped(scope, || {
                let home = File::open("/proc/thread-self/ns/mnt")
                    .map_err(|why| format!("open the mount namespace: {why}", why = why.words()))?;
                unshare(CloneFlags::CLONE_NEWNS).map_err(step("unshare"))?;
                // Mounts of ours stay here, while what is unmounted outside goes here too, so that
                // nobody finds a device busy for our sake.
                let (flags, none) = (MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>);
                let prepared = mount(none, "/", none, flags, none)
                    .map_err(step("make it private"))
                    .and_then(|()| prepare());
                // A thread is joined before its namespace is gone; this waits for that.
                if let Err(why) = setns(home.as_fd(), CloneFlags::CLONE_NEWNS) {
                    log::debug!("leave a private mount namespace: {}", why.words());
                }
                prepared
            })
            .map_err(|why| format!("start a thread to mount on: {why}", why = why.words()))?
            .join()
            .unwrap_or_else(|_| Err("the thread that mounts panicked".into()))
    })
}

/// Whether the kernel has id-mapped mounts at all (Linux 5.12). Not every file system can be mapped.
pub fn kernel_maps_ids() -> bool {
    // SAFETY: all zeroes is a valid value, and one that asks for nothing.
    let nothing: libc::mount_attr = unsafe { std::mem::zeroed() };
    // SAFETY: nix has no wrapper. The path is a literal, the struct a live local of the size given, and
    // there is no such descriptor.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            -1,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const nothing,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done) != Err(Errno::ENOSYS)
}

fn unmappable(why: Errno) -> String {
    match why {
        Errno::EINVAL => "the file system, or this kernel for it, cannot be id-mapped".into(),
        Errno::ENOSYS => "needs Linux 5.12 (mount_setattr)".into(),
        why => why.words(),
    }
}

fn at_recursive(recursive: bool) -> u32 {
    if recursive {
        libc::AT_RECURSIVE.cast_unsigned()
    } else {
        0
    }
}
