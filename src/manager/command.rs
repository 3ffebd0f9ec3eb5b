//! Runs a program to its end, within a time limit.
//!
//! Invariant: the program has ended and is reaped when [`output`] returns or is dropped.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use crate::error::{Error, Result};

use super::process::Process;

/// What a program left behind.
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// All it wrote to its standard error.
    pub stderr: Vec<u8>,
}

/// Ends and reaps a child, whatever became of it.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // Neither fails for a child that nobody else reaps, except that there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `command` with `input` on its standard input.
///
/// # Errors
/// When it cannot be started or is not done after `limit`; then it is killed.
pub async fn output(mut command: Command, input: &[u8], limit: Duration) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|why| Error::io(format_args!("run {name}"), &why))?;
    match timeout(limit, finish(Owned(child), input)).await {
        Ok(output) => output.map_err(|why| why.context(format_args!("run {name}"))),
        Err(_) => Err(Error::deadline_exceeded(format_args!(
            "{name} did not end within {limit:?}"
        ))),
    }
}

async fn finish(mut child: Owned, input: &[u8]) -> Result<Output> {
    let ended = Process::open(child.0.id())?;
    let stdin = child.0.stdin.take().map(OwnedFd::from);
    let stdout = child.0.stdout.take().map(OwnedFd::from);
    let stderr = child.0.stderr.take().map(OwnedFd::from);
    let failed = |why| Error::io("speak to it", &why);
    let (_, stdout, stderr) =
        tokio::try_join!(write_all(stdin, input), read_all(stdout), read_all(stderr))
            .map_err(failed)?;
    // Until it is reaped below, its pid is its own, and a caller who gives up can kill it.
    ended.ended(Duration::MAX).await?;
    let status = child.0.wait().map_err(failed)?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

async fn write_all(stdin: Option<OwnedFd>, input: &[u8]) -> io::Result<()> {
    let Some(stdin) = stdin else { return Ok(()) };
    match pipe::Sender::from_owned_fd(stdin)?.write_all(input).await {
        // A program need not read what it is given.
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

async fn read_all(output: Option<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(output) = output {
        pipe::Receiver::from_owned_fd(output)?
            .read_to_end(&mut bytes)
            .await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use nix::unistd::Pid;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn gives_input_and_takes_both_outputs() {
        let limit = Duration::from_secs(30);
        let done = output(shell("cat; echo oops >&2; exit 3"), b"hello", limit)
            .await
            .unwrap();
        assert_eq!(done.stdout, b"hello");
        assert_eq!(done.stderr, b"oops\n");
        assert_eq!(done.status.code(), Some(3));
    }

    #[tokio::test]
    async fn input_that_nobody_reads_is_no_error() {
        let input = vec![0; 1 << 20];
        let done = output(shell("exec true"), &input, Duration::from_secs(30)).await;
        assert!(done.unwrap().status.success());
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed() {
        let script = "echo $$; exec sleep 1000";
        let mut command = shell(script);
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        drop(Owned(child));
        assert_eq!(nix::sys::signal::kill(pid, None), Err(Errno::ESRCH));

        let why = output(shell(script), b"", Duration::from_millis(50)).await;
        assert_eq!(
            why.err().map(|error| error.code),
            Some(crate::error::Code::DeadlineExceeded)
        );
    }
}
