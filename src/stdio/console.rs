//! How a terminal comes from the runtime, and what can be done to it.
//!
//! Invariant: whether or not the runtime sends a terminal, the wait for it ends, and neither the
//! socket nor its directory nor any descriptor that came along is left.
//!
//! The runtime makes the pseudo-terminal inside the container and sends its master end over a
//! socket whose path it is given (contract 5.6). The slave end is the container's; we never hold it
//! but for the one case in [`peer`].

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::take;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::mkdtemp;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::sys;
use crate::errno::Words;
use crate::error::{Error, Result};

/// `sun_path` of unix(7), with its final NUL.
const SOCKET_PATH_MAX: usize = 108;
/// The most descriptors a message can have (`SCM_MAX_FD`, unix(7)): with room for all of them none is
/// lost to a message that was cut off, and each can be closed.
const FDS_MAX: usize = 253;
/// The runtime may name the terminal in as many bytes (go-runc's limit).
const NAME_MAX: usize = 4096;

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

impl Size {
    /// A size as it comes over the wire.
    ///
    /// # Errors
    /// `InvalidArgument` for what no terminal can have; cutting it down would set another size.
    pub fn new(width: u32, height: u32) -> Result<Self> {
        match (u16::try_from(width), u16::try_from(height)) {
            (Ok(width), Ok(height)) => Ok(Self { width, height }),
            _ => Err(Error::invalid_argument(format!(
                "terminal size {width}x{height} is beyond {0}x{0}",
                u16::MAX
            ))),
        }
    }
}

/// A socket that a runtime sends a terminal to, in a directory of its own that only our user can
/// enter.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    /// What has come before it was waited for.
    early: Early,
    listener: UnixListener,
    directory: Directory,
}

/// How much of a terminal's coming has been seen.
#[derive(Debug, Default)]
enum Early {
    #[default]
    Nothing,
    Connected(UnixStream),
    Came(io::Result<OwnedFd>),
}

/// A directory that is removed with its socket.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn socket(&self) -> PathBuf {
        self.0.join("pty.sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.socket());
        if let Err(why) = fs::remove_dir(&self.0) {
            log::warn!("remove {}: {why}", self.0.display(), why = why.words());
        }
    }
}

impl ConsoleSocket {
    /// Makes the directory and listens.
    pub(super) fn listen() -> Result<Self> {
        let from_environment =
            ["XDG_RUNTIME_DIR", "TMPDIR"].map(|name| std::env::var_os(name).map(PathBuf::from));
        let always = ["/run", "/tmp"].map(|path| Some(PathBuf::from(path)));
        let places = from_environment.into_iter().chain(always).flatten();
        Self::listen_in(places.filter(|place| place.is_absolute()))
    }

    /// In the first of some places where it can be done.
    fn listen_in(places: impl Iterator<Item = PathBuf>) -> Result<Self> {
        let mut failed = Error::not_found("a directory for it");
        for place in places {
            let template = place.join("pty-XXXXXX");
            if template.as_os_str().len() + "/pty.sock".len() >= SOCKET_PATH_MAX {
                continue;
            }
            let made = mkdtemp(&template).map_err(io::Error::from).and_then(|dir| {
                let directory = Directory(dir);
                let listener = UnixListener::bind(directory.socket())?;
                Ok(Self {
                    early: Early::Nothing,
                    listener,
                    directory,
                })
            });
            match made {
                Ok(socket) => return Ok(socket),
                Err(why) => failed = Error::io(format!("listen in {}", place.display()), &why),
            }
        }
        Err(failed)
    }

