//! Mounts of a container's root file system, made in the shim's own mount namespace.
//!
//! Invariant: [`mount_all`] makes all mounts or none, and no target leaves the root file system,
//! whatever links a layer brings along. [`unmount_all`] either leaves nothing mounted at or below
//! the path or says why; a mount is never detached lazily, since it would then stay busy where
//! nobody sees it. Pinned by `tests/mount.rs`.
//!
//! Both calls block: run them through [`crate::blocking::blocking`].

pub mod mountinfo;
mod options;
mod overlay;
mod unmount;

use std::fmt::Display;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{SysconfVar, sysconf};

use crate::error::{Code, Error, Result};
use options::Options;
pub use unmount::{mounted_below, unmount_all};

/// One component of a root file system, as the manager sends it (`containerd.types.Mount`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// File system type; for a bind mount anything.
    pub kind: String,
    /// What to mount.
    pub source: String,
    /// Where below the root file system; empty for the root file system itself.
    pub target: String,
    /// fstab words and file system options.
    pub options: Vec<String>,
}

/// Mounts everything onto `rootfs` in order. When one fails, those made before it are unmounted
/// again, newest first.
pub fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<()> {
    let mut made = Vec::new();
    let all = parse(mounts).and_then(|parsed| {
        parsed
            .iter()
            .try_for_each(|(mount, options)| attach(mount, options, rootfs, &mut made))
    });
    let Err(mut failed) = all else { return Ok(()) };
    for place in made.iter().rev() {
        if let Err(why) = unmount::one(place) {
            failed.message += &format!(" (and roll-back failed: {})", why.message);
        }
    }
    Err(failed.context("failed to mount rootfs component"))
}

/// Takes all options apart before anything is mounted.
fn parse(mounts: &[Mount]) -> Result<Vec<(&Mount, Options)>> {
    let parse_one = |mount| {
        let options = check_kind(mount).and_then(|()| Options::parse(&mount.options));
        match options {
            Ok(options) => Ok((mount, options)),
            Err(why) => {
                let Mount { source, target, .. } = mount;
                Err(why.context(format!("mount source: {source:?}, target: {target:?}")))
            }
        }
    };
    mounts.iter().map(parse_one).collect()
}

fn check_kind(mount: &Mount) -> Result<()> {
    let kind = mount.kind.as_str();
    if kind.starts_with("fuse.") || kind.starts_with("fuse3.") {
        let message = format!("{kind} mount through a fuse helper: not implemented");
        return Err(Error::new(Code::Unimplemented, message));
    }
    Ok(())
}

/// Makes one mount with all the calls it takes. `made` tells what is to be undone, also on error.
fn attach(
    request: &Mount,
    options: &Options,
    rootfs: &Path,
    made: &mut Vec<PathBuf>,
) -> Result<()> {
    let target = request.target.as_str();
    let asked = rootfs.join(target.trim_start_matches('/'));
    let fail = |why: &dyn Display| failure(request, options, &asked, why);

    let fd = open_target(rootfs, target).map_err(|why| fail(&target_error(why)))?;
    let place = fs::read_link(magic_link(&fd)).map_err(|why| fail(&why))?;
    let fail = |why: &dyn Display| failure(request, options, &place, why);
    mount_at(request, options, &fd).map_err(|why| fail(&why))?;
    drop(fd);
    if !options.flags.contains(MsFlags::MS_REMOUNT) {
        made.push(place.clone());
    }

    // That descriptor was of the directory underneath; from here on the new mount is meant.
    let reopen = || match open_target(rootfs, target) {
        Ok(fd) if fs::read_link(magic_link(&fd)).is_ok_and(|now| now == place) => Ok(fd),
        Ok(_) => Err(fail(&"the target moved while it was mounted")),
        Err(why) => Err(fail(&target_error(why))),
    };
    let change = |fd: &OwnedFd, flags| {
        const NONE: Option<&str> = None;
        mount(NONE, &magic_link(fd), NONE, flags, NONE).map_err(|why| fail(&why.desc()))
    };
    if let Some(flags) = options.propagation {
        change(&reopen()?, flags)?;
    }
    if options.bind_remount(MsFlags::empty()).is_some() {
        let fd = reopen()?;
        let has = fstatvfs(&fd).map_err(|why| fail(&why.desc()))?;
        if let Some(flags) = options.bind_remount(mount_flags(has.flags())) {
            change(&fd, flags)?;
        }
    }
    Ok(())
}

/// The first call: everything but propagation and the flags of a bind mount.
fn mount_at(request: &Mount, options: &Options, fd: &OwnedFd) -> Result<(), String> {
    let Mount { kind, source, .. } = request;
    let data = options.joined();
    let longest = options::longest_data(page_size());
    let target = magic_link(fd);
    let made = if data.len() <= longest {
        mount(
            Some(source.as_str()),
            &target,
            Some(kind.as_str()),
            options.flags,
            (!data.is_empty()).then_some(data.as_str()),
        )
    } else {
        let (dir, data) = (kind == "overlay")
            .then(|| overlay::shorten(&options.data))
            .flatten()
            .filter(|(_, short)| short.len() <= longest)
            .ok_or_else(|| {
                let length = data.len();
                format!("mount options are too long: {length} bytes, the kernel takes {longest}")
            })?;
        overlay::mount_from(&dir, source, &target, options.flags, &data)
    };
    made.map_err(|why| why.desc().to_owned())
}

/// The words and their order are those of the Go implementation. Unknown also for a missing file:
/// a client would take "not found" for the container.
fn failure(request: &Mount, options: &Options, place: &Path, why: &dyn Display) -> Error {
    let Mount { source, kind, .. } = request;
    let data: String = options.joined().chars().take(512).collect();
    let flags = options.flags.bits();
    Error::unknown(format!(
        "mount source: {source:?}, target: {place:?}, fstype: {kind}, flags: {flags}, data: {data:?}, err: {why}"
    ))
}

/// Opens the place to mount on. Links and `..` below `rootfs` are followed as if it were `/`.
///
/// openat2(2) is Linux 5.6; on older kernels only mounts without a target work.
fn open_target(rootfs: &Path, target: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let root = open(rootfs, flags, Mode::empty())?;
    if target.trim_matches('/').is_empty() {
        return Ok(root);
    }
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // EAGAIN: something was renamed or mounted while `..` was resolved.
    let mut tries = 16;
    loop {
        match openat2(&root, target, how) {
            Err(Errno::EAGAIN) if tries > 0 => tries -= 1,
            done => return done,
        }
    }
}

fn target_error(why: Errno) -> String {
    match why {
        Errno::ENOSYS => "a target below the root file system needs Linux 5.6 (openat2)".into(),
        why => why.desc().into(),
    }
}

/// A path that means exactly the opened file, whatever is renamed meanwhile.
fn magic_link(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn mount_flags(has: FsFlags) -> MsFlags {
    [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ]
    .into_iter()
    .filter(|(st, _)| has.contains(*st))
    .map(|(_, ms)| ms)
    .collect()
}

fn page_size() -> usize {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| usize::try_from(size).ok())
        .unwrap_or(4096)
}
