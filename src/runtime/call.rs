//! One call: start, capture, limit, and the words for what went wrong.

use std::ffi::OsStr;
use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::argv::{self, Argv};
use super::error::{Kind, Operation, RuntimeError};
use super::log;
use super::private_file::PrivateFile;
use super::record::Record;
use super::spawn::spawn;
use super::started;
use super::{Fds, Runtime};
use crate::blocking::is_exhausted;
use crate::errno::Words;
use crate::error::Code;
use crate::monitor::{Child, Exit};
use crate::pidfd;
use crate::program::Program;
use crate::times::since;

/// The most that is kept of an output: its end.
const MESSAGE_LIMIT: usize = 16 * 1024;
/// The same where standard output is the answer; half a million pids fit.
const ANSWER_LIMIT: usize = 4 * 1024 * 1024;
/// How long to wait for the end of a killed call; one stuck in the kernel may never end.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Whose the standard streams of a call are.
pub(super) enum Streams {
    /// The container's.
    Container(Fds),
    /// Ours; the runtime's standard input is given, or is empty.
    Captured(Option<OwnedFd>),
}

impl Runtime {
    /// Runs one command to its end; returns its standard output, if that was captured.
    pub(super) async fn call(
        &self,
        operation: Operation,
        id: &str,
        argv: Argv,
        streams: Streams,
    ) -> Result<Vec<u8>, RuntimeError> {
        let limit = self.limit.unwrap_or_else(|| operation.limit());
        let begun = SystemTime::now();
        // Without a bundle there is no place for a log. A forced delete must work even then.
        let log = PrivateFile::beside(&self.log, "log");
        let mut command = Program::new(&self.binary);
        if !matches!(operation, Operation::Features | Operation::Version) {
            let log = log.as_ref().ok().map(PrivateFile::path);
            command.args(argv::globals(&self.root, log, self.systemd_cgroup).0);
        }
        command.args(argv.0).leads_group();
        clean_environment(&mut command);
        // Wrappers of a runtime, and hooks, look for the bundle here, as with the Go shim.
        if let Some(bundle) = log.as_ref().ok().and_then(|log| log.path().parent()) {
            command.current_dir(bundle);
        }
        let not_started = |e| {
            let message = self.not_started(operation, &e);
            let kind = match is_exhausted(&e) {
                true => Kind::Exhausted,
                false => Kind::Spawn,
            };
            RuntimeError::new(operation, kind, message)
        };
        let mut output = connect(&mut command, operation, streams).map_err(not_started)?;
        let what = format!("{} {} {id}", name(&self.binary), operation.name());
        // Only the child holds the streams then; else they would never end.
        let record = log.as_ref().ok().map(|log| Record::beside(log.path()));
        let path = record.as_ref().map(|record| record.path().to_owned());
        let started = spawn(
            &self.monitor,
            &self.binary,
            command,
            what.clone(),
            limit,
            path,
        )
        .await;
        let started = started.map_err(|e| {
            let kind = match e.code {
                Code::DeadlineExceeded => Kind::Timeout,
                Code::ResourceExhausted => Kind::Exhausted,
                _ => Kind::Spawn,
            };
            RuntimeError::new(operation, kind, e.message)
        })?;
        let mut child = started.map_err(not_started)?;

        let exit = timeout(limit, output.until_exit(&mut child)).await;
        if exit.is_err() {
            // What CRIU has brought back is in process groups of its own, and so is an exec's process soon.
            let made = match operation {
                Operation::Restore | Operation::Exec => started::by(child.pid(), what).await,
                _ => Vec::new(),
            };
            // ESRCH: it ended just now.
            let _ = child.kill_group(Signal::SIGKILL);
            for (_, process) in made {
                let _ = pidfd::signal(&process, Signal::SIGKILL);
            }
            let _ = timeout(KILL_LIMIT, output.until_exit(&mut child)).await;
        }
        let killed = exit
            .as_ref()
            .ok()
            .is_none_or(|exit| killed_by(*exit).is_some());
        if killed && !self.monitor.end_group(child.pid()).await {
            let leader = child.pid();
            ::log::warn!("processes of the killed runtime call {leader} are still there");
        }
        drop(record);
        let log = log.and_then(|log| log::finish(&log, &self.log));
        match exit {
            Ok(exit) if exit.status == 0 => Ok(output.stdout.bytes),
            Ok(exit) => Err(self.failed(operation, exit, log, &output.text())),
            Err(_) => {
                let end = (limit, begun);
                Err(self.timed_out(operation, id, end, log, &output.text()))
            }
        }
    }