    /// Where the runtime connects to.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.socket()
    }

    /// The master end that the runtime has sent or is about to, not blocking.
    pub(super) async fn receive(self, limit: Duration) -> Result<OwnedFd> {
        let received = timeout(limit, async {
            let stream = match self.early {
                Early::Came(came) => return came,
                Early::Connected(stream) => stream,
                Early::Nothing => self.listener.accept().await?.0,
            };
            receive(&stream).await
        });
        match received.await {
            Ok(Ok(master)) => Ok(master),
            Ok(Err(why)) => Err(Error::io("receive it from the runtime", &why)),
            Err(_) => Err(Error::deadline_exceeded(format!(
                "the runtime did not send it within {limit:?}"
            ))),
        }
    }

    /// Looks whether a terminal has come, and takes it if so many bytes have been written to it.
    pub(super) fn shows(&mut self, bytes: usize, cx: &mut Context<'_>) -> Option<OwnedFd> {
        if matches!(self.early, Early::Nothing)
            && let Poll::Ready(Ok((stream, _))) = self.listener.poll_accept(cx)
        {
            self.early = Early::Connected(stream);
        }
        if let Early::Connected(stream) = &self.early {
            match message(stream) {
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                fds => self.early = Early::Came(fds.and_then(the_master)),
            }
        }
        match take(&mut self.early) {
            Early::Came(Ok(master)) if sys::unread(&master) >= bytes => Some(master),
            early => {
                self.early = early;
                None
            }
        }
    }

    /// Forgets all that has come so far.
    pub(super) fn forget(&mut self, cx: &mut Context<'_>) {
        self.early = Early::Nothing;
        while let Poll::Ready(Ok(_)) = self.listener.poll_accept(cx) {}
    }
}

/// One message with exactly one descriptor, which is a terminal's master end.
async fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    stream.readable().await?;
    loop {
        match stream.try_io(Interest::READABLE, || message(stream)) {
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            received => return received.and_then(the_master),
        }
    }
}

fn the_master(mut fds: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    let (Some(master), true) = (fds.pop(), fds.is_empty()) else {
        return Err(io::Error::other(
            "not exactly one descriptor in the message",
        ));
    };
    number(&master).map_err(|why| {
        io::Error::other(format!(
            "what came is not a terminal's master end: {why}",
            why = why.words()
        ))
    })?;
    fcntl(
        &master,
        FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK),
    )?;
    Ok(master)
}

/// All descriptors of the next message. Owned from here, so that too many are closed too.
fn message(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut name = [0; NAME_MAX];
    let mut parts = [IoSliceMut::new(&mut name)];
    let mut control = nix::cmsg_space!([RawFd; FDS_MAX]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows
            // their numbers; each is taken once.
            fds.extend(
                raw.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    Ok(fds)
}

mod raw {
    #![allow(missing_docs)]
    nix::ioctl_write_ptr_bad!(tiocswinsz, nix::libc::TIOCSWINSZ, nix::libc::winsize);
    nix::ioctl_read_bad!(tiocgptn, nix::libc::TIOCGPTN, nix::libc::c_uint);
    nix::ioctl_write_int_bad!(tiocgptpeer, nix::libc::TIOCGPTPEER);
}

/// The terminal's number in its devpts; only a master end has one.
fn number(master: impl AsFd) -> nix::Result<u32> {
    let mut number = 0;
    // SAFETY: nix has no wrapper. The kernel stores one unsigned int at the address of a live
    // local; the descriptor is borrowed for the call.
    unsafe { raw::tiocgptn(master.as_fd().as_raw_fd(), &raw mut number) }.map(|_| number)
}

/// Sets the size; the terminal's foreground processes get SIGWINCH when it changes.
pub(super) fn resize(master: impl AsFd, size: Size) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.height,
        ws_col: size.width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: nix has no wrapper. The kernel reads one winsize from a live local; the descriptor is
    // borrowed for the call.
    unsafe { raw::tiocswinsz(master.as_fd().as_raw_fd(), &raw const size) }?;
    Ok(())
}

/// Opens the slave end, whatever mount namespace its devpts is in.
///
/// While nobody has the slave open, the master is "hung up": reads fail with EIO and poll reports
/// EPOLLHUP without end, although a program may open the slave again (getty and systemd do). Who
/// holds the slave turns that into plain silence that can be waited for.
pub(super) fn peer(master: impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: nix has no wrapper. The argument is a plain number; the descriptor is borrowed for
    // the call.
    let fd = unsafe { raw::tiocgptpeer(master.as_fd().as_raw_fd(), flags) }?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests;
