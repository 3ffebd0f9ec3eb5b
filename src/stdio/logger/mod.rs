//! A logging program: a process of ours that reads the container's pipes itself.
//!
//! Invariant: while the shim lives, the container never gets EPIPE from a pipe it logs to, and never
//! waits for ever for a program that is dead; and no logging program outlives its streams by more than
//! its limits.
//!
//! The shim keeps the read ends, so what a program that died had not read is there for the next.
//! It keeps no write end, so the program sees the end as soon as the last writer is gone, not only at
//! Delete as with the Go shim.
//!
//! | the program | what follows |
//! |---|---|
//! | ends, all was read and no writer is left | nothing |
//! | fails before that | it is started again after a pause ([`Restart`]) |
//! | has failed [`RESTARTS`] times in a row, or ends with status 0 before that | what is written from then on is dropped and counted as lost, with one line in the log |
//! | lives and does not read | the container waits, as for any slow reader, which the dump tells (`report`); or output is dropped, where that is asked for ([`Buffering`](super::Buffering)) and so a relay is in between |
//! | is still there at Delete | after the drain: SIGTERM, then SIGKILL |
//!
//! Whatever its end, what is left of its process group is killed. So a logging program must stay in
//! the foreground and wait for its children. Bytes it had read when it died are its own.

pub(super) mod allow;
mod program;
mod report;
mod said;

pub use allow::is_list;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::plan::Command;
use super::{Stream, sys};
use crate::awaited::Awaited;
use crate::blocking::{Job, within};
use crate::errno::Words;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::monitor::{Action, Child, Monitor, Restart, Streak, end, next};
use crate::runtime::reach;
use program::{Program, called};
use report::Pipes;
use said::Said;

/// Starts in a row without a healthy run before a program is given up.
const RESTARTS: u32 = 10;

/// Whose loggers are started, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// Reaps them.
    pub monitor: &'a Monitor,
    /// What they are told as the container's id; an exec's is its own (as with the Go shim).
    pub id: &'a str,
    /// The containerd namespace.
    pub namespace: &'a str,
    /// The ends of waits.
    pub limits: &'a Limits,
    /// The programs that may be its loggers, of those that the environment allows; none: all.
    pub allow: Option<&'a str>,
}

/// A logger before its start: what to run and what it is to read.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) command: Command,
    /// Read ends, blocking, of standard output and standard error.
    pub(super) ends: [Option<OwnedFd>; 2],
}

/// A logger under way. Dropped, it is ended as by [`Logger::stop`] in the background.
#[derive(Debug)]
pub(super) struct Logger {
    /// What it reads, for messages.
    pub(super) stream: Stream,
    stop: watch::Sender<Option<Duration>>,
    over: watch::Receiver<bool>,
    lost: Arc<AtomicU64>,
    pipes: Pipes,
    /// Between SIGTERM and SIGKILL if nobody says otherwise.
    limit: Duration,
}

