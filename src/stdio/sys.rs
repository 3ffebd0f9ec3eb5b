//! The system calls behind the relays. Nothing here blocks, and every descriptor is close-on-exec.

use std::fs::{DirBuilder, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, fchown, pipe2};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Stream, exact};
use crate::error::{Error, Result};

/// More than any pipe holds by default: the kernel moves what is there.
const SPLICE_LEN: usize = 1 << 20;

/// What a path given for a stream turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fifo,
    /// A regular file.
    File,
    /// A character device, such as `/dev/null`.
    Device,
}

/// Looks at a stream's path.
pub(super) fn kind(stream: Stream, path: &Path) -> Result<Kind> {
    let what = || format!("{stream} {}", path.display());
    let meta: Metadata = path
        .metadata()
        .map_err(|why| Error::io(format!("open {}", what()), &why))?;
    let file_type = meta.file_type();
    if file_type.is_fifo() {
        Ok(Kind::Fifo)
    } else if file_type.is_file() {
        Ok(Kind::File)
    } else if file_type.is_char_device() {
        Ok(Kind::Device)
    } else {
        let is = if file_type.is_dir() {
            "a directory"
        } else if file_type.is_socket() {
            "a socket"
        } else {
            "a block device"
        };
        Err(Error::invalid_argument(format!(
            "{} is {is}, neither a FIFO nor a file",
            what()
        )))
    }
}

/// Opens a FIFO for both directions. Linux never blocks that (fifo(7)), and the descriptor counts
/// as a reader and as a writer, so the peer meets neither EPIPE nor EOF while it lives.
pub(super) fn open_fifo(stream: Stream, path: &Path) -> Result<OwnedFd> {
    open(stream, path, OpenOptions::new().read(true).write(true))
}

/// Opens the FIFO that is held, as [`open_fifo`] does; `path` is what it is called.
pub(super) fn open_held(stream: Stream, path: &Path, fifo: &OwnedFd) -> Result<OwnedFd> {
    let held = format!("/proc/self/fd/{}", fifo.as_raw_fd());
    let mut both = OpenOptions::new();
    open_at(stream, path, Path::new(&held), both.read(true).write(true))
}

/// Opens a file or device that output is appended to.
pub(super) fn open_append(stream: Stream, path: &Path) -> Result<OwnedFd> {
    opened(stream, path, OpenOptions::new().append(true))
}

fn opened(stream: Stream, path: &Path, options: &mut OpenOptions) -> Result<OwnedFd> {
    let fd = open(stream, path, options)?;
    named(fd).map_err(|why| Error::io(format!("open {stream} {}", path.display()), &why))
}

/// Opens a file that output is appended to, and makes it and its directories if it is not there.
pub(super) fn create_append(stream: Stream, path: &Path) -> Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(|why| Error::io(format!("{stream}: mkdir {}", parent.display()), &why))?;
    }
    let mut options = OpenOptions::new();
    opened(stream, path, options.append(true).create(true).mode(0o644))
}

/// Opens a file that was allowed, and says what it is.
pub(super) fn create_listed(stream: Stream, path: &Path) -> Result<(OwnedFd, Kind)> {
    let fail = |why: io::Error| Error::io(format!("open {stream} {}", path.display()), &why);
    let fd = exact::open_append(path).map_err(|why| fail(why.into()))?;
    let mode = fstat(&fd).map_err(|why| fail(why.into()))?.st_mode;
    match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Ok((named(fd).map_err(fail)?, Kind::File)),
        SFlag::S_IFCHR => Ok((fd, Kind::Device)),
        _ => Err(Error::invalid_argument(format!(
            "{stream} {} is not a file",
            path.display()
        ))),
    }
}

/// Of a file opened for writing, a descriptor that only names it; of anything else the same one.
fn named(fd: OwnedFd) -> io::Result<OwnedFd> {
    if SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Ok(fd);
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = libc::O_PATH;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    Ok(file.into())
}

