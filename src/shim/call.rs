//! Runs a program to its end, for the actions that are short-lived themselves.
//!
//! Invariant: a call ends at its time limit, whatever the program or what it left behind does with
//! its output, and what it was still doing then ends with it. Not for the server: there the monitor reaps every child.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::pidfd;

/// Most bytes kept of each stream; the rest is read and forgotten.
const MAX_OUTPUT: usize = 1 << 20;

/// What a program left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained.
    pub stderr: Vec<u8>,
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

/// Runs `command` with standard input from /dev/null, in a process group of its own; at the time
/// limit the group is killed.
///
/// # Errors
/// When it cannot be started, or `TimedOut`.
pub fn call(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + limit;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn()?;
    let watched: io::Result<_> = (|| {
        let mut out = Stream::new(child.stdout.take().map(OwnedFd::from))?;
        let mut err = Stream::new(child.stderr.take().map(OwnedFd::from))?;
        let ended = pidfd::open(child.id())?;
        // Whatever still holds the pipes' other ends when the program itself has ended is not waited for.
        while !wait(&ended, &out, &err, deadline)? {
            out.read();
            err.read();
        }
        out.read();
        err.read();
        Ok((out.bytes, err.bytes))
    })();
    if watched.is_err() {
        // Not waited for yet, so the number is still the group's.
        let group = Pid::from_raw(child.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, Signal::SIGKILL);
    }
    let status = child.wait()?;
    let (stdout, stderr) = watched?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

/// Waits for output or the end; true at the end.
fn wait(ended: &OwnedFd, out: &Stream, err: &Stream, deadline: Instant) -> io::Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    for fd in [&out.fd, &err.fd].into_iter().flatten() {
        fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
    }
    let millis = left.as_millis() + 1;
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) => Ok(fds[0].any().unwrap_or(false)),
        Err(Errno::EINTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> io::Result<Output> {
        call(Command::new("/bin/sh").args(["-c", script]), limit)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn output_and_status() {
        let output = sh("echo out; echo err >&2; exit 3", LONG).unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(
            (&output.stdout[..], &output.stderr[..]),
            (&b"out\n"[..], &b"err\n"[..])
        );
    }

    #[test]
    fn more_output_than_a_pipe_or_memory_should_hold() {
        let output = sh("head -c 3000000 /dev/zero; echo end >&2", LONG).unwrap();
        assert_eq!(output.stdout.len(), MAX_OUTPUT);
        assert_eq!(output.stderr, b"end\n");
    }

    #[test]
    fn a_child_left_with_the_output_is_not_waited_for() {
        let begin = Instant::now();
        let output = sh("sleep 30 & echo $!", LONG).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(20));
        let pid = String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
    }

    #[test]
    fn the_limit() {
        let begin = Instant::now();
        let error = sh("exec sleep 30", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_missing_program() {
        let error = call(&mut Command::new("/nonexistent/program"), LONG).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