impl Pending {
    /// Starts it and waits until it is ready. `news` is told when it is over.
    ///
    /// # Errors
    /// What kept it from starting or being ready; nothing is left of it then.
    pub(super) async fn start(self, host: &Host<'_>, news: Arc<Awaited<u64>>) -> Result<Logger> {
        let name = self.command.path.clone();
        let who = called(&name, host.id);
        let stream = if self.ends[0].is_some() {
            Stream::Stdout
        } else {
            Stream::Stderr
        };
        let must_be_ready = self.command.must_be_ready;
        let reads = self.ends.each_ref().map(Option::is_some);
        let failed = |why: &std::io::Error| Error::io(format!("start {who}"), why);
        let [stdout, stderr] = self.ends.map(|end| end.map_or_else(ended_pipe, Ok));
        let streams = [
            stdout.map_err(|e| failed(&e))?,
            stderr.map_err(|e| failed(&e))?,
        ];
        let (said, stderr) = sys::reading_pipe().map_err(|e| failed(&e))?;
        let said = Said::new(said, who.clone()).map_err(|e| failed(&e))?;
        let allowed = look_at(&who, &name, host).await?;
        let program = Program::new(self.command, allowed, host, stderr);
        let first = program.start(host.monitor, streams.each_ref().map(AsFd::as_fd));
        let (child, mut ready) = first.map_err(|e| failed(&e))?;

        let (stop, stop_receiver) = watch::channel(None);
        let (over_sender, over) = watch::channel(false);
        let lost = Arc::new(AtomicU64::new(0));
        let limit = host.limits.logger_exit;
        let streams = streams.map(Arc::new);
        let pipes = Pipes::of(&streams, reads);
        let keeper = Keeper {
            monitor: host.monitor.clone(),
            program,
            who: who.clone(),
            streams,
            said,
            stop: stop_receiver,
            limit,
            backoff: host.limits.logger_backoff,
            disk: host.limits.disk,
            lost: Arc::clone(&lost),
            _over: Over(over_sender, news),
        };
        // Ends at the latest when the `Logger` is dropped, within its limits.
        tokio::spawn(keeper.run(child));
        let logger = Logger {
            stream,
            stop,
            over,
            lost,
            pipes,
            limit,
        };
        let limit = host.limits.logger_ready;
        let unready = match timeout(limit, ready.read_u8()).await {
            Ok(Ok(_)) => return Ok(logger),
            // The end without a byte.
            Ok(Err(_)) if !must_be_ready => return Ok(logger),
            Ok(Err(_)) => Error::unknown(format!(
                "{who}: logging binary did not call ready (it may have crashed or exited prematurely)"
            )),
            Err(_) => {
                Error::deadline_exceeded(format!("{who} did not call ready within {limit:?}"))
            }
        };
        logger.stop(Some(Duration::ZERO)).await;
        Err(unready)
    }
}

/// The program's real path, if it is allowed; it may lie on any disk. It is asked for before it is opened.
async fn look_at(who: &str, program: &Path, host: &Host<'_>) -> Result<PathBuf> {
    let limit = host.limits.disk;
    let job = Job {
        name: "logger",
        what: format!("look at {who}"),
        limit,
    };
    let (program, lists) = (program.to_owned(), allow::Lists::of(host.allow));
    let program = within(job, move || lists.program(&program)).await??;
    reach(&program, limit).await?;
    Ok(program)
}

/// For a stream that is not the logger's: it ends at once.
fn ended_pipe() -> std::io::Result<OwnedFd> {
    let (read, _) = pipe2(OFlag::O_CLOEXEC)?;
    Ok(read)
}

impl Logger {
    /// Ends it now: SIGTERM, and SIGKILL after `limit` (or its own). The future waits until it is over,
    /// and need not be awaited.
    pub(super) fn stop(&self, limit: Option<Duration>) -> impl Future<Output = ()> + use<> {
        // No receiver: it is over.
        let _ = self.stop.send(Some(limit.unwrap_or(self.limit)));
        let mut over = self.over.clone();
        async move {
            // An error: its keeper is gone.
            let _ = over.wait_for(|over| *over).await;
        }
    }

    /// Whether it has read all it will, and is gone.
    pub(super) fn is_over(&self) -> bool {
        *self.over.borrow() || self.over.has_changed().is_err()
    }

    /// Bytes dropped because no program would read them.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Told when a keeper ends, however it does.
#[derive(Debug)]
struct Over(watch::Sender<bool>, Arc<Awaited<u64>>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.send_replace(true);
        self.1.count();
    }
}

/// Keeps a logger running.
#[derive(Debug)]
struct Keeper {
    monitor: Monitor,
    program: Program,
    who: String,
    streams: [Arc<OwnedFd>; 2],
    said: Said,
    stop: watch::Receiver<Option<Duration>>,
    limit: Duration,
    backoff: Duration,
    disk: Duration,
    lost: Arc<AtomicU64>,
    /// Last, so that it is told when all descriptors are closed.
    _over: Over,
}

/// How a run came to its end.
enum Ended {
    ByItself(u32),
    Stopped,
}

impl Keeper {
    async fn start_again(&self) -> std::io::Result<(Child, Option<pipe::Receiver>)> {
        let reached = reach(&self.program.path, self.disk).await;
        reached.map_err(|why| std::io::Error::other(why.message))?;
        let streams = self.streams.each_ref().map(AsFd::as_fd);
        let (child, ready) = self.program.start(&self.monitor, streams)?;
        Ok((child, Some(ready)))
    }

