//! Taking mounts away again: newest first, until the mount table has none left.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::mountinfo;
use crate::error::{Error, Result};

/// How often a busy mount is tried again.
const TRIES: u32 = 50;
/// The pause between two tries. Together 2.5 s, as in the Go implementation.
const PAUSE: Duration = Duration::from_millis(50);

/// Unmounts everything at and below `path`, mounts stacked on each other included. A path that
/// does not exist has no mounts. A busy mount is retried for 2.5 s and is then an error.
///
/// Costs one reading of the mount table when nothing is mounted.
pub fn unmount_all(path: &Path) -> Result<()> {
    let Some(path) = canonical(path)? else {
        return Ok(());
    };
    if path == Path::new("/") {
        return Err(Error::invalid_argument(
            "refused to unmount everything below /",
        ));
    }
    let mut stuck = None;
    for _ in 0..=TRIES {
        let mounts = points_below(&path)?;
        if mounts.is_empty() {
            // Kernels before 5.8 can leave a mount out of the table when another one goes while
            // it is read; one call tells for the place that matters most.
            match unmount(&path) {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            }
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

/// The mount points at and below `path`, oldest first. None when the path does not exist.
pub fn mounted_below(path: &Path) -> Result<Vec<PathBuf>> {
    match canonical(path)? {
        Some(path) => points_below(&path),
        None => Ok(Vec::new()),
    }
}

/// Takes the newest mount at a place away, retried while busy.
pub(super) fn one(place: &Path) -> Result<()> {
    let mut tries = TRIES;
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

fn unmount(place: &Path) -> nix::Result<()> {
    umount2(place, MntFlags::UMOUNT_NOFOLLOW)
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

fn canonical(path: &Path) -> Result<Option<PathBuf>> {
    match path.canonicalize() {
        Ok(path) => Ok(Some(path)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        // The root of a dead network or fuse mount cannot be looked at, yet has to be unmounted;
        // the directory it is in can.
        Err(why) => match (path.parent().map(Path::canonicalize), path.file_name()) {
            (Some(Ok(parent)), Some(name)) => Ok(Some(parent.join(name))),
            _ => Err(Error::io(format!("resolve {}", path.display()), &why)),
        },
    }
}

fn error(place: &Path, why: Errno) -> Error {
    Error::unknown(format!("unmount {}: {}", place.display(), why.desc()))
}