    /// The Go shim's words: those of Go's library for what kept the program from running, at a Create behind
    /// its own about the log that there is none of.
    fn not_started(&self, operation: Operation, e: &io::Error) -> String {
        let binary = &self.binary;
        let why = match e.kind() {
            io::ErrorKind::NotFound if binary.file_name() == Some(binary.as_os_str()) => {
                format!("exec: {binary:?}: executable file not found in $PATH")
            }
            _ => format!("fork/exec {}: {}", binary.display(), e.words()),
        };
        let log = match operation {
            Operation::Create | Operation::Restore => self.log.symlink_metadata().err(),
            _ => None,
        };
        match log {
            Some(missing) => {
                let (log, missing) = (self.log.display(), missing.words());
                format!("unable to retrieve OCI runtime error (open {log}: {missing}): {why}")
            }
            None => why,
        }
    }

    fn failed(
        &self,
        operation: Operation,
        exit: Exit,
        log: io::Result<Vec<u8>>,
        output: &str,
    ) -> RuntimeError {
        let kind = match killed_by(exit) {
            Some(signal) => Kind::Killed(signal),
            None => Kind::Failed(exit.status),
        };
        let how = match kind {
            Kind::Killed(signal) => format!("signal {signal}"),
            _ => format!("exit status {}", exit.status),
        };
        let program = name(&self.binary);
        let bare = format!("{program} did not terminate successfully: {how}{output}");
        let own_words = log.map(|log| log::last_error(&log));
        let message = match (kind, operation, own_words) {
            // A killed runtime didn't get to say why.
            (Kind::Killed(_), _, Ok(None)) => bare,
            (Kind::Killed(_), _, Ok(Some(message))) => format!("{bare}: {message}"),
            // These are matched on their output by clients of the Go shim.
            (_, Operation::Kill | Operation::Update | Operation::Ps, _) => bare,
            (_, _, Ok(Some(message))) => message,
            (_, _, Ok(None)) => bare,
            (_, _, Err(e)) => {
                let (log, e) = (self.log.display(), e.words());
                format!("unable to retrieve OCI runtime error (open {log}: {e}): {bare}")
            }
        };
        RuntimeError::new(operation, kind, message)
    }

    fn timed_out(
        &self,
        operation: Operation,
        id: &str,
        (limit, begun): (Duration, SystemTime),
        log: io::Result<Vec<u8>>,
        output: &str,
    ) -> RuntimeError {
        let program = name(&self.binary);
        let command = operation.name();
        let said = log.ok().and_then(|log| log::last_error(&log));
        let said = said.map_or_else(|| output.to_owned(), |message| format!(": {message}"));
        let begun = since(begun);
        let message = format!(
            "{program} {command} of {id:?} did not end within {limit:?} and was killed; it hung since {begun}{said}"
        );
        RuntimeError::new(operation, Kind::Timeout, message)
    }
}

/// The signal that ended a call, up to the last real-time one; a shell tells its command's so too.
fn killed_by(exit: Exit) -> Option<u32> {
    matches!(exit.status, 129..=192).then(|| exit.status - 128)
}

fn name(binary: &Path) -> String {
    let name = binary.file_name().unwrap_or(binary.as_os_str());
    name.to_string_lossy().into_owned()
}

/// A program inherits the environment (the runtime's hooks do too) without what is meant for this
/// process: a service manager's sockets, which a runtime would pass on to containers, and our own
/// settings.
pub(crate) fn clean_environment(command: &mut Program) {
    const SERVICE: [&str; 4] = [
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
    ];
    let meant_for_us = |name: &&OsStr| {
        SERVICE.iter().any(|service| name == service)
            || name.as_encoded_bytes().starts_with(b"COTTER_")
    };
    let ours = command.variables().filter(meant_for_us);
    let ours: Vec<_> = ours.map(OsStr::to_owned).collect();
    for variable in ours {
        command.env_remove(variable);
    }
}

