//! Which file descriptors cross into a process and out of it.
//!
//! Invariant: beyond standard input, output and error, a process of the shim owns the descriptors it
//! opened itself and, when it serves, the listening socket that `start` left on [`LISTENER`].
//! tests/bootstrap.rs looks at the server's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{Backlog, getsockopt, listen, sockopt};

use crate::error::{Error, Result};

/// Where the server finds its socket (contract 1.2).
pub const LISTENER: RawFd = 3;

/// Closes every descriptor from `first` up: what a manager let through by accident would live as
/// long as the shim, or reach a container. Before Linux 5.9 one by one, as `/proc` lists them.
///
/// # Safety
/// Nothing in the process may use one of these descriptors any more: call it before anything is opened,
/// or last of all.
pub unsafe fn close_from(first: RawFd) {
    // Needed because nix has no wrapper. The call touches no memory; that nobody uses the closed
    // descriptors afterwards is the caller's promise.
    // SAFETY: as above.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if done == 0 {
        return;
    }
    let list = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let open: Vec<RawFd> = list.flatten().filter_map(number).collect();
    for fd in open.into_iter().filter(|fd| *fd >= first) {
        // SAFETY: as above. The list's own is closed already, for which this is an error and no more.
        unsafe { libc::close(fd) };
    }
}

/// Puts a duplicate that survives exec on [`LISTENER`].
///
/// # Errors
/// When the number is taken.
pub fn place_listener(socket: OwnedFd) -> Result<OwnedFd> {
    let what = "put the socket on file descriptor 3";
    // Out of the way first: the socket itself may sit there.
    let parked = adopt(&socket, FcntlArg::F_DUPFD_CLOEXEC(LISTENER + 7), what)?;
    drop(socket);
    let placed = adopt(&parked, FcntlArg::F_DUPFD(LISTENER), what)?;
    if placed.as_raw_fd() != LISTENER {
        return Err(Error::unknown(format!("{what}: it is taken")));
    }
    Ok(placed)
}

fn adopt(fd: &OwnedFd, how: FcntlArg, what: &str) -> Result<OwnedFd> {
    let new = fcntl(fd, how).map_err(|e| Error::io(what, &e.into()))?;
    // Needed because nix returns a bare number here.
    // SAFETY: F_DUPFD made this descriptor in the line above and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Takes over the socket that `start` left.
///
/// # Safety
/// Once per process, and nothing else may own [`LISTENER`].
///
/// # Errors
/// When there is no listening socket.
pub unsafe fn take_listener() -> Result<UnixListener> {
    let failed = |e: nix::Error| {
        Error::io(
            "take the socket over from file descriptor 3",
            &io::Error::from(e),
        )
    };
    // Needed to find out, before owning it, whether the number is in use at all.
    // SAFETY: F_GETFD on any number is harmless.
    if unsafe { libc::fcntl(LISTENER, libc::F_GETFD) } < 0 {
        return Err(failed(nix::Error::last()));
    }
    // SAFETY: open, and the caller promises that nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(LISTENER) };
    match getsockopt(&socket.as_fd(), sockopt::AcceptConn) {
        Ok(true) => {}
        Ok(false) => return Err(failed(nix::Error::EINVAL)),
        Err(e) => return Err(failed(e)),
    }
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(failed)?;
    // The kernel names the last who called this to those who connect (SO_PEERCRED): from here on
    // that is who serves, and not `start`, which is gone by then.
    listen(&socket, Backlog::MAXCONN).map_err(failed)?;
    Ok(UnixListener::from(socket))
}
