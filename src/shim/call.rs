//! Runs a program to its end, for the actions that are short-lived themselves.
//!
//! Invariant: a call ends at its time limit, whatever the program or what it left behind does with
//! its output, and even if the program cannot be read; what it was still doing then ends with it. Not
//! for the server: there the monitor reaps every child.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::apart::apart;
use crate::error::{Code, Error, Result};
use crate::pidfd;

/// Most bytes kept of each stream; the rest is read and forgotten.
const MAX_OUTPUT: usize = 1 << 20;

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
pub fn call(command: &mut Command, what: &str, limit: Duration) -> Result<Output> {
    let bytes = apart(what, limit, || {
        let output = output(command).map_err(|e| Error::io(what, &e))?;
        Ok(output.into_bytes())
    })?;
    let odd = || Error::new(Code::Internal, format!("{what}: half an answer"));
    Output::from_bytes(&bytes).ok_or_else(odd)
}

/// Runs a program to its end, however long it takes.
fn output(command: &mut Command) -> io::Result<Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut out = Stream::new(child.stdout.take().map(OwnedFd::from))?;
    let mut err = Stream::new(child.stderr.take().map(OwnedFd::from))?;
    let ended = pidfd::open(child.id())?;
    // Whatever still holds the pipes' other ends when the program itself has ended is not waited for.
    while !wait(&ended, &out, &err)? {
        out.read();
        err.read();
    }
    out.read();
    err.read();
    Ok(Output {
        status: child.wait()?,
        stdout: out.bytes,
        stderr: err.bytes,
    })
}

struct Stream {
    fd: Option<OwnedFd>,
    bytes: Vec<u8>,
}

impl Stream {
    fn new(fd: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(fd) = &fd {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let bytes = Vec::new();
        Ok(Self { fd, bytes })
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
fn wait(ended: &OwnedFd, out: &Stream, err: &Stream) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    for fd in [&out.fd, &err.fd].into_iter().flatten() {
        fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
    }
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => Ok(fds[0].any().unwrap_or(false)),
        Err(Errno::EINTR) => Ok(false),
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
