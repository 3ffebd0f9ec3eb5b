//! Mounts of a container's root file system, made in the shim's own mount namespace.
//!
//! Invariant: [`mount_all`] makes all mounts or none, and no target leaves the root file system,
//! whatever links a layer brings along. [`unmount_all`] either leaves nothing mounted at or below
//! the path or says why; a mount is never detached lazily, since it would then stay busy where
//! nobody sees it. Pinned by `tests/mount`.
//!
//! Besides what mount(2) does itself: images through a loop device (`image`), id-mapped mounts
//! (`idmap`, `userns`, `tree`), overlays with many layers (`overlay`), programs (`fuse`).
//!
//! Both calls block: run them through [`crate::blocking::blocking`].

mod fuse;
pub(crate) mod fuzzing;
mod idmap;
mod image;
mod inside;
pub mod mountinfo;
mod options;
mod overlay;
mod tree;
mod unmount;
mod userns;

use std::fmt::Display;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{SysconfVar, sysconf};

use crate::errno::Words;
use crate::error::{Error, Result};
use crate::program::Program;
use inside::open_inside;
use options::Options;
use tree::Tree;
pub use tree::kernel_maps_ids;
pub use unmount::{mounted_below, nothing_mounted, unmount_all, unmount_all_in};

const OVERLAY: &str = "overlay";

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

/// Runs a program to its end and answers its exit status; kills it at a time limit, which is a
/// [`TimedOut`](std::io::ErrorKind::TimedOut). In a shim, only the monitor can wait for children.
pub type RunProgram<'a> = &'a dyn Fn(&mut Program) -> io::Result<u32>;

/// How a mount is made.
enum Way<'a> {
    Kernel(Options),
    Program(fuse::Kind<'a>),
}