/// Gives the command its standard streams and returns our ends.
fn connect(command: &mut Program, operation: Operation, streams: Streams) -> io::Result<Output> {
    match streams {
        Streams::Container(fds) => {
            // What is absent is readable and writable whichever stream it is: programs write to fd 0 and
            // read from fd 2.
            for (number, fd) in [fds.stdin, fds.stdout, fds.stderr].into_iter().enumerate() {
                if let Some(fd) = fd {
                    command.descriptor(number, fd);
                }
            }
            Ok(Output::default())
        }
        Streams::Captured(stdin) => {
            let (stdout, child_stdout) = io::pipe()?;
            let (stderr, child_stderr) = io::pipe()?;
            if let Some(stdin) = stdin {
                command.stdin(stdin);
            }
            command.stdout(child_stdout).stderr(child_stderr);
            let limit = match operation {
                Operation::Ps | Operation::Features | Operation::Version => ANSWER_LIMIT,
                _ => MESSAGE_LIMIT,
            };
            Ok(Output {
                stdout: Tail::new(stdout, limit)?,
                stderr: Tail::new(stderr, MESSAGE_LIMIT)?,
            })
        }
    }
}

/// What a call prints.
#[derive(Default)]
struct Output {
    stdout: Tail,
    stderr: Tail,
}

impl Output {
    /// Reads until the runtime has exited, then what is in the pipes by then: not until their end,
    /// which a process it left behind may hold back for ever.
    async fn until_exit(&mut self, child: &mut Child) -> Exit {
        let exit = loop {
            tokio::select! {
                biased;
                exit = child.exited() => break exit,
                () = self.stdout.fill() => {}
                () = self.stderr.fill() => {}
            }
            // Output without a pause must not keep the exit from being reaped.
            tokio::task::yield_now().await;
        };
        self.stdout.drain();
        self.stderr.drain();
        exit
    }

    /// Both streams as the end of an error message, empty or `: …`.
    fn text(&self) -> String {
        let both = [&self.stdout, &self.stderr].map(Tail::text).concat();
        match both.trim_end() {
            "" => String::new(),
            text => format!(": {text}"),
        }
    }
}

/// The last bytes of a stream.
#[derive(Default)]
struct Tail {
    pipe: Option<pipe::Receiver>,
    limit: usize,
    bytes: Vec<u8>,
}

impl Tail {
    fn new(pipe: PipeReader, limit: usize) -> io::Result<Self> {
        Ok(Self {
            pipe: Some(pipe::Receiver::from_owned_fd(pipe.into())?),
            limit,
            bytes: Vec::new(),
        })
    }

    /// Waits for bytes and takes them. Cancel safe; never returns after the end of the stream.
    async fn fill(&mut self) {
        match &self.pipe {
            Some(pipe) => {
                // An error shows in the read.
                let _ = pipe.readable().await;
                self.take(|pipe, buffer| pipe.try_read(buffer));
            }
            None => std::future::pending().await,
        }
    }

    /// Takes what is there at the end. Past tokio, whose `try_read` reads nothing before the
    /// reactor has seen the bytes, and the exit may have overtaken them.
    fn drain(&mut self) {
        self.take(|pipe, buffer| Ok(nix::unistd::read(pipe, buffer)?));
    }

    /// Reads until the pipe is empty, at most about a full one (1 MiB at its largest).
    fn take(&mut self, read: impl Fn(&pipe::Receiver, &mut [u8]) -> io::Result<usize>) {
        let mut buffer = [0; 4096];
        for _ in 0..256 {
            let Some(pipe) = &self.pipe else { return };
            match read(pipe, &mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(n) => self.push(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.pipe = None,
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        // Cut seldom: each cut moves what is kept.
        if self.bytes.len() > 2 * self.limit {
            self.bytes.drain(..self.bytes.len() - self.limit);
        }
    }

    fn text(&self) -> String {
        let cut = self.bytes.len().saturating_sub(self.limit);
        String::from_utf8_lossy(&self.bytes[cut..]).into_owned()
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn environment() {
        let mut command = Program::new("x");
        command.env_clear();
        for name in [
            "PATH",
            "COTTER_SOCKET",
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
            "XCOTTER_",
        ] {
            command.env(name, "x");
        }
        clean_environment(&mut command);
        assert!(command.variables().eq(["PATH", "XCOTTER_"]));
    }

    #[test]
    fn a_tail_keeps_the_end() {
        let mut tail = Tail {
            limit: 4,
            ..Tail::default()
        };
        for (pushed, expected) in [("ab", "ab"), ("cde", "bcde"), ("0123456789", "6789")] {
            tail.push(pushed.as_bytes());
            assert_eq!(tail.text(), expected);
            assert!(tail.bytes.len() <= 8);
        }
    }
}