    async fn run(mut self, first: Child) {
        let mut child = Some(first);
        let mut streak = Streak::default();
        loop {
            let begun = Instant::now();
            // The one end of its ready pipe stays open, so that a later run can say so too.
            let started = match child.take() {
                Some(first) => Ok((first, None)),
                None => self.start_again().await,
            };
            let status = match started {
                Ok((mut child, _ready)) => match self.watch(&mut child).await {
                    Ended::ByItself(status) => Some(status),
                    Ended::Stopped => return,
                },
                Err(why) => {
                    log::warn!("start {} again: {why}", self.who, why = why.words());
                    None
                }
            };
            if self.streams.iter().all(|end| sys::is_over(end.as_fd())) {
                return;
            }
            let policy = Restart::OnFailure {
                backoff: self.backoff / 64,
                max_backoff: self.backoff,
                limit: RESTARTS,
            };
            let (action, after) = next(policy, streak, begun.elapsed(), status);
            streak = after;
            let how = status.map_or("not started".to_owned(), |s| format!("status {s}"));
            let Action::RestartAfter(pause) = action else {
                log::error!(
                    "{} is given up ({how}): the output it had not read is dropped",
                    self.who
                );
                return self.discard().await;
            };
            log::warn!("{} ended ({how}), starting it again", self.who);
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop_asked(&mut self.stop, self.limit) => return,
            }
        }
    }

    /// One run, and the end of what it left in its process group: nothing of it may read on.
    async fn watch(&mut self, child: &mut Child) -> Ended {
        let ended = {
            let run = async {
                tokio::select! {
                    exit = child.exited() => Ended::ByItself(exit.status),
                    limit = stop_asked(&mut self.stop, self.limit) => {
                        if end(child, limit, Child::kill_group).await.is_none() {
                            log::error!("{} is still there after SIGKILL", self.who);
                        }
                        Ended::Stopped
                    }
                }
            };
            tokio::select! {
                ended = run => ended,
                () = listen(&mut self.said) => Ended::Stopped,
            }
        };
        self.said.rest();
        if !self.monitor.end_group(child.pid()).await {
            log::error!("processes of {} are still there", self.who);
        }
        ended
    }

    /// Lets the container go on although nobody reads.
    async fn discard(&mut self) {
        let [stdout, stderr] = self.streams.each_ref().map(|end| {
            let lost = Arc::clone(&self.lost);
            discard(Arc::clone(end), lost)
        });
        tokio::select! {
            _ = async { tokio::join!(stdout, stderr) } => {}
            _ = stop_asked(&mut self.stop, self.limit) => {}
        }
        log::debug!(
            "{}: {} bytes dropped",
            self.who,
            self.lost.load(Ordering::Relaxed)
        );
    }
}

/// [`Said::listen`], which never ends here: a run's end does not depend on its last words.
async fn listen(said: &mut Said) {
    said.listen().await;
    std::future::pending().await
}

/// Reads to the end of the stream and counts.
async fn discard(end: Arc<OwnedFd>, lost: Arc<AtomicU64>) {
    let watched =
        sys::set_nonblocking(end.as_fd()).and_then(|()| sys::watch(end, Interest::READABLE));
    let Ok(watched) =
        watched.inspect_err(|why| log::error!("drop unread output: {why}", why = why.words()))
    else {
        return;
    };
    while let Ok(mut ready) = watched.readable().await {
        match sys::read_some(watched.get_ref().as_fd()) {
            Ok(bytes) if bytes.is_empty() => return,
            Ok(bytes) => {
                lost.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        tokio::task::yield_now().await;
    }
}

/// Waits for a stop and returns its limit; a dropped [`Logger`] is one too.
async fn stop_asked(stop: &mut watch::Receiver<Option<Duration>>, default: Duration) -> Duration {
    match stop.wait_for(Option::is_some).await {
        Ok(limit) => (*limit).unwrap_or(default),
        Err(_) => default,
    }
}
