//! The line between a shim and its manager's event service, and what can be wrong with it.
//!
//! Invariant: an event that the manager answered over an open line has reached it; what a broken
//! line swallowed was never answered, but in [`State::Lost`], whose answers get lost behind the
//! manager.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// How the line is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// As it should be.
    Open,
    /// Nobody listens, there is not even a socket.
    Gone,
    /// A socket whose queue of connections is full.
    Full,
    /// Whoever accepts reads nothing and says nothing; what was open stays open and goes on later.
    Stopped,
    /// Connections are accepted, all is read, nothing reaches the manager and nothing is answered.
    Silent,
    /// The manager gets everything, and the connection ends before its answer is out.
    Lost,
    /// Every answer takes this long.
    Slow(Duration),
}

/// A socket before that of the manager.
pub struct Line {
    state: watch::Sender<State>,
    back: Arc<OnceLock<PathBuf>>,
    task: JoinHandle<()>,
}

impl Line {
    /// A line from a socket at `front`, stopped until it [leads](Self::lead_to) somewhere.
    pub async fn new(front: &Path) -> Self {
        let (state, seen) = watch::channel(State::Stopped);
        let back = Arc::default();
        let task = tokio::spawn(keep(front.to_owned(), Arc::clone(&back), seen));
        while !front.exists() {
            tokio::task::yield_now().await;
        }
        Self { state, back, task }
    }

    /// Opens it to the manager's socket.
    pub fn lead_to(&self, back: &str) {
        self.back.set(back.into()).unwrap();
        self.set(State::Open);
    }

    /// From now on it is like this. What is open stays open through [`State::Stopped`] only.
    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(front: PathBuf, back: Arc<OnceLock<PathBuf>>, mut state: watch::Receiver<State>) {
    loop {
        let now = *state.borrow_and_update();
        let _ = fs::remove_file(&front);
        match now {
            State::Gone => drop(state.changed().await),
            State::Full => {
                let _full = full(&front);
                let _ = state.changed().await;
            }
            _ => {
                let listener = UnixListener::bind(&front).unwrap();
                listen(&listener, &back, &mut state).await;
            }
        }
        if state.has_changed().is_err() {
            return;
        }
    }
}

/// A socket on which no further connection fits.
fn full(front: &Path) -> impl Sized {
    let flags = socket::SockFlag::SOCK_CLOEXEC | socket::SockFlag::SOCK_NONBLOCK;
    let stream = || {
        let (unix, kind) = (socket::AddressFamily::Unix, socket::SockType::Stream);
        socket::socket(unix, kind, flags, None).unwrap()
    };
    let address = socket::UnixAddr::new(front).unwrap();
    let listener = stream();
    socket::bind(listener.as_raw_fd(), &address).unwrap();
    socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
    let mut waiting = Vec::new();
    loop {
        let one = stream();
        if socket::connect(one.as_raw_fd(), &address).is_err() {
            return (listener, waiting);
        }
        waiting.push(one);
    }
}

/// Serves connections for as long as a change of state does not cut them.
async fn listen(
    listener: &UnixListener,
    back: &OnceLock<PathBuf>,
    state: &mut watch::Receiver<State>,
) {
    let mut connections = JoinSet::new();
    let lasting = |state: State| matches!(state, State::Open | State::Stopped);
    loop {
        let now = *state.borrow_and_update();
        tokio::select! {
            changed = state.changed() => {
                let next = *state.borrow();
                if changed.is_err() || !(lasting(now) && lasting(next)) {
                    return;
                }
            }
            front = listener.accept(), if now != State::Stopped => {
                let back = back.get().expect("no connection before it leads somewhere");
                let (Ok((front, _)), Ok(back)) = (front, UnixStream::connect(back).await) else {
                    continue;
                };
                connections.spawn(carry(front, back, state.clone()));
            }
        }
    }
}

async fn carry(front: UnixStream, back: UnixStream, mut state: watch::Receiver<State>) {
    let (mut asks, mut hears) = front.into_split();
    let (mut answers, mut tells) = back.into_split();
    let mut there = [0; 16 * 1024];
    let mut here = [0; 16 * 1024];
    loop {
        if state.wait_for(|s| *s != State::Stopped).await.is_err() {
            return;
        }
        let now = *state.borrow();
        tokio::select! {
            read = asks.read(&mut there) => {
                let count = read.unwrap_or(0);
                if count == 0 {
                    return;
                }
                let open = now != State::Silent;
                if open && tells.write_all(&there[..count]).await.is_err() {
                    return;
                }
            }
            read = answers.read(&mut here) => {
                let count = read.unwrap_or(0);
                if count == 0 || now == State::Lost {
                    return;
                }
                if let State::Slow(time) = now {
                    sleep(time).await;
                }
                if hears.write_all(&here[..count]).await.is_err() {
                    return;
                }
            }
            changed = state.changed() => if changed.is_err() {
                return;
            }
        }
    }
}
