//! A child that was started here: its end, signals to it, its pipes.
//!
//! Invariant: no signal reaches another process that has its pid.

use std::os::fd::OwnedFd;
use std::{io, process};

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use tokio::sync::oneshot;

use super::{Exit, Monitor, Pid};

/// A child started by [`Monitor::spawn`]. Dropped, the process lives on, stays watched, and is
/// reaped and forgotten when it ends.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    serial: u64,
    monitor: Monitor,
    state: State,
    pub(super) streams: Streams,
}

/// The ends here of what the standard library has piped.
#[derive(Debug, Default)]
pub(super) struct Streams {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Streams {
    pub(super) fn of(child: &mut process::Child) -> Self {
        Self {
            stdin: child.stdin.take().map(OwnedFd::from),
            stdout: child.stdout.take().map(OwnedFd::from),
            stderr: child.stderr.take().map(OwnedFd::from),
        }
    }
}

#[derive(Debug)]
enum State {
    Running(oneshot::Receiver<Exit>),
    Ended(Exit),
}

impl Child {
    pub(super) fn new(
        monitor: Monitor,
        (pid, serial): (Pid, u64),
        exit: oneshot::Receiver<Exit>,
    ) -> Self {
        Self {
            pid,
            serial,
            monitor,
            state: State::Running(exit),
            streams: Streams::default(),
        }
    }

    /// Its process id; another process may have it once this one is reaped.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for the end. Cancel safe; every later call returns the same exit.
    pub async fn exited(&mut self) -> Exit {
        match &mut self.state {
            State::Ended(exit) => *exit,
            State::Running(receiver) => match receiver.await {
                Ok(exit) => {
                    self.state = State::Ended(exit);
                    exit
                }
                // The table, which this handle keeps alive, drops a sender only after use.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Sends a signal; `ESRCH` once the child is reaped, never to another process with its pid.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        self.signal(self.pid, signal)
    }

    /// Sends a signal to the process group that the child leads (`CommandExt::process_group(0)`);
    /// `ESRCH` once the child is reaped or if it leads none.
    pub fn kill_group(&self, signal: Signal) -> io::Result<()> {
        self.signal(-self.pid, signal)
    }

    fn signal(&self, target: Pid, signal: Signal) -> io::Result<()> {
        let table = self.monitor.shared.lock();
        if !table.unreaped(self.pid, self.serial) {
            return Err(Errno::ESRCH.into());
        }
        Ok(signal::kill(nix::unistd::Pid::from_raw(target), signal)?)
    }

    /// The write end of its standard input, if it was piped.
    pub fn take_stdin(&mut self) -> Option<OwnedFd> {
        self.streams.stdin.take()
    }

    /// The read end of its standard output, if it was piped.
    pub fn take_stdout(&mut self) -> Option<OwnedFd> {
        self.streams.stdout.take()
    }

    /// The read end of its standard error, if it was piped.
    pub fn take_stderr(&mut self) -> Option<OwnedFd> {
        self.streams.stderr.take()
    }
}