/// Opens a file for appending again, of which there is a descriptor that only names it.
pub(super) fn open_again(named: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    // The calling thread's own descriptors, not the process's.
    let path = format!("/proc/thread-self/fd/{}", named.as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    nix::fcntl::open(path.as_str(), flags, Mode::empty())
}

/// From here on the calling thread has a copy of this descriptor and no other one: what it holds
/// open, nobody else does, and nobody misses the end of what others close. Before Linux 5.9 it shares all
/// as before.
pub(super) fn alone_with(fd: BorrowedFd<'_>) {
    let fd = fd.as_raw_fd().cast_unsigned();
    let close = |first: u32, last: u32| {
        // SAFETY: three numbers. What is closed are copies that only this thread has.
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                first,
                last,
                libc::CLOSE_RANGE_UNSHARE,
            ) == 0
        }
    };
    // The first makes the copy; there is always something above, if only numbers.
    if close(fd + 1, u32::MAX) && fd > 0 {
        close(0, fd - 1);
    }
}

/// Whether this is a device that everybody may write to as well: null, zero, full, random, urandom.
pub(super) fn harms_nobody(device: BorrowedFd<'_>) -> bool {
    fstat(device).is_ok_and(|stat| exact::is_everybodys(&stat))
}

/// Opens a file or device that is read from.
pub(super) fn open_read(stream: Stream, path: &Path) -> Result<OwnedFd> {
    open(stream, path, OpenOptions::new().read(true))
}

fn open(stream: Stream, path: &Path, options: &mut OpenOptions) -> Result<OwnedFd> {
    open_at(stream, path, path, options)
}

/// Opens what is `at` a place and is called `path`.
fn open_at(stream: Stream, path: &Path, at: &Path, options: &mut OpenOptions) -> Result<OwnedFd> {
    options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(at)
        .map(OwnedFd::from)
        .map_err(|why| Error::io(format!("open {stream} {}", path.display()), &why))
}

/// Opens a FIFO that we have open for both directions once more for one: the way to give up the
/// other end without a moment in which neither is held. Works after the FIFO was unlinked.
pub(super) fn reopen(fifo: BorrowedFd<'_>, end: End) -> io::Result<OwnedFd> {
    OpenOptions::new()
        .read(end == End::Read)
        .write(end == End::Write)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", fifo.as_raw_fd()))
        .map(OwnedFd::from)
}

/// Closes a file on a thread of its own: its file system may first write back what it holds, or ask
/// a server that does not answer.
pub(super) fn close_elsewhere(file: Arc<OwnedFd>) {
    // Without a thread it is closed here.
    let _ = std::thread::Builder::new()
        .name("close-output".into())
        .stack_size(64 * 1024)
        .spawn(move || drop(file));
}

/// An end of a pipe or FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Read,
    Write,
}

/// A new pipe as (our end, the container's end). Ours does not block; the container's blocks, as
/// programs expect, and belongs to `uid:gid` so that it can open `/dev/stdout` again.
pub(super) fn pipe(stream: Stream, ours: End, uid: u32, gid: u32) -> Result<(OwnedFd, OwnedFd)> {
    let failed = |what: &str, why: Errno| Error::io(format!("{what} {stream} pipe"), &why.into());
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|why| failed("create", why))?;
    let (ours, theirs) = match ours {
        End::Read => (read, write),
        End::Write => (write, read),
    };
    set_nonblocking(ours.as_fd())
        .map_err(|why| Error::io(format!("set up {stream} pipe"), &why))?;
    fchown(&theirs, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(|why| failed(&format!("chown to {uid}:{gid} the"), why))?;
    Ok((ours, theirs))
}

/// A pipe for somebody to write to: our end, which does not block, and theirs, which does.
pub(super) fn reading_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    set_nonblocking(read.as_fd())?;
    Ok((read, write))
}

