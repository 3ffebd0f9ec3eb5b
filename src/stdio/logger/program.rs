//! How a logging program is started.
//!
//! Invariant: it has its five descriptors and no other of ours, an environment of three variables,
//! and a process group of its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use tokio::net::unix::pipe;

use super::Host;
use crate::monitor::{Child, Monitor};
use crate::stdio::plan;

/// Standard output's read end, standard error's, and the write end of the pipe that says "ready"
/// (contract 5.5).
const FIRST: RawFd = 3;
const PASSED: usize = 3;
/// Where a program looks up others if the shim itself has no such variable.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program to be started, again if need be.
#[derive(Debug)]
pub(super) struct Program {
    /// As it was asked for.
    pub(super) name: PathBuf,
    /// As it was allowed.
    pub(super) path: PathBuf,
    args: Vec<String>,
    id: String,
    namespace: String,
    stderr: OwnedFd,
}

impl Program {
    /// `path` is what [`allow`](super::allow) has made of the command's.
    pub(super) fn new(
        command: plan::Command,
        path: PathBuf,
        host: &Host<'_>,
        stderr: OwnedFd,
    ) -> Self {
        Self {
            path,
            name: command.path,
            args: command.args,
            id: host.id.to_owned(),
            namespace: host.namespace.to_owned(),
            stderr,
        }
    }

    /// Starts it with standard output and standard error to read; returns the other end of its ready
    /// pipe too.
    pub(super) fn start(
        &self,
        monitor: &Monitor,
        streams: [BorrowedFd<'_>; 2],
    ) -> io::Result<(Child, pipe::Receiver)> {
        let (ready, say_ready) = pipe2(OFlag::O_CLOEXEC)?;
        let ready = pipe::Receiver::from_owned_fd(ready)?;
        let [stdout, stderr] = streams;
        // Above their final numbers, so that none overwrites another.
        let passed = [
            above(stdout, FIRST + 7)?,
            above(stderr, FIRST + 7)?,
            above(say_ready.as_fd(), FIRST + 7)?,
        ];
        drop(say_ready);
        // The standard library opens a pipe of its own to hear of a failed exec, which must not be
        // where ours are put in the child: so those numbers are in use meanwhile.
        let _in_use = taken(self.stderr.as_fd())?;
        let mut command = Command::new(&self.path);
        command
            .arg0(&self.name)
            .args(&self.args)
            .env_clear()
            .env("CONTAINER_ID", &self.id)
            .env("CONTAINER_NAMESPACE", &self.namespace)
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| PATH.into()),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.stderr.try_clone()?)
            .process_group(0);
        let numbers = passed.each_ref().map(AsRawFd::as_raw_fd);
        let place = move || {
            for (number, target) in numbers.iter().zip(FIRST..) {
                // SAFETY: dup2 is async-signal-safe and has no safe wrapper for a plain number; the
                // sources are open in the parent until the spawn has returned.
                if unsafe { libc::dup2(*number, target) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: the closure only calls dup2 and reads errno: both may be done between fork and
        // exec.
        unsafe { command.pre_exec(place) };
        let child = monitor.spawn(&mut command)?;
        Ok((child, ready))
    }
}

fn above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    let raw = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    Ok(own(raw))
}

/// Descriptors on all numbers that a program's own will have and that are free.
fn taken(any: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut taken = Vec::new();
    for _ in 0..PASSED {
        let fd = above(any, FIRST)?;
        let last = fd.as_raw_fd() >= FIRST + PASSED as RawFd;
        taken.push(fd);
        if last {
            break;
        }
    }
    Ok(taken)
}

fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made it for the one caller.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// The start of a log line or an error about it.
pub(super) fn called(name: &Path, id: &str) -> String {
    format!("logging binary {} of {id}", name.display())
}
