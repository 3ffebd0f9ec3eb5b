//! A process's standard streams: what the manager asked for, and moving the bytes.
//!
//! Invariant: every byte a container writes reaches the FIFO it was meant for, in order, or stays
//! where a later reader finds it, until [`Io::close`]; and no reader, slow, absent or restarted,
//! can kill the container, stop another stream, or make the shim spend time (`tests/stdio.rs`).
//!
//! ```text
//! manager's strings ──plan──▶ Plan ──Io::open──▶ Io (our ends) + Fds (the container's ends)
//!
//!   container ══pipe══▶ relay ══FIFO══▶ manager      stdout, stderr
//!   container ◀══pipe══ relay ◀══FIFO══ manager      stdin
//! ```
//!
//! Bytes move with splice(2): whole pages change their owner, nothing passes through user space,
//! there is no thread and no buffer per stream (but for a file while it is written to, and while nobody
//! reads). Two descriptors per stream, so six for a process
//! with all three: our end of the pipe, and the FIFO opened for reading *and* writing, which makes
//! one descriptor both the end we use and the end that keeps the other side alive.
//!
//! The ways an output can end:
//!
//! | when the last writer has closed the pipe | the relay |
//! |---|---|
//! | a reader has the FIFO open | closes it: the reader gets the tail, then EOF |
//! | nobody has it open | keeps the write end until a reader comes or [`Io::close`] |
//! | the target is a file | closes it, after the last write, which a thread of its own does |
//!
//! A reader that dies after the first of these, with the tail unread, takes the tail along.
//!
//! A FIFO that nobody reads for a moment is grown and then backed by a buffer of a given size, and what
//! happens beyond that can be chosen ([`Buffering`]): by default the container waits.
//!
//! A logging program has no relay, unless output may be dropped: it reads the container's pipes itself, and is kept running
//! (`logger`). Only a terminal's output is relayed to it. Which programs may be loggers, and which files be
//! written, can be limited by the environment and by the container's options (`logger::allow`, `listed`).
//!
//! A terminal has one descriptor for all that, its master end, which the runtime sends once it has
//! made the process ([`Io::connect_terminal`]); stderr is not used. It has no end: it is read until
//! the process has exited ([`Io::process_exited`]), then emptied and closed, whoever else has it
//! open. When its input ends, as below, it is closed too, which hangs its session up (SIGHUP), as
//! clients of the Go shim have it: so an interactive exec whose user has gone away ends. A client
//! that only detaches closes its end and does not ask for this.
//!
//! And stdin: EOF reaches the container when the client closed *and* [`Io::close_stdin`] was
//! called. A container that closed its stdin ends the relay quietly at the next byte: the FIFO is
//! closed, and the client gets EPIPE as it would from a pipe of its own.

mod buffering;
mod console;
mod exact;
mod io;
mod listed;
mod logger;
mod plan;
mod relay;
mod report;
mod sys;
#[cfg(test)]
mod tests;
mod uri;

use std::fmt;

pub use buffering::{Buffering, Overflow};
pub use console::Size;
pub use io::{Io, UNREAD_GRACE};
pub use listed::ask;
pub use logger::{Host, is_list};
pub use plan::{Command, Output, Plan, plan};
pub use report::StreamReport;

/// The streams a manager asked for, as they came over the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// URI or path of standard input; empty for none.
    pub stdin: String,
    /// URI or path of standard output; empty for none.
    pub stdout: String,
    /// URI or path of standard error; empty for none.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// One of a process's three streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard input.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}

/// How waiting for a process's output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// All output is where it belongs: in a file, or in a FIFO that somebody has open (or that is
    /// empty).
    Done,
    /// Everything written is in this stream's FIFO and the buffer behind it, but nobody has opened it
    /// to read. [`Io::close`] would discard it.
    Unread(Stream),
    /// The limit ran out: somebody still holds this stream's pipe open, or its reader is slow.
    TimedOut(Stream),
}

/// What has moved so far, for a dump of the shim's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes handed to the container's stdin.
    pub stdin: u64,
    /// Bytes delivered from the container's stdout.
    pub stdout: u64,
    /// Bytes delivered from the container's stderr.
    pub stderr: u64,
    /// Output bytes that wait in the shim because nobody reads them.
    pub buffered: u64,
    /// Output bytes that a file refused (a full disk, say), that no logging program would read, or
    /// for which no buffer had room, and that were dropped so that the container goes on.
    pub lost: u64,
    /// How often a relay was woken; stands still when nothing moves.
    pub turns: u64,
}
