//! The master end of a process's terminal, and what the owner of its streams does with it.
//!
//! Invariant: it is awaited, then open, then gone, and never comes back. While it is open there are two
//! owners, here and the relays; all give it up together, which hangs its session up.

use std::mem::take;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::opened::Opened;
use super::{Io, Shared};
use crate::error::{Error, Result};
use crate::stdio::console::{self, ConsoleSocket, Size};
use crate::stdio::relay::Relay;
use crate::stdio::sys::{self, Kind};
use crate::stdio::{Stream, StreamReport};

/// The master end of a process's terminal, on its way from nothing to nothing.
#[derive(Debug, Default)]
pub(super) enum Terminal {
    /// There is none, or not any more.
    #[default]
    None,
    /// The runtime is about to send it.
    Awaited {
        socket: ConsoleSocket,
        stdin: Option<OwnedFd>,
        stdout: Opened,
    },
    Open(Arc<OwnedFd>),
    /// What came early could not be used.
    Failed(Error),
}

impl Terminal {
    /// Gives up what is here of it.
    pub(super) fn close(self) {
        if let Self::Awaited {
            stdout: Opened::File(file, Kind::File),
            ..
        } = self
        {
            sys::close_elsewhere(file);
        }
    }

    /// For the dump: a terminal that is open has relays, which report themselves.
    pub(super) fn report(&self) -> Option<StreamReport> {
        matches!(self, Self::Awaited { .. })
            .then(|| StreamReport::of("terminal", "the runtime to send it"))
    }
}

impl Io {
    /// Where the runtime is to send the terminal; `None` without one.
    pub fn console_socket(&self) -> Option<PathBuf> {
        match &*self.shared.terminal() {
            Terminal::Awaited { socket, .. } => Some(socket.path()),
            Terminal::None | Terminal::Open(_) | Terminal::Failed(_) => None,
        }
    }

    /// Takes the terminal from a runtime that has returned; without one does nothing.
    ///
    /// # Errors
    /// `DeadlineExceeded` when it did not come within `limit`, or what came instead.
    pub async fn connect_terminal(&self, limit: Duration) -> Result<()> {
        let terminal = take(&mut *self.shared.terminal());
        let (socket, stdin, stdout) = match terminal {
            Terminal::Awaited {
                socket,
                stdin,
                stdout,
            } => (socket, stdin, stdout),
            Terminal::Failed(why) => return Err(why),
            other => {
                *self.shared.terminal() = other;
                return Ok(());
            }
        };
        let failed = "failed to retrieve console master";
        let master = socket.receive(limit).await.map_err(|e| e.context(failed))?;
        self.shared.open_terminal(master, stdin, stdout)
    }

    /// Sets the terminal's size. Without a terminal, or when it is closed, does nothing.
    ///
    /// # Errors
    /// What the system said.
    pub fn resize(&self, size: Size) -> Result<()> {
        match &*self.shared.terminal() {
            Terminal::Open(master) => console::resize(master, size)
                .map_err(|why| Error::io(format!("resize the terminal to {size:?}"), &why)),
            Terminal::None | Terminal::Awaited { .. } | Terminal::Failed(_) => Ok(()),
        }
    }

    /// The process has exited: what its terminal holds is taken to the output, and it is closed.
    /// Without a terminal does nothing: pipes end when their last writer has closed them.
    pub fn process_exited(&self) {
        self.shared.end_terminal();
    }
}

impl Shared {
    /// Makes the relays of a terminal that has come.
    pub(super) fn open_terminal(
        &self,
        master: OwnedFd,
        stdin: Option<OwnedFd>,
        stdout: Opened,
    ) -> Result<()> {
        let master = Arc::new(master);
        let relays = || {
            let output = match stdout {
                Opened::Fifo(fifo) => {
                    Relay::terminal_to_fifo(Arc::clone(&master), fifo)?.buffered(self.buffering)
                }
                Opened::File(file, kind) => {
                    Relay::terminal_to_file(Arc::clone(&master), file, kind)?
                }
            };
            let input = stdin.map(|fifo| Relay::to_terminal(fifo, Arc::clone(&master)));
            std::io::Result::Ok((input.transpose()?, output))
        };
        let (input, output) = relays().map_err(|why| Error::io("watch the terminal", &why))?;
        self.lane(Stream::Stdin).relay = input.map(Box::new);
        self.lane(Stream::Stdout).relay = Some(Box::new(output));
        *self.terminal() = Terminal::Open(master);
        Ok(())
    }

    /// Has the relays close the terminal, if it is open; the other owner is here.
    pub(super) fn end_terminal(&self) {
        {
            let mut terminal = self.terminal();
            if !matches!(*terminal, Terminal::Open(_)) {
                return;
            }
            *terminal = Terminal::None;
        }
        for stream in [Stream::Stdin, Stream::Stdout] {
            let mut lane = self.lane(stream);
            if let Some(relay) = &mut lane.relay {
                relay.finish();
            }
            let waker = lane.waker.clone();
            drop(lane);
            waker.inspect(Waker::wake_by_ref);
        }
    }
}