/// Reads and writes at a pipe's end no longer block, nor for who shares its open file description.
pub(super) fn set_nonblocking(pipe: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The opposite: for an end that a program inherits.
pub(super) fn set_blocking(pipe: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}

/// What can be read at once, 16 KiB at most; nothing at the end.
pub(super) fn read_some(from: BorrowedFd<'_>) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0; 16 * 1024];
    let len = nix::unistd::read(from, &mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// What is so at this moment. Even this is interrupted by a signal that is being handled: of many children
/// that end, say, and then it says nothing of the descriptors.
fn look(fds: &mut [PollFd<'_>]) -> nix::Result<()> {
    loop {
        match poll(fds, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            looked => return looked.map(drop),
        }
    }
}

/// Whether a pipe has neither bytes nor a writer.
pub(super) fn is_over(read_end: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(read_end, PollFlags::POLLIN)];
    look(&mut fds).is_ok()
        && fds[0].revents().is_some_and(|events| {
            events.contains(PollFlags::POLLHUP) && !events.contains(PollFlags::POLLIN)
        })
}

/// How many bytes a pipe holds, if whole pages are written.
pub(super) fn pipe_size(pipe: BorrowedFd<'_>) -> nix::Result<u64> {
    fcntl(pipe, FcntlArg::F_GETPIPE_SZ).map(|size| u64::from(size.unsigned_abs()))
}

/// Changes that; `EBUSY` if more is in it.
pub(super) fn resize_pipe(pipe: BorrowedFd<'_>, size: u64) -> nix::Result<()> {
    let size = i32::try_from(size).map_err(|_| Errno::EINVAL)?;
    fcntl(pipe, FcntlArg::F_SETPIPE_SZ(size)).map(drop)
}

/// The largest pipe that the administrator lets users have; we take no more where we could.
pub(super) fn largest_pipe() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/sys/fs/pipe-max-size")?;
    text.trim().parse().map_err(io::Error::other)
}

/// A file in memory that nobody else sees.
pub(super) fn memory_file() -> nix::Result<OwnedFd> {
    // Demanded by vm.memfd_noexec=2, unknown to kernels before 6.3.
    let never_run = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let name = c"cotter-output";
    match memfd_create(name, MFdFlags::MFD_CLOEXEC | never_run) {
        Err(Errno::EINVAL) => memfd_create(name, MFdFlags::MFD_CLOEXEC),
        made => made,
    }
}

/// A descriptor in the reactor.
pub(super) type Watched = AsyncFd<Arc<OwnedFd>>;

/// Puts a descriptor into the reactor of the current runtime.
pub(super) fn watch(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<Watched> {
    // SAFETY: tokio's safe constructors are deprecated. What it asks for, one open descriptor for as
    // long as the value lives, is what an `OwnedFd` behind an `Arc` is: nothing can take it out.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Moves what is in one pipe to another without blocking; 0 is the end of the stream.
pub(super) fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> nix::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    nix::fcntl::splice(from, None, to, None, SPLICE_LEN, flags)
}

/// Which side of a splice that would block is to blame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides {
    /// The source has bytes.
    pub(super) filled: bool,
    /// The source has no writer left.
    pub(super) hung_up: bool,
    /// The target has room, or an error to report.
    pub(super) room: bool,
}

/// Looks at both sides. A pipe to pipe splice and poll(2) agree on what full means: no free slot.
pub(super) fn sides(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> nix::Result<Sides> {
    let mut fds = [
        PollFd::new(from, PollFlags::POLLIN),
        PollFd::new(to, PollFlags::POLLOUT),
    ];
    look(&mut fds)?;
    let [source, target] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    Ok(Sides {
        filled: source.contains(PollFlags::POLLIN),
        hung_up: source.intersects(PollFlags::POLLHUP | PollFlags::POLLERR),
        room: !target.is_empty(),
    })
}

/// Whether somebody has the other end of this write end open.
pub(super) fn has_reader(write_end: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(write_end, PollFlags::empty())];
    look(&mut fds).is_ok()
        && fds[0]
            .revents()
            .is_some_and(|events| !events.contains(PollFlags::POLLERR))
}

mod raw {
    #![allow(missing_docs)]
    nix::ioctl_read_bad!(fionread, nix::libc::FIONREAD, nix::libc::c_int);
}

/// Bytes in a pipe that nobody has read, seen from either end.
pub(super) fn unread(pipe: impl AsFd) -> usize {
    let mut bytes = 0;
    // SAFETY: nix has no wrapper for FIONREAD. It stores one int at the given address, which is
    // that of a live local; the descriptor is borrowed for the call.
    let asked = unsafe { raw::fionread(pipe.as_fd().as_raw_fd(), &raw mut bytes) };
    asked.map_or(0, |_| usize::try_from(bytes).unwrap_or(0))
}
