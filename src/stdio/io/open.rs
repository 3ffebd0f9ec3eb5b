//! Opens what a plan names and makes the pipes between that and the container.
//!
//! Invariant: nothing moves and nothing is started yet, and after an error nothing stays open: until all
//! is there, every descriptor belongs to a value on the stack.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use super::STREAMS;
use super::feed;
use super::opened::{Opened, open_target};
use super::terminal::Terminal;
use crate::error::{Error, Result};
use crate::runtime::Fds;
use crate::stdio::console::ConsoleSocket;
use crate::stdio::logger::Pending;
use crate::stdio::plan::{Held, Output, Plan};
use crate::stdio::relay::Relay;
use crate::stdio::sys::{self, End, Kind};
use crate::stdio::{Buffering, Overflow, Stream};

/// Who owns the container's ends: user and group.
type Owner = (u32, u32);

/// All that a plan asks for, opened.
#[derive(Debug)]
pub(super) struct Opening {
    /// By [`Stream`].
    pub(super) relays: [Option<Relay>; STREAMS.len()],
    pub(super) terminal: Terminal,
    pub(super) loggers: Vec<Pending>,
    /// The container's ends.
    pub(super) fds: Fds,
}

impl Opening {
    /// See [`Io::open`](super::Io::open). Of what is `held` the path is not looked up again.
    pub(super) fn of(plan: &Plan, held: Held, owner: Owner, buffering: Buffering) -> Result<Self> {
        let mut opening = Self {
            relays: [None, None, None],
            terminal: Terminal::None,
            loggers: Vec::new(),
            fds: Fds {
                stdin: None,
                stdout: None,
                stderr: None,
            },
        };
        match plan {
            Plan::Null => {}
            Plan::Terminal { stdin, stdout } => {
                opening.terminal(stdin.as_deref(), stdout.as_ref(), owner)?;
            }
            Plan::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                let [of_stdin, of_stdout, of_stderr] = held;
                if let Some(path) = stdin {
                    (opening.relays[0], opening.fds.stdin) = open_stdin(path, of_stdin, owner)?;
                }
                let outputs = [(stdout.as_ref(), of_stdout), (stderr.as_ref(), of_stderr)];
                opening.outputs(outputs, owner, buffering)?;
            }
        }
        Ok(opening)
    }

    fn terminal(
        &mut self,
        stdin: Option<&Path>,
        stdout: Option<&Output>,
        (uid, gid): Owner,
    ) -> Result<()> {
        let stdin = match stdin {
            Some(path) => open_typed(path)?,
            None => None,
        };
        let stdout = match stdout {
            Some(Output::Logger(command)) => {
                let (write, read) = sys::pipe(Stream::Stdout, End::Write, uid, gid)?;
                self.loggers.push(Pending {
                    command: command.clone(),
                    ends: [Some(read), None],
                });
                // As good as a FIFO: the logger's end is open as long as there is a logger.
                Opened::Fifo(write)
            }
            Some(output) => open_target(Stream::Stdout, output)?,
            None => open_target(Stream::Stdout, &"/dev/null".into())?,
        };
        self.terminal = Terminal::Awaited {
            stdin,
            stdout,
            socket: ConsoleSocket::listen()
                .map_err(|e| e.context("failed to create console socket"))?,
        };
        Ok(())
    }

    fn outputs(
        &mut self,
        [(stdout, of_stdout), (stderr, of_stderr)]: [(Option<&Output>, Option<OwnedFd>); 2],
        owner: Owner,
        buffering: Buffering,
    ) -> Result<()> {
        let mut shared_file = None;
        match stdout {
            Some(Output::Logger(command)) => {
                let (read, write) = logger_pipe(Stream::Stdout, owner)?;
                (self.relays[1], self.fds.stdout) =
                    before_logger(Stream::Stdout, write, owner, buffering)?;
                self.loggers.push(Pending {
                    command: command.clone(),
                    ends: [Some(read), None],
                });
            }
            Some(output) => {
                let target = open_or_held(Stream::Stdout, output, of_stdout)?;
                if let Opened::File(file, kind) = &target
                    && stderr == Some(output)
                {
                    // One open file for both, as a shell's `2>&1`.
                    shared_file = Some(Opened::File(Arc::clone(file), *kind));
                }
                (self.relays[1], self.fds.stdout) =
                    open_output(Stream::Stdout, target, owner, buffering)?;
            }
            None => {}
        }
        match stderr {
            Some(Output::Logger(command)) => {
                let (read, write) = logger_pipe(Stream::Stderr, owner)?;
                (self.relays[2], self.fds.stderr) =
                    before_logger(Stream::Stderr, write, owner, buffering)?;
                match &mut self.loggers[..] {
                    // One program for both.
                    [both] if both.command == *command => both.ends[1] = Some(read),
                    _ => self.loggers.push(Pending {
                        command: command.clone(),
                        ends: [None, Some(read)],
                    }),
                }
            }
            Some(output) => {
                let target = match shared_file {
                    Some(file) => file,
                    None => open_or_held(Stream::Stderr, output, of_stderr)?,
                };
                (self.relays[2], self.fds.stderr) =
                    open_output(Stream::Stderr, target, owner, buffering)?;
            }
            None => {}
        }
        Ok(())
    }
}

