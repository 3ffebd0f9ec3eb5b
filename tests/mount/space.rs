//! A place to mount in, and the calls under test.

use std::fs;
use std::path::{Path, PathBuf};

use cotter::error::{Error, Result};
use cotter::mount::{Mount, mounted_below};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::wait::{WaitStatus, waitpid};

use crate::common::eventually;

/// A tmpfs of the test's own, taken away with all that is mounted in it.
pub struct Space(pub PathBuf);

impl Space {
    /// Makes it, with an empty `rootfs` inside.
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("cotter-mount-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let dir = dir.canonicalize().unwrap();
        mount(
            Some("cotter-test"),
            &dir,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        // What the tests do about propagation is their own, whatever the machine does.
        mount(
            None::<&str>,
            &dir,
            None::<&str>,
            MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        let space = Self(dir);
        space.dir("rootfs");
        space
    }

    /// A directory in it, made if there is none.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.0.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Where the tests mount.
    pub fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    /// Mount points inside, without the space itself.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let mut below = mounted_below(&self.0).unwrap();
        assert_eq!(below.remove(0), self.0);
        below
    }

    /// Unmounts it, which nothing that is still mounted or open in it would let happen. A process
    /// that another test has just forked holds what was open then until it executes.
    #[track_caller]
    pub fn is_free(&self) {
        eventually("nobody holds the space", || {
            umount2(&self.0, MntFlags::empty()).is_ok()
        });
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for place in mounted_below(&self.0).unwrap_or_default().iter().rev() {
            let _ = umount2(place, MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// What a manager asks for.
pub fn request(kind: &str, source: impl AsRef<Path>, target: &str, options: &[&str]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.as_ref().to_str().unwrap().into(),
        target: target.into(),
        options: options.iter().map(|&word| word.into()).collect(),
    }
}

/// A small tmpfs.
pub fn tmpfs(target: &str) -> Mount {
    request("tmpfs", "tmpfs", target, &["size=64k"])
}

/// Mounts; programs are run as everybody runs them.
pub fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<()> {
    cotter::mount::mount_all(mounts, rootfs, &|command| {
        let pid = nix::unistd::Pid::from_raw(command.start()?);
        match waitpid(pid, None)? {
            WaitStatus::Exited(_, code) => Ok(code.cast_unsigned()),
            _ => Ok(255),
        }
    })
}

/// Mounts what must not be mountable: the error, after a look that nothing is there.
#[track_caller]
pub fn refused(space: &Space, mounts: &[Mount]) -> Error {
    let before = space.mounts();
    let error = mount_all(mounts, &space.rootfs()).unwrap_err();
    assert_eq!(space.mounts(), before, "{error}");
    let start = "failed to mount rootfs component: mount source: ";
    assert!(error.message.starts_with(start), "{error}");
    assert_eq!(error.message.lines().count(), 1, "{error}");
    error
}
