//! The shim's socket: its name, who owns it, and when it goes (contract 1.6, 1.7).
//!
//! Invariant: at any time one live shim at most owns the socket of a group. Probing, removing and
//! binding happen under a lock on the socket's directory, so of two concurrent starts one binds and
//! the other finds it. Nobody removes a socket that a live shim listens on, nor one that took the
//! place of his own. tests/bootstrap.rs runs twenty starts at once.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen,
    socket, sockopt,
};
use sha2::{Digest, Sha256};

use crate::errno::is_absent;
use crate::error::{Error, Result};

/// Where sockets are unless the manager names another directory.
pub const DEFAULT_DIR: &str = "/run/containerd/s";

/// What goes before a path to make it an address.
pub const SCHEME: &str = "unix://";

/// Longest path of a socket in bytes; the kernel's limit of 108 counts the terminator, and managers
/// count on one less.
const MAX_PATH: usize = 106;

/// How long to wait for others in the same directory, each of whom holds the lock for a millisecond:
/// to bind, after which there is no other way, and to remove, which the next start can make up for.
const BIND_PATIENCE: Duration = Duration::from_secs(10);
const REMOVE_PATIENCE: Duration = Duration::from_millis(200);

/// The name of a group's socket. Shims of every version and make use this formula, so that they find
/// each other.
pub fn name(grpc_address: &str, namespace: &str, group: &str) -> String {
    let digest = Sha256::digest(join(&[grpc_address, namespace, group]));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Go's `path.Join`: the non-empty parts with slashes between, then cleaned lexically.
fn join(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
    let joined = parts.join("/");
    if joined.is_empty() {
        return joined;
    }
    let rooted = joined.starts_with('/');
    let mut clean: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." if clean.last().is_some_and(|last| *last != "..") => {
                clean.pop();
            }
            ".." if rooted => {}
            part => clean.push(part),
        }
    }
    match (rooted, clean.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

/// The outcome of a claim.
#[derive(Debug)]
pub enum Claim {
    /// The socket is ours and listens.
    Ours(OwnedFd, Socket),
    /// A live shim of the group listens there.
    Taken,
}

/// A socket's file, known by its inode: the number cannot come again while the socket is open.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    identity: (u64, u64),
}

/// Binds `path`, replacing the socket of a dead shim. The directory is made with mode 0700 if it is
/// missing; one that exists belongs to the manager and stays as it is.
///
/// # Errors
/// When the path is too long or the directory or the socket cannot be made.
pub fn claim(path: &Path) -> Result<Claim> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(Error::invalid_argument(format!(
            "socket path {} has {} bytes, the limit is {MAX_PATH}",
            path.display(),
            path.as_os_str().len()
        )));
    }
    let dir = parent(path)?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Error::io(format!("make socket directory {}", dir.display()), &e))?;
    let _lock = lock(dir, BIND_PATIENCE)?;
    match listens(path)? {
        Some(true) => return Ok(Claim::Taken),
        Some(false) => unlink(path)?,
        None => {}
    }
    let failed = |step: &str, e: io::Error| Error::io(format!("{step} {}", path.display()), &e);
    let fd = stream().map_err(|e| failed("make socket", e))?;
    let address = UnixAddr::new(path).map_err(|e| failed("name socket", e.into()))?;
    bind(fd.as_raw_fd(), &address).map_err(|e| failed("bind", e.into()))?;
    let ready = (|| {
        let identity = identify(path).map_err(|e| failed("stat", e))?;
        // Nobody can connect before listen, so nobody slips in before the mode is right.
        std::fs::set_permissions(path, Permissions::from_mode(0o600))
            .map_err(|e| failed("chmod", e))?;
        listen(&fd, Backlog::MAXCONN).map_err(|e| failed("listen on", e.into()))?;
        Ok(identity)
    })();
    match ready {
        Ok(identity) => {
            let path = path.to_owned();
            Ok(Claim::Ours(fd, Socket { path, identity }))
        }
        Err(e) => {
            // Ours: bound under the lock that is still held. The error to tell is the first.
            let _ = unlink(path);
            Err(e)
        }
    }
}

impl Socket {
    /// The file behind a socket that another process bound; none if it has no file.
    pub fn of(listener: &std::os::unix::net::UnixListener) -> Option<Self> {
        let address = listener.local_addr().ok()?;
        let path = address.as_pathname()?.to_owned();
        let identity = identify(&path).ok()?;
        Some(Self { path, identity })
    }

    /// Removes the file if it is still this socket's. Call it while the socket is open: a start that
    /// comes after finds nothing, and makes its own, instead of the socket of a shim that ends.
    ///
    /// # Errors
    /// When the directory cannot be locked or the file not be removed.
    pub fn remove(&self) -> Result<()> {
        self.remove_if(|| true).map(drop)
    }

    /// As [`remove`](Self::remove), unless `may` says no while no start can be looking for the socket.
    /// Answers what it said.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn remove_if(&self, may: impl FnOnce() -> bool) -> Result<bool> {
        let _lock = lock(parent(&self.path)?, REMOVE_PATIENCE)?;
        if !may() {
            return Ok(false);
        }
        match identify(&self.path) {
            Ok(identity) if identity == self.identity => unlink(&self.path)?,
            _ => {}
        }
        Ok(true)
    }
}

