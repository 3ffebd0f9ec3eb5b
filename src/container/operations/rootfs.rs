//! The root file system of a container, where it is the shim's to mount.
//!
//! Invariant: a mount that failed, or that nobody waits for any more, leaves neither mount nor directory.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use super::mounting;
use crate::blocking::{Job, within, within_or};
use crate::container::Shared;
use crate::error::{Error, Result};
use crate::mount::{self, Mount};

/// One that is mounted.
pub(super) struct Rootfs {
    place: PathBuf,
    made_dir: bool,
}

impl Rootfs {
    /// None for a Create that brings no mounts: its rootfs is not the shim's business.
    pub(super) async fn mount(
        shared: &Shared,
        bundle: &Path,
        mounts: &[Mount],
    ) -> Result<Option<Self>> {
        if mounts.is_empty() {
            return Ok(None);
        }
        let place = bundle.join("rootfs");
        let made_dir = make_dir(&place)?;
        let rootfs = Self { place, made_dir };
        let mounted = mount_all(shared, mounts.to_vec(), rootfs.place.clone()).await;
        mounted.inspect_err(|_| rootfs.remove_dir())?;
        Ok(Some(rootfs))
    }

    pub(super) async fn undo(self, shared: &Shared, id: &str) {
        if let Err(e) = unmount(&self.place, shared.limits.unmount).await {
            log::error!("container {id}: clean-up after a failed create: {e}");
        }
        self.remove_dir();
    }

    fn remove_dir(&self) {
        if self.made_dir {
            // Not empty or busy: somebody else's by now.
            let _ = fs::remove_dir(&self.place);
        }
    }
}

async fn mount_all(shared: &Shared, mounts: Vec<Mount>, rootfs: PathBuf) -> Result<()> {
    let run = mounting::runner(shared);
    let job = Job {
        name: "mount",
        what: format!("mount onto {}", rootfs.display()),
        limit: shared.limits.mount,
    };
    let place = rootfs.clone();
    within_or(
        job,
        move || mount::mount_all(&mounts, &rootfs, &run),
        move |mounted| {
            // Nobody waits for it any more.
            if mounted.is_ok() {
                let _ = mount::unmount_all(&place)
                    .inspect_err(|e| log::error!("clean-up after a late mount: {e}"));
            }
        },
    )
    .await?
}

/// Unmounts a rootfs, within a limit.
pub(super) async fn unmount(rootfs: &Path, limit: Duration) -> Result<()> {
    let job = Job {
        name: "unmount",
        what: format!("unmount {}", rootfs.display()),
        limit,
    };
    let rootfs = rootfs.to_owned();
    within(job, move || mount::unmount_all(&rootfs)).await?
}

/// Whether the directory was made by this call.
fn make_dir(rootfs: &Path) -> Result<bool> {
    // What it leads to is not the container's, and would not be unmounted.
    if rootfs.is_symlink() {
        let what = "failed to mount rootfs component: the place is a link";
        return Err(Error::unknown(format!("{what}: {}", rootfs.display())));
    }
    match fs::DirBuilder::new().mode(0o711).create(rootfs) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io(format!("mkdir {}", rootfs.display()), &e)),
    }
}