/// A pipe whose read end a logging program gets, so it blocks.
fn logger_pipe(stream: Stream, (uid, gid): Owner) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = sys::pipe(stream, End::Read, uid, gid)?;
    sys::set_blocking(read.as_fd())
        .map_err(|why| Error::io(format!("set up {stream} pipe"), &why))?;
    Ok((read, write))
}

/// A relay and the container's end, as far as there is one.
type Ends = (Option<Relay>, Option<OwnedFd>);

/// What a logger's pipe is written by: the container itself, unless output may be dropped. Then there
/// must be a relay in between to do it, as a program may live and not read.
fn before_logger(
    stream: Stream,
    write: OwnedFd,
    owner: Owner,
    buffering: Buffering,
) -> Result<Ends> {
    if buffering.overflow == Overflow::Block || buffering.size == 0 {
        return Ok((None, Some(write)));
    }
    sys::set_nonblocking(write.as_fd())
        .map_err(|why| Error::io(format!("set up {stream} pipe"), &why))?;
    open_output(stream, Opened::Fifo(write), owner, buffering)
}

/// What is typed into a terminal; a device, such as `/dev/null`, types nothing.
fn open_typed(path: &Path) -> Result<Option<OwnedFd>> {
    match sys::kind(Stream::Stdin, path)? {
        Kind::Fifo => sys::open_fifo(Stream::Stdin, path).map(Some),
        Kind::Device => Ok(None),
        Kind::File => Err(Error::invalid_argument(format!(
            "stdin {} of a terminal is a file, not a FIFO",
            path.display()
        ))),
    }
}

fn open_output(
    stream: Stream,
    to: Opened,
    (uid, gid): Owner,
    buffering: Buffering,
) -> Result<Ends> {
    let (ours, theirs) = sys::pipe(stream, End::Read, uid, gid)?;
    let relay = match to {
        Opened::Fifo(fifo) => {
            Relay::to_fifo(stream, ours, fifo).map(|relay| relay.buffered(buffering))
        }
        Opened::File(file, kind) => Relay::to_file(stream, ours, file, kind),
    };
    let relay = relay.map_err(|why| Error::io(format!("watch {stream} pipe"), &why))?;
    Ok((Some(relay), Some(theirs)))
}

fn open_or_held(stream: Stream, output: &Output, held: Option<OwnedFd>) -> Result<Opened> {
    match (held, output) {
        (Some(fifo), Output::Path(path)) => sys::open_held(stream, path, &fifo).map(Opened::Fifo),
        _ => open_target(stream, output),
    }
}

fn open_stdin(path: &Path, held: Option<OwnedFd>, owner: Owner) -> Result<Ends> {
    let stream = Stream::Stdin;
    let kind = match held {
        Some(_) => Kind::Fifo,
        None => sys::kind(stream, path)?,
    };
    let from = match kind {
        Kind::Fifo => match held {
            Some(fifo) => sys::open_held(stream, path, &fifo)?,
            None => sys::open_fifo(stream, path)?,
        },
        Kind::File => {
            feed::from_file(sys::open_read(stream, path)?, shown(path)).map_err(|why| {
                Error::io(format!("create a pipe for stdin {}", path.display()), &why)
            })?
        }
        Kind::Device => {
            let device = sys::open_read(stream, path)?;
            if sys::harms_nobody(device.as_fd()) {
                sys::set_blocking(device.as_fd())
                    .map_err(|why| Error::io(format!("set up stdin {}", path.display()), &why))?;
                return Ok((None, Some(device)));
            }
            device
        }
    };
    let (uid, gid) = owner;
    let (ours, theirs) = sys::pipe(stream, End::Write, uid, gid)?;
    let relay = Relay::to_container(from, ours)
        .map_err(|why| Error::io(format!("watch stdin {}", path.display()), &why))?;
    Ok((Some(relay), Some(theirs)))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
