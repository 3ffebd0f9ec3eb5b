//! The server: from the socket that `start` left to an orderly end (contract 1.10).
//!
//! Invariant: one thread. However it ends, by a manager's Shutdown, because nobody needs it any more,
//! by SIGTERM, SIGINT or an error, its socket's file goes first, so that nobody finds a shim that is leaving; then answers under way go
//! out, then the events, each within a limit. tests/bootstrap.rs ends servers in every way.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::timeout;
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use super::accept::Accept;
use super::assemble::{Parts, assemble};
use super::config::Config;
use super::socket::{self, Claim, Socket};
use super::{fds, inspect, life, log as shim_log, memory};
use crate::dump::Inspector;
use crate::errno::Words;
use crate::error::{Error, Result};
use crate::program::own;
use crate::service::{self, Shutdown};

/// The log FIFO in the bundle, which is the current directory.
const LOG: &str = "log";

/// Serves until the end.
///
/// # Safety
/// Once per process, and nothing else may own [`fds::LISTENER`].
///
/// # Errors
/// When the server cannot be set up.
pub unsafe fn serve(config: &Config) -> Result<()> {
    shim_log::init(Path::new(LOG), config.debug)?;
    memory::give_back();
    if let Err(e) = own::raise_open_files() {
        log::warn!("raise the limit of open files: {}", e.words());
    }
    let served = if config.socket.is_empty() {
        // SAFETY: passed on to the caller.
        unsafe { fds::take_listener() }.map(|listener| (Socket::of(&listener), listener))
    } else {
        bind(&config.socket)
    };
    let (socket, listener) = served?;
    // The bundle is one container's, which may be deleted long before the others of its group.
    let bundle = std::env::current_dir().unwrap_or_default();
    std::env::set_current_dir("/").map_err(|e| Error::io("change to directory /", &e))?;
    run(config, bundle, socket, listener)
}

fn bind(address: &str) -> Result<(Option<Socket>, UnixListener)> {
    let path = Path::new(address.strip_prefix(socket::SCHEME).unwrap_or(address));
    let path = std::path::absolute(path)
        .map_err(|e| Error::io(format!("find socket {}", path.display()), &e))?;
    match socket::claim(&path)? {
        Claim::Ours(fd, socket) => Ok((Some(socket), UnixListener::from(fd))),
        Claim::Taken => Err(Error::already_exists(format!("socket {}", path.display()))),
    }
}

fn run(
    config: &Config,
    bundle: PathBuf,
    socket: Option<Socket>,
    listener: UnixListener,
) -> Result<()> {
    // A second descriptor, open to the end: it pins the identity of the socket's file.
    let pin = listener
        .try_clone()
        .map_err(|e| Error::io("duplicate the socket", &e))?;
    let leave = Leave { socket, pin };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| Error::io("set up the runtime", &e))?;
    runtime.block_on(live(config, bundle, listener, &leave))
}

async fn live(
    config: &Config,
    bundle: PathBuf,
    listener: UnixListener,
    leave: &Leave,
) -> Result<()> {
    let mut signals = signals().map_err(|e| Error::io("set up signals", &e))?;
    let accept = Accept::new(listener).map_err(|e| Error::io("watch the socket", &e))?;
    let Parts {
        mut services,
        reporter,
        registry,
        shutdown,
        drain,
    } = assemble(config)?;
    let (connections, work) = (accept.count(), accept.work());
    let shim = inspect::shim(config, connections.clone());
    let inspector = Inspector::new(
        shim.followed_by(reporter),
        inspect::bundles(bundle, &registry),
    );
    let inspector = Arc::new(inspector);
    inspect::on_signal(Arc::clone(&inspector)).map_err(|e| Error::io("set up signals", &e))?;
    services.extend(service::introspection(inspector));
    let answers = registry.shared.limits.answers;
    let mut server = Server::new()
        .register_service(services)
        .add_listener(Listener::new(accept));
    let started = server.start().await;
    started.map_err(|e| Error::unknown(format!("start the server: {e}")))?;
    log::debug!("serving {} of namespace {}", config.id, config.namespace);

    // A task of its own: each wake-up of this one, the runtime's first, is a system call.
    tokio::spawn(memory::at_rest(work));
    let look = || leave.unless_wanted();
    tokio::select! {
        () = asked(shutdown.clone()) => log::debug!("ending: asked to by the manager"),
        () = life::unneeded(registry, connections, shutdown, look) => {}
        _ = signals.read_u8() => log::info!("ending: by a signal"),
    }

    leave.now();
    if timeout(answers, server.shutdown()).await.is_err() {
        log::warn!("ended with requests under way");
    }
    drain.await;
    Ok(())
}

/// Until a manager asks for the end.
async fn asked(mut shutdown: watch::Receiver<Shutdown>) {
    if shutdown
        .wait_for(|asked| *asked == Shutdown::Now)
        .await
        .is_err()
    {
        // Nobody is left who could ask; signals still can.
        std::future::pending().await
    }
}

/// A byte for each SIGTERM and SIGINT. SIGPIPE is ignored already: std does that before main.
fn signals() -> io::Result<tokio::net::UnixStream> {
    let (read, write) = std::os::unix::net::UnixStream::pair()?;
    signal_hook::low_level::pipe::register(libc::SIGTERM, write.try_clone()?)?;
    signal_hook::low_level::pipe::register(libc::SIGINT, write)?;
    read.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(read)
}

/// Removes the socket's file, at the latest when it is dropped.
struct Leave {
    socket: Option<Socket>,
    pin: UnixListener,
}

impl Leave {
    /// As [`now`](Self::now), unless somebody waits to be let in; answers whether it was done.
    fn unless_wanted(&self) -> bool {
        let nobody_waits = || {
            let mut fds = [PollFd::new(self.pin.as_fd(), PollFlags::POLLIN)];
            matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
        };
        match &self.socket {
            None => nobody_waits(),
            Some(socket) => socket.remove_if(nobody_waits).unwrap_or_else(|e| {
                log::warn!("{e}");
                nobody_waits()
            }),
        }
    }

    fn now(&self) {
        if let Some(Err(e)) = self.socket.as_ref().map(Socket::remove) {
            log::warn!("{e}");
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.now();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn whoever_waits_to_be_let_in_is() {
        let dir = std::env::temp_dir().join(format!("cotter-leave-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("s");
        let pin = UnixListener::bind(&path).unwrap();
        let socket = Socket::of(&pin);
        let leave = Leave { socket, pin };

        let client = UnixStream::connect(&path).unwrap();
        assert!(!leave.unless_wanted());
        assert!(path.exists());
        let served = leave.pin.accept().unwrap();
        assert!(leave.unless_wanted());
        assert!(!path.exists());
        drop((client, served));
        std::fs::remove_dir(&dir).unwrap();
    }
}
