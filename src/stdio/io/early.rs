//! Output that comes before the runtime has returned.
//!
//! Invariant: neither a runtime that prints more than a pipe holds, nor one that waits for what a program
//! does that writes as much, waits for a reader of ours (`tests/faults/output.rs`). What fits into its pipe
//! stays there until the runtime has returned: a runtime that fails says why on its standard error too, and
//! that is not the container's output. Nobody's stdin is taken before it is known to have a program.

use std::mem::take;
use std::os::fd::OwnedFd;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::sleep;

use super::terminal::Terminal;
use super::{Io, Shared};
use crate::stdio::Stream;

/// Between two looks at what nobody reads yet. Most calls are over before the first.
const LOOK: Duration = Duration::from_millis(100);

/// So much unread output of a terminal is much: the kernel holds 4 KiB for the reader.
const MUCH_SHOWN: usize = 2048;

impl Io {
    /// Waits for a call of the runtime, and has its output move before it returns if there is much of it.
    /// To be followed by [`Io::connect_terminal`] and [`Io::start`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn during<T>(&self, call: impl Future<Output = T>) -> T {
        self.shared.forget_terminals();
        if !self.shared.has_outputs() {
            return call.await;
        }
        let looks = async {
            loop {
                sleep(LOOK).await;
                self.shared.take_terminal_early();
                for stream in [Stream::Stdout, Stream::Stderr] {
                    if self.shared.is_filling(stream) {
                        self.shared.start(stream);
                    }
                }
            }
        };
        tokio::select! {
            biased;
            done = call => done,
            never = looks => never,
        }
    }

    /// Whether the terminal has been taken from a runtime, so that no other can send one.
    pub fn has_terminal(&self) -> bool {
        matches!(
            &*self.shared.terminal(),
            Terminal::Open(_) | Terminal::Failed(_)
        )
    }
}

impl Shared {
    /// What an earlier call that failed has sent is not this one's.
    fn forget_terminals(&self) {
        if let Terminal::Awaited { socket, .. } = &mut *self.terminal() {
            socket.forget(&mut nobody());
        }
    }

    /// Has relays for a terminal that has come early.
    fn take_terminal(&self, master: OwnedFd) {
        let awaited = take(&mut *self.terminal());
        let taken = match awaited {
            Terminal::Awaited { stdin, stdout, .. } => self.open_terminal(master, stdin, stdout),
            other => {
                *self.terminal() = other;
                return;
            }
        };
        if let Err(why) = taken {
            *self.terminal() = Terminal::Failed(why);
        }
    }

    fn has_outputs(&self) -> bool {
        let relayed = |stream| self.lane(stream).relay.is_some();
        matches!(&*self.terminal(), Terminal::Awaited { .. })
            || [Stream::Stdout, Stream::Stderr].into_iter().any(relayed)
    }

    fn is_filling(&self, stream: Stream) -> bool {
        let lane = self.lane(stream);
        !lane.started && lane.relay.as_ref().is_some_and(|relay| relay.is_filling())
    }

    /// Reads a terminal that has come, if much is written to it. What is wrong with it, who connects it is told.
    fn take_terminal_early(&self) {
        let master = match &mut *self.terminal() {
            Terminal::Awaited { socket, .. } => socket.shows(MUCH_SHOWN, &mut nobody()),
            Terminal::None | Terminal::Open(_) | Terminal::Failed(_) => None,
        };
        if let Some(master) = master {
            self.take_terminal(master);
        }
    }
}

/// Who looks by the clock waits for no word.
fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