/// Mounts everything onto `rootfs` in order. When one fails, those made before it are unmounted
/// again, newest first. `run` is for file systems that a program mounts.
pub fn mount_all(mounts: &[Mount], rootfs: &Path, run: RunProgram<'_>) -> Result<()> {
    let mut made = Vec::new();
    let all = parse(mounts).and_then(|parsed| {
        parsed.iter().try_for_each(|(mount, way)| match way {
            Way::Kernel(options) => attach(mount, options, rootfs, &mut made),
            Way::Program(kind) => attach_by_program(mount, *kind, rootfs, run, &mut made),
        })
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
fn parse(mounts: &[Mount]) -> Result<Vec<(&Mount, Way<'_>)>> {
    let parse_one = |mount| match parse_way(mount) {
        Ok(way) => Ok((mount, way)),
        Err(why) => {
            let Mount { source, target, .. } = mount;
            Err(why.context(format!("mount source: {source:?}, target: {target:?}")))
        }
    };
    mounts.iter().map(parse_one).collect()
}

fn parse_way(mount: &Mount) -> Result<Way<'_>> {
    if let Some(kind) = fuse::Kind::parse(&mount.kind)? {
        return fuse::check(mount).map(|()| Way::Program(kind));
    }
    let options = Options::parse(&mount.options)?;
    let overlay = mount.kind == OVERLAY && !options.flags.contains(MsFlags::MS_BIND);
    if overlay && options.map.is_some() && overlay::layers(&options.data).is_empty() {
        let message = "an id-mapped overlay mount without \"lowerdir\"";
        return Err(Error::invalid_argument(message));
    }
    Ok(Way::Kernel(options))
}

/// Opens the place of a mount: what to mount on, and its path at this moment.
fn open_place(
    rootfs: &Path,
    target: &str,
    fail: impl Fn(&Path, &dyn Display) -> Error,
) -> Result<(OwnedFd, PathBuf)> {
    let asked = rootfs.join(target.trim_start_matches('/'));
    let fd = open_inside(rootfs, target).map_err(|why| fail(&asked, &why.words()))?;
    let place = fs::read_link(magic_link(&fd)).map_err(|why| fail(&asked, &why.words()))?;
    Ok((fd, place))
}

fn attach_by_program(
    request: &Mount,
    kind: fuse::Kind<'_>,
    rootfs: &Path,
    run: RunProgram<'_>,
    made: &mut Vec<PathBuf>,
) -> Result<()> {
    let fail = |place: &Path, why: &dyn Display| {
        failure(
            request,
            MsFlags::empty(),
            &request.options.join(","),
            place,
            why,
        )
    };
    let (fd, place) = open_place(rootfs, &request.target, fail)?;
    // The program goes by the path, and a file that is open elsewhere may not be mounted on.
    drop(fd);
    fuse::mount(kind, request, &place, run).map_err(|why| fail(&place, &why))?;
    made.push(place);
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
    let fail = |place: &Path, why: &dyn Display| {
        failure(request, options.flags, &options.joined(), place, why)
    };
    let (fd, place) = open_place(rootfs, target, fail)?;
    let fail = |why: &dyn Display| fail(&place, why);
    mount_at(request, options, &fd, &place).map_err(|why| fail(&why))?;
    drop(fd);
    if !options.flags.contains(MsFlags::MS_REMOUNT) {
        made.push(place.clone());
    }

    // That descriptor was of the directory underneath; from here on the new mount is meant.
    let reopen = || match open_inside(rootfs, target) {
        Ok(fd) if fs::read_link(magic_link(&fd)).is_ok_and(|now| now == place) => Ok(fd),
        Ok(_) => Err(fail(&"the target moved while it was mounted")),
        Err(why) => Err(fail(&why.words())),
    };
    let change = |fd: &OwnedFd, flags| {
        const NONE: Option<&str> = None;
        mount(NONE, &magic_link(fd), NONE, flags, NONE).map_err(|why| fail(&why.words()))
    };
    if let Some(flags) = options.propagation {
        change(&reopen()?, flags)?;
    }
    if options.bind_remount(MsFlags::empty()).is_some() {
        let fd = reopen()?;
        let has = fstatvfs(&fd).map_err(|why| fail(&why.words()))?;
        if let Some(flags) = options.bind_remount(mount_flags(has.flags())) {
            change(&fd, flags)?;
        }
    }
    Ok(())
}

/// Everything but propagation and the flags of a bind mount.
fn mount_at(request: &Mount, options: &Options, fd: &OwnedFd, place: &Path) -> Result<(), String> {
    let device = options.image.then(|| {
        let read_only = options.flags.contains(MsFlags::MS_RDONLY);
        let direct_io = options.direct_io;
        let how = image::How {
            read_only,
            direct_io,
        };
        image::Device::attach(Path::new(&request.source), how)
    });
    // Kept open until it is mounted.
    let device = device.transpose()?;
    let source = device
        .as_ref()
        .map_or(Path::new(&request.source), |device| &device.path);
    let Some(map) = &options.map else {
        return call_mount(&request.kind, source, options, &magic_link(fd));
    };

    let users = userns::with_map(map)?;
    let mapped = if options.flags.contains(MsFlags::MS_BIND) {
        Tree::copy(source, options.flags.contains(MsFlags::MS_REC))?.mapped(&users)?
    } else {
        let overlay = request.kind == OVERLAY;
        // Only layers of an overlay can be mapped, not the whole.
        let mounted = tree::in_private(|| {
            if overlay {
                overlay::cover(&overlay::layers(&options.data), &users)?;
            }
            call_mount(&request.kind, source, options, place)?;
            Tree::copy(place, false)
        })?;
        if overlay {
            mounted
        } else {
            mounted.mapped(&users)?
        }
    };
    mapped.move_onto(fd)
}

/// mount(2), from elsewhere when the layers of an overlay are too many.
fn call_mount(kind: &str, source: &Path, options: &Options, target: &Path) -> Result<(), String> {
    let data = options.joined();
    let longest = options::longest_data(page_size());
    let made = if data.len() <= longest {
        let data = (!data.is_empty()).then_some(data.as_str());
        mount(Some(source), target, Some(kind), options.flags, data)
    } else {
        let (dir, data) = (kind == OVERLAY)
            .then(|| overlay::shorten(&options.data))
            .flatten()
            .filter(|(_, short)| short.len() <= longest)
            .ok_or_else(|| {
                let length = data.len();
                format!("mount options are too long: {length} bytes, the kernel takes {longest}")
            })?;
        overlay::mount_from(&dir, source, target, options.flags, &data)
    };
    made.map_err(|why| why.words())
}

/// The words and their order are those of the Go implementation. Unknown also for a missing file:
/// a client would take "not found" for the container.
fn failure(request: &Mount, flags: MsFlags, data: &str, place: &Path, why: &dyn Display) -> Error {
    let Mount { source, kind, .. } = request;
    let data: String = data.chars().take(512).collect();
    let flags = flags.bits();
    Error::unknown(format!(
        "mount source: {source:?}, target: {place:?}, fstype: {kind}, flags: {flags}, data: {data:?}, err: {why}"
    ))
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
