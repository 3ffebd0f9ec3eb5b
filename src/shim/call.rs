//! Runs a program to its end, for the actions that are short-lived themselves.
//!
//! Invariant: a call ends at its time limit, whatever the program or what it left behind does with
//! its output, and even if the program cannot be read; what it was still doing then ends with it. Not
//! for the server: there the monitor reaps every child.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::apart::apart;
use crate::error::{Code, Error, Result};
use crate::pidfd;
use crate::program::Program;

/// Most bytes kept of each stream; the rest is read and forgotten.
const MAX_OUTPUT: usize = 1 << 20;

/// Between two looks, in milliseconds.
const LOOK: u8 = 2;

/// What a program left.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained.
    pub stderr: Vec<u8>,
}

impl Output {
    /// As [`from_bytes`](Self::from_bytes) reads it: the status, the length of what was printed, that,
    /// and the complaint.
    fn into_bytes(self) -> Vec<u8> {
        let mut bytes = self.status.into_raw().to_ne_bytes().to_vec();
        bytes.extend(self.stdout.len().to_ne_bytes());
        bytes.extend(self.stdout);
        bytes.extend(self.stderr);
        bytes
    }

    /// None of bytes that are none of [`into_bytes`](Self::into_bytes).
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (status, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (stdout, stderr) = rest.split_at_checked(usize::from_ne_bytes(*length))?;
        Some(Self {
            status: ExitStatus::from_raw(i32::from_ne_bytes(*status)),
            stdout: stdout.to_vec(),
            stderr: stderr.to_vec(),
        })
    }
}

/// Runs `command`, which is `what` to people, with standard input from /dev/null; at the time limit it
/// is killed with all it has started in its process group.
///
/// # Errors
/// When it cannot be started, and `DeadlineExceeded`.
pub fn call(command: Program, what: &str, limit: Duration) -> Result<Output> {
    let bytes = apart(what, limit, || {
        let output = output(command).map_err(|e| Error::io(what, &e))?;
        Ok(output.into_bytes())
    })?;
    let odd = || Error::new(Code::Internal, format!("{what}: half an answer"));
    Output::from_bytes(&bytes).ok_or_else(odd)
}

/// Runs a program to its end, however long it takes.
fn output(mut command: Program) -> io::Result<Output> {
    let (out, its_out) = io::pipe()?;
    let (err, its_err) = io::pipe()?;
    command.stdout(its_out).stderr(its_err);
    let child = Pid::from_raw(command.start()?);
    // Only the program holds the pipes' other ends then.
    drop(command);
    let outcome = follow(child, out.into(), err.into());
    if outcome.is_err() {
        // Not waited for yet, so the number is still its own.
        let _ = kill(child, Signal::SIGKILL);
    }
    let status = reap(child)?;
    let (stdout, stderr) = outcome?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

/// Reads what a child prints until it has ended. Whatever still holds the pipes' other ends then is not
/// waited for.
fn follow(child: Pid, out: OwnedFd, err: OwnedFd) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut out, mut err) = (Stream::new(out)?, Stream::new(err)?);
    let process = pidfd::open(child.as_raw().cast_unsigned())?;
    while !wait(&process, &out, &err)? {
        out.read();
        err.read();
    }
    out.read();
    err.read();
    Ok((out.bytes, err.bytes))
}

fn reap(child: Pid) -> io::Result<ExitStatus> {
    let mut status = 0;
    loop {
        // Not nix's: its enum cannot name every signal.
        // SAFETY: it writes one int, to a live local.
        match Errno::result(unsafe { libc::waitpid(child.as_raw(), &raw mut status, 0) }) {
            Ok(_) => return Ok(ExitStatus::from_raw(status)),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

struct Stream {
    fd: Option<OwnedFd>,
    bytes: Vec<u8>,
}

impl Stream {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            fd: Some(fd),
            bytes: Vec::new(),
        })
    }

    /// Reads what is there. Bounded, so that an endless writer cannot hold the caller.
    fn read(&mut self) {
        let mut buffer = [0; 8192];
        for _ in 0..32 {
            let Some(fd) = &self.fd else { return };
            match nix::unistd::read(fd, &mut buffer) {
                Ok(n) if n > 0 => {
                    let room = MAX_OUTPUT.saturating_sub(self.bytes.len());
                    self.bytes.extend_from_slice(&buffer[..n.min(room)]);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                _ => self.fd = None,
            }
        }
    }
}

/// Waits for output or the end; true at the end.
fn wait(process: &pidfd::Process, out: &Stream, err: &Stream) -> io::Result<bool> {
    let streams = [&out.fd, &err.fd].into_iter().flatten();
    let readable = streams
        .map(AsFd::as_fd)
        .chain(process.pollable())
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let mut readable: Vec<_> = readable.collect();
    // Where nobody tells of the end, it is looked for.
    let patience = match process.pollable() {
        Some(_) => PollTimeout::NONE,
        None => LOOK.into(),
    };
    match poll(&mut readable, patience) {
        Ok(_) | Err(Errno::EINTR) => Ok(pidfd::has_ended(process)),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_comes_back_as_it_was() {
        for (stdout, stderr) in [("", ""), ("out\n", ""), ("", "err\n"), ("out\n", "err\n")] {
            let output = || Output {
                status: ExitStatus::from_raw(3 << 8),
                stdout: stdout.into(),
                stderr: stderr.into(),
            };
            let bytes = output().into_bytes();
            assert_eq!(Output::from_bytes(&bytes), Some(output()));
            let half = &bytes[..bytes.len() - stderr.len() - 1];
            assert_eq!(Output::from_bytes(half), None);
        }
    }
}
