//! Taking mounts away again: newest first, until the mount table has none left.
//!
//! Invariant: what is unmounted is at or below the place that was named, which is no link: a `rootfs`
//! that leads out of its bundle has nothing unmounted (tests/bootstrap/trust.rs).

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::mountinfo;
use crate::errno::Words;
use crate::error::{Error, Result};

/// How long a busy mount is tried again, as in the Go implementation.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Unmounts everything at and below `path`, mounts stacked on each other included. A path that
/// does not exist has no mounts, nor has one that is a link: what that leads to is somebody else's. The
/// way to it may lead over links. A busy mount is retried for 2.5 s and is then an error.
///
/// Costs one reading of the mount table when nothing is mounted.
pub fn unmount_all(path: &Path) -> Result<()> {
    unmount_all_in(path, PATIENCE)
}

/// As [`unmount_all`], for one who has less time: a busy mount is an error after `patience`.
pub fn unmount_all_in(path: &Path, patience: Duration) -> Result<()> {
    let Some(path) = place_of(path)? else {
        return Ok(());
    };
    if path == Path::new("/") {
        return Err(Error::invalid_argument(
            "refused to unmount everything below /",
        ));
    }
    let mut stuck = None;
    for _ in 0..=tries(patience) {
        let mounts = points_below(&path)?;
        if mounts.is_empty() {
            // Kernels before 5.8 can leave a mount out of the table when another one goes while
            // it is read; one call tells for the place that matters most. Newer ones have said it:
            // a call that unmounts may take as long as one that does.
            if is_mount_point(&path) == Some(false) || unmount(&path).is_err() {
                return Ok(());
            }
            continue;
        }
        let mut progress = false;
        // Newest first: what is stacked on top or below goes before what it stands on.
        for mount in mounts.iter().rev() {
            match unmount(mount) {
                Ok(()) => progress = true,
                Err(Errno::EPERM) => return Err(error(mount, Errno::EPERM)),
                // EINVAL and ENOENT: it is gone, or hidden by a mount that goes later in this
                // pass; the next reading of the table tells.
                Err(why) => stuck = Some(error(mount, why)),
            }
        }
        if !progress {
            thread::sleep(PAUSE);
        }
    }
    Err(stuck.unwrap_or_else(|| {
        Error::unknown(format!(
            "unmount {}: mounts keep coming back",
            path.display()
        ))
    }))
}

/// Whether certainly nothing is mounted at or below `path`. The kernel is asked, and the file system that
/// its directory is on; none that may be mounted there, which could hang.
pub fn nothing_mounted(path: &Path) -> bool {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return false;
    };
    let path = match directory.canonicalize() {
        Ok(directory) => directory.join(name),
        Err(why) => return why.kind() == io::ErrorKind::NotFound,
    };
    points_below(&path).is_ok_and(|points| points.is_empty())
        && match path.symlink_metadata() {
            // On a link nothing is. Kernels before 5.8 do not say of the place itself, and their table is
            // not certain.
            Ok(kind) => kind.is_symlink() || is_mount_point(&path) == Some(false),
            Err(why) => why.kind() == io::ErrorKind::NotFound,
        }
}

/// The mount points at and below `path`, oldest first. None when the path does not exist or is a link.
pub fn mounted_below(path: &Path) -> Result<Vec<PathBuf>> {
    match place_of(path)? {
        Some(path) => points_below(&path),
        None => Ok(Vec::new()),
    }
}

/// Takes the newest mount at a place away, retried while busy.
pub(super) fn one(place: &Path) -> Result<()> {
    let mut tries = tries(PATIENCE);
    loop {
        match unmount(place) {
            Ok(()) => return Ok(()),
            Err(Errno::EBUSY) if tries > 0 => {
                tries -= 1;
                thread::sleep(PAUSE);
            }
            Err(why) => return Err(error(place, why)),
        }
    }
}

/// How often a busy mount is tried again in that time.
fn tries(patience: Duration) -> u128 {
    patience.as_millis() / PAUSE.as_millis()
}

fn unmount(place: &Path) -> nix::Result<()> {
    umount2(place, MntFlags::UMOUNT_NOFOLLOW)
}

/// Whether something is mounted there; unknown to kernels before 5.8. Asks no file system that may hang.
fn is_mount_point(place: &Path) -> Option<bool> {
    let name = CString::new(place.as_os_str().as_bytes()).ok()?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
    // Needed because nix has no wrapper.
    // SAFETY: the name ends with a zero, the buffer is of the kernel's own layout, all of whose
    // values are valid, and is filled before it is read.
    let told = unsafe {
        let mut told: libc::statx = std::mem::zeroed();
        let done = libc::statx(libc::AT_FDCWD, name.as_ptr(), flags, 0, &raw mut told);
        Errno::result(done).ok().map(|_| told)
    }?;
    let attribute = libc::STATX_ATTR_MOUNT_ROOT as u64;
    (told.stx_attributes_mask & attribute != 0).then_some(told.stx_attributes & attribute != 0)
}

fn points_below(path: &Path) -> Result<Vec<PathBuf>> {
    mountinfo::read(|entry| {
        entry
            .mount_point
            .starts_with(path)
            .then_some(entry.mount_point)
    })
    .map_err(|why| Error::io("read /proc/self/mountinfo", &why))
}

/// The path with the links on the way to it resolved; none when there is nothing, or a link. The place
/// itself is asked only whether it is a link, which the root of a dead network or fuse mount, that
/// cannot be looked at, yet has to be unmounted, never is: so says the kernel without its file system.
fn place_of(path: &Path) -> Result<Option<PathBuf>> {
    let resolved = |path: &Path| match path.canonicalize() {
        Ok(path) => Ok(Some(path)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(Error::io(format!("resolve {}", path.display()), &why)),
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return resolved(path);
    };
    let here = Path::new(".");
    let parent = match parent == Path::new("") {
        true => here,
        false => parent,
    };
    let Some(place) = resolved(parent)?.map(|parent| parent.join(name)) else {
        return Ok(None);
    };
    match place.read_link() {
        Ok(_) => Ok(None),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(_) => Ok(Some(place)),
    }
}

fn error(place: &Path, why: Errno) -> Error {
    Error::unknown(format!("unmount {}: {}", place.display(), why.words()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_told_from_a_directory() {
        assert_eq!(is_mount_point(Path::new("/proc")), Some(true));
        assert_eq!(is_mount_point(Path::new("/proc/self")), Some(false));
        assert_eq!(is_mount_point(Path::new("/proc/none")), None);
    }
}
