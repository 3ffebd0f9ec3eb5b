//! What is particular to a relay whose one side is a terminal's master end.
//!
//! Invariant: a terminal is read whatever the container does with its slave end, until
//! [`Relay::finish`]; then all that was written before is taken along, and the master end is
//! closed even if nobody takes the output.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use tokio::io::Interest;

use super::{Mode, RETRY, Relay, Source, Tally, Target};
use crate::errno::Words;
use crate::stdio::sys::Kind;
use crate::stdio::{Stream, console, sys};

/// The most that is taken from a terminal once its process has ended. The kernel holds 4 KiB for
/// the reader and 8 KiB behind (`N_TTY_BUF_SIZE`, `pty_common_install`), so all that was written by
/// then is less; a process left behind may go on writing.
const REST: usize = 64 * 1024;

impl Relay {
    /// From a terminal to a FIFO opened for both directions.
    pub(in crate::stdio) fn terminal_to_fifo(
        master: Arc<OwnedFd>,
        fifo: OwnedFd,
    ) -> io::Result<Self> {
        Self::from_terminal(master, Arc::new(fifo), Target::Fifo)
    }

    /// From a terminal to a file or device.
    pub(in crate::stdio) fn terminal_to_file(
        master: Arc<OwnedFd>,
        file: Arc<OwnedFd>,
        kind: Kind,
    ) -> io::Result<Self> {
        Self::from_terminal(master, file, Target::of(kind))
    }

    /// From a FIFO opened for both directions to a terminal.
    pub(in crate::stdio) fn to_terminal(fifo: OwnedFd, master: Arc<OwnedFd>) -> io::Result<Self> {
        Self::new(Stream::Stdin, fifo, master, Target::Terminal)
    }

    /// Not spliced: that would give every few bytes a page of their own, and sixteen such pages are
    /// a full FIFO, while written bytes share pages (and a read of a terminal is 4 KiB at most).
    fn from_terminal(master: Arc<OwnedFd>, to: Arc<OwnedFd>, target: Target) -> io::Result<Self> {
        Ok(Self {
            source: Source::Terminal(None),
            mode: Mode::Copy(Vec::new()),
            ..Self::between(Stream::Stdout, master, to, target)?
        })
    }

    /// Has the terminal closed at the next poll: an output takes along what has been written, an
    /// input ends. Bytes for a FIFO that is full are kept until it has room.
    pub(in crate::stdio) fn finish(&mut self) {
        self.finish = true;
    }

    /// The terminal's slave is closed for now: holds it open, and watches the master anew, since
    /// tokio never takes back a hang-up it has seen.
    pub(super) fn take_slave(&mut self) {
        let (Source::Terminal(slave), Some(source)) = (&mut self.source, &self.from) else {
            return;
        };
        if slave.is_none() {
            match console::peer(source.get_ref()) {
                Ok(fd) => *slave = Some(fd),
                Err(why) => return self.try_again("hold its closed slave", &why),
            }
        }
        // Under another number: the reactor takes each once.
        let watched = source
            .get_ref()
            .try_clone()
            .and_then(|fd| sys::watch(Arc::new(fd), Interest::READABLE));
        match watched {
            Ok(watched) => self.from = Some(watched),
            Err(why) => self.try_again("watch it anew", &why),
        }
    }

    fn try_again(&mut self, what: &str, why: &io::Error) {
        log::debug!(
            "{}: terminal: {what}: {why}, trying again",
            self.stream,
            why = why.words()
        );
        self.rest(RETRY);
    }

    /// Takes what a terminal still holds, and closes it.
    pub(super) fn take_rest(&mut self, tally: &mut Tally) {
        if !matches!(self.mode, Mode::Copy(_) | Mode::Stalled) {
            return;
        }
        let Some(source) = self.from.take() else {
            return;
        };
        let mut taken = 0;
        let mut chunk = [0; 4096];
        while taken < REST {
            match nix::unistd::read(source.get_ref(), &mut chunk) {
                Ok(len) if len > 0 => {
                    taken += len;
                    match &mut self.mode {
                        Mode::Copy(pending) => pending.extend_from_slice(&chunk[..len]),
                        _ => self.put_rest(&chunk[..len], tally),
                    }
                }
                Err(Errno::EINTR) => {}
                // Nothing more (EAGAIN), and nobody left to write (EIO).
                _ => break,
            }
        }
        self.source = Source::Pipe;
    }
}
