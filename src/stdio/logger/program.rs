//! How a logging program is started.
//!
//! Invariant: it has its five descriptors and no other of ours, an environment of three variables,
//! and a process group of its own.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::net::unix::pipe;

use super::Host;
use crate::monitor::{Child, Monitor};
use crate::program;
use crate::stdio::plan;

/// Standard output's read end, standard error's, and the write end of the pipe that says "ready"
/// (contract 5.5).
const FIRST: usize = 3;
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
        let mut program = program::Program::new(&self.path);
        program
            .called(&self.name)
            .args(&self.args)
            .env_clear()
            .env("CONTAINER_ID", &self.id)
            .env("CONTAINER_NAMESPACE", &self.namespace)
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| PATH.into()),
            )
            .stderr(self.stderr.try_clone()?)
            .descriptor(FIRST, stdout.try_clone_to_owned()?)
            .descriptor(FIRST + 1, stderr.try_clone_to_owned()?)
            .descriptor(FIRST + 2, say_ready)
            .leads_group();
        let child = monitor.spawn_by(program.name(), || program.start())?;
        Ok((child, ready))
    }
}

/// The start of a log line or an error about it.
pub(super) fn called(name: &Path, id: &str) -> String {
    format!("logging binary {} of {id}", name.display())
}