/// Whether a shim listens on `path`. Where that cannot be told it may be so.
pub fn is_alive(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(meta) if meta.file_type().is_socket() => {
            listens(path).unwrap_or(Some(true)) == Some(true)
        }
        Ok(_) => false,
        Err(why) => !is_absent(&why),
    }
}

/// How often a process is looked at that may only have been run at that moment, a millisecond apart.
const LOOKS: u32 = 5;

/// Whether the shim that listens on `path` is certainly not on its way out: its process runs, and is
/// neither ending nor about to be killed. A process closes its connections only once it is marked
/// as ending, so who saw a connection end is told the truth here. Of a socket that was set up by a
/// process that has ended, or on which nobody listens, nothing is certain.
pub fn surely_lives(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(meta) if meta.file_type().is_socket() => {}
        _ => return false,
    }
    let (Ok(address), Ok(fd)) = (UnixAddr::new(path), stream()) else {
        return false;
    };
    if connect(fd.as_raw_fd(), &address).is_err() {
        return false;
    }
    let Ok(peer) = getsockopt(&fd, sockopt::PeerCredentials) else {
        return false;
    };
    // 0 is a process that cannot be seen from here. Of one that is just being run, to let us in for one,
    // nothing is certain.
    let stat = format!("/proc/{}/stat", peer.pid());
    let goes_on = || crate::kernel_file::text(&stat).is_ok_and(|stat| goes_on(&stat));
    let mut pauses = 1..LOOKS;
    while !goes_on() {
        if peer.pid() <= 0 || pauses.next().is_none() {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    // While nobody has hung up the number is still that of whoever listens.
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
}

/// Whether a process goes on, by its stat (proc(5)): it waits for something or is stopped, is marked neither
/// as ending nor as killed, and has not the SIGKILL pending that the kernel puts on every thread it is to
/// end. Between taking that and being marked it can only be in state R.
fn goes_on(stat: &str) -> bool {
    /// Of linux/sched.h.
    const PF_EXITING: u64 = 0x4;
    const PF_SIGNALED: u64 = 0x400;
    const KILLED: u64 = 1 << (libc::SIGKILL - 1);
    let Some((_, fields)) = stat.rsplit_once(") ") else {
        return false;
    };
    // From the third on.
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |nth: usize| fields.get(nth - 3)?.parse::<u64>().ok();
    let (Some(state), Some(flags), Some(signals)) = (fields.first(), number(9), number(31)) else {
        return false;
    };
    let ending = flags & (PF_EXITING | PF_SIGNALED) != 0 || signals & KILLED != 0;
    !ending && !matches!(*state, "R" | "Z" | "X")
}

/// Removes a dead shim's socket: a socket on which nobody listens. Anything else stays.
///
/// # Errors
/// As [`Socket::remove`].
pub fn remove_dead(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(meta) if meta.file_type().is_socket() => {}
        Ok(_) => return Ok(()),
        Err(why) if is_absent(&why) => return Ok(()),
        Err(why) => return Err(Error::io(format!("look at {}", path.display()), &why)),
    }
    let _lock = lock(parent(path)?, REMOVE_PATIENCE)?;
    match listens(path)? {
        Some(false) => unlink(path),
        _ => Ok(()),
    }
}

/// Whether somebody listens on a socket; none if there is no file. Connecting without blocking is
/// answered at once: a full backlog (`EAGAIN`) is somebody's too, if slow.
fn listens(path: &Path) -> Result<Option<bool>> {
    let failed = |e: Errno| Error::io(format!("connect to {}", path.display()), &e.into());
    let address = UnixAddr::new(path).map_err(failed)?;
    let fd = stream().map_err(|e| Error::io("make socket", &e))?;
    match connect(fd.as_raw_fd(), &address) {
        Ok(()) | Err(Errno::EAGAIN) => Ok(Some(true)),
        Err(Errno::ECONNREFUSED) => Ok(Some(false)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

fn stream() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

fn parent(path: &Path) -> Result<&Path> {
    path.parent().ok_or_else(|| {
        Error::invalid_argument(format!("socket path {} has no directory", path.display()))
    })
}

fn identify(path: &Path) -> io::Result<(u64, u64)> {
    let meta = path.symlink_metadata()?;
    Ok((meta.dev(), meta.ino()))
}

fn unlink(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove socket {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}

/// Locks a directory itself, so that no lock file is left. Tried over and over instead of waited
/// for, because a stopped process may hold it.
fn lock(dir: &Path, patience: Duration) -> Result<Flock<File>> {
    let what = || format!("lock socket directory {}", dir.display());
    let mut file = File::open(dir).map_err(|e| Error::io(what(), &e))?;
    let give_up = Instant::now() + patience;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK)) if Instant::now() < give_up => file = same,
            Err((_, Errno::EWOULDBLOCK)) => return Err(Error::deadline_exceeded(what())),
            Err((_, e)) => return Err(Error::io(what(), &e.into())),
        }
        sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests;
