//! The owner of one process's streams.
//!
//! Invariant: whatever state its relays are in, [`Io::close`] closes every descriptor before it
//! returns, and each relay's task ends at its next turn.

use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::console::{self, ConsoleSocket, Size};
use super::logger::{Host, Logger, Pending};
use super::plan::{Output, Plan};
use super::relay::{Relay, Standing, Tally};
use super::sys::{self, End, Kind};
use super::{Buffering, Counters, Drain, Overflow, Stream, StreamReport};
use crate::blocking::{Job, within};
use crate::error::{Error, Result};
use crate::runtime::Fds;

/// How long [`Io::drained`] waits for somebody to open a FIFO that holds bytes after the end of its
/// stream. Short: a manager that deletes a process has opened its FIFOs long ago or never will.
pub const UNREAD_GRACE: Duration = Duration::from_millis(250);

/// Between two looks within [`UNREAD_GRACE`].
const UNREAD_LOOK: Duration = Duration::from_millis(10);

pub(super) const STREAMS: [Stream; 3] = [Stream::Stdin, Stream::Stdout, Stream::Stderr];

/// One process's streams. All methods may be called from any task, in any order.
#[derive(Debug)]
pub struct Io {
    pub(super) shared: Arc<Shared>,
    started: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Shared {
    /// By [`Stream`].
    lanes: [Mutex<Lane>; 3],
    /// Told whenever a relay ends or reaches the end of its stream.
    changed: watch::Sender<()>,
    terminal: Mutex<Terminal>,
    loggers: Mutex<Loggers>,
    /// Of a terminal's output, which is opened later.
    buffering: Buffering,
}

#[derive(Debug, Default)]
struct Loggers {
    /// Not started yet.
    pending: Vec<Pending>,
    /// Started; kept to the end for what they lost.
    started: Vec<Logger>,
}

/// The master end of a process's terminal, on its way from nothing to nothing.
#[derive(Debug)]
enum Terminal {
    /// There is none, or not any more.
    None,
    /// The runtime is about to send it.
    Awaited {
        socket: ConsoleSocket,
        stdin: Option<OwnedFd>,
        stdout: Opened,
    },
    Open(Arc<OwnedFd>),
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// `None` if the process has no such stream, or it has ended.
    pub(super) relay: Option<Relay>,
    /// Of the relay's task.
    waker: Option<Waker>,
    pub(super) tally: Tally,
}

impl Io {
    /// Opens the FIFOs and makes the pipes; the container's ends are owned by `uid:gid`. Nothing
    /// moves before [`Io::start`]. On error nothing stays open.
    ///
    /// An output that is a regular file or a character device is appended to. A stdin that is one
    /// becomes the container's as it is, opened for reading.
    ///
    /// With a terminal the container gets no ends of ours, and [`Io::connect_terminal`] must follow. With
    /// a logging program, [`Io::start_loggers`] must.
    ///
    /// # Errors
    /// `NotFound` for a missing path, `InvalidArgument` for one of a wrong type, otherwise what the
    /// system said; the message names stream and path.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub fn open(plan: &Plan, uid: u32, gid: u32, buffering: Buffering) -> Result<(Self, Fds)> {
        let mut lanes = <[Lane; 3]>::default();
        let mut fds = Fds {
            stdin: None,
            stdout: None,
            stderr: None,
        };
        let owner = (uid, gid);
        let mut terminal = Terminal::None;
        let mut loggers = Loggers::default();
        match plan {
            Plan::Null => {}
            Plan::Terminal { stdin, stdout } => {
                let stdin = match stdin {
                    Some(path) => open_typed(path)?,
                    None => None,
                };
                let stdout = match stdout {
                    Some(Output::Logger(command)) => {
                        let (write, read) = sys::pipe(Stream::Stdout, End::Write, uid, gid)?;
                        loggers.pending.push(Pending {
                            command: command.clone(),
                            ends: [Some(read), None],
                        });
                        // As good as a FIFO: the logger's end is open as long as there is a logger.
                        Opened::Fifo(write)
                    }
                    Some(output) => open_target(Stream::Stdout, output)?,
                    None => open_target(Stream::Stdout, &"/dev/null".into())?,
                };
                terminal = Terminal::Awaited {
                    stdin,
                    stdout,
                    socket: ConsoleSocket::listen()
                        .map_err(|e| e.context("failed to create console socket"))?,
                };
            }
            Plan::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                if let Some(path) = stdin {
                    (lanes[0].relay, fds.stdin) = open_stdin(path, uid, gid)?;
                }
                let mut shared_file = None;
                match stdout {
                    Some(Output::Logger(command)) => {
                        let (read, write) = logger_pipe(Stream::Stdout, owner)?;
                        (lanes[1].relay, fds.stdout) =
                            before_logger(Stream::Stdout, write, owner, buffering)?;
                        loggers.pending.push(Pending {
                            command: command.clone(),
                            ends: [Some(read), None],
                        });
                    }
                    Some(output) => {
                        let target = open_target(Stream::Stdout, output)?;
                        if let Opened::File(file, kind) = &target
                            && stderr.as_ref() == Some(output)
                        {
                            // One open file for both, as a shell's `2>&1`.
                            shared_file = Some(Opened::File(Arc::clone(file), *kind));
                        }
                        (lanes[1].relay, fds.stdout) =
                            open_output(Stream::Stdout, target, owner, buffering)?;
                    }
                    None => {}
                }
                match stderr {
                    Some(Output::Logger(command)) => {
                        let (read, write) = logger_pipe(Stream::Stderr, owner)?;
                        (lanes[2].relay, fds.stderr) =
                            before_logger(Stream::Stderr, write, owner, buffering)?;
                        match &mut loggers.pending[..] {
                            // One program for both.
                            [both] if both.command == *command => both.ends[1] = Some(read),
                            _ => loggers.pending.push(Pending {
                                command: command.clone(),
                                ends: [None, Some(read)],
                            }),
                        }
                    }
                    Some(output) => {
                        let target = match shared_file {
                            Some(file) => file,
                            None => open_target(Stream::Stderr, output)?,
                        };
                        (lanes[2].relay, fds.stderr) =
                            open_output(Stream::Stderr, target, owner, buffering)?;
                    }
                    None => {}
                }
            }
        }
        let shared = Shared {
            lanes: lanes.map(Mutex::new),
            changed: watch::Sender::new(()),
            terminal: Mutex::new(terminal),
            loggers: Mutex::new(loggers),
            buffering,
        };
        let io = Self {
            shared: Arc::new(shared),
            started: AtomicBool::new(false),
        };
        Ok((io, fds))
    }

    /// As [`open`](Self::open), on a thread of its own: what the plan names may lie on a disk that
    /// does not answer. What is opened after the limit is closed again.
    ///
    /// # Errors
    /// As [`open`](Self::open), and `DeadlineExceeded` naming the streams' paths.
    pub async fn open_within(
        plan: Plan,
        uid: u32,
        gid: u32,
        buffering: Buffering,
        limit: Duration,
    ) -> Result<(Self, Fds)> {
        if plan == Plan::Null {
            return Self::open(&plan, uid, gid, buffering);
        }
        let job = Job {
            name: "open-streams",
            what: format!("open {}", plan.paths()),
            limit,
        };
        let reactor = Handle::current();
        let open = move || {
            let _entered = reactor.enter();
            Self::open(&plan, uid, gid, buffering)
        };
        within(job, open).await?
    }

    /// Starts the logging programs and waits until they are ready, before the runtime is called; without
    /// one does nothing.
    ///
    /// # Errors
    /// What kept one from starting or being ready. None of them is left then.
    pub async fn start_loggers(&self, host: &Host<'_>) -> Result<()> {
        let pending = std::mem::take(&mut self.shared.loggers().pending);
        for pending in pending {
            match pending.start(host, self.shared.changed.clone()).await {
                Ok(logger) => self.shared.loggers().started.push(logger),
                Err(error) => {
                    self.end_loggers().await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Ends the logging programs, those that have not ended by themselves: SIGTERM, SIGKILL after their
    /// limit. Without one does nothing.
    pub async fn end_loggers(&self) {
        let stops: Vec<_> = {
            let loggers = self.shared.loggers();
            loggers.started.iter().map(|l| l.stop(None)).collect()
        };
        for stop in stops {
            stop.await;
        }
    }

    /// Where the runtime is to send the terminal; `None` without one.
    pub fn console_socket(&self) -> Option<PathBuf> {
        match &*self.shared.terminal() {
            Terminal::Awaited { socket, .. } => Some(socket.path()),
            Terminal::None | Terminal::Open(_) => None,
        }
    }

    /// Takes the terminal from a runtime that has returned; without one does nothing.
    ///
    /// # Errors
    /// `DeadlineExceeded` when it did not come within `limit`, or what came instead.
    pub async fn connect_terminal(&self, limit: Duration) -> Result<()> {
        let awaited = std::mem::replace(&mut *self.shared.terminal(), Terminal::None);
        let Terminal::Awaited {
            socket,
            stdin,
            stdout,
        } = awaited
        else {
            return Ok(());
        };
        let failed = "failed to retrieve console master";
        let master = socket.receive(limit).await.map_err(|e| e.context(failed))?;
        let master = Arc::new(master);
        let relays = || {
            let output = match stdout {
                Opened::Fifo(fifo) => Relay::terminal_to_fifo(Arc::clone(&master), fifo)?
                    .buffered(self.shared.buffering),
                Opened::File(file, kind) => {
                    Relay::terminal_to_file(Arc::clone(&master), file, kind)?
                }
            };
            let input = stdin.map(|fifo| Relay::to_terminal(fifo, Arc::clone(&master)));
            std::io::Result::Ok((input.transpose()?, output))
        };
        let (input, output) = relays().map_err(|why| Error::io("watch the terminal", &why))?;
        self.shared.lane(Stream::Stdin).relay = input;
        self.shared.lane(Stream::Stdout).relay = Some(output);
        *self.shared.terminal() = Terminal::Open(master);
        Ok(())
    }

    /// Sets the terminal's size. Without a terminal, or when it is closed, does nothing.
    ///
    /// # Errors
    /// What the system said.
    pub fn resize(&self, size: Size) -> Result<()> {
        match &*self.shared.terminal() {
            Terminal::Open(master) => console::resize(master, size)
                .map_err(|why| Error::io(format!("resize the terminal to {size:?}"), &why)),
            Terminal::None | Terminal::Awaited { .. } => Ok(()),
        }
    }

    /// The process has exited: what its terminal holds is taken to the output, and it is closed.
    /// Without a terminal does nothing: pipes end when their last writer has closed them.
    pub fn process_exited(&self) {
        self.shared.end_terminal();
    }

    /// Lets the bytes move: to be called once the runtime has returned and the caller's copies of
    /// the container's ends are closed. A second call does nothing.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(&self) {
        if self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        for stream in STREAMS {
            if self.shared.lane(stream).relay.is_some() {
                let shared = Arc::clone(&self.shared);
                // Ends by itself when its relay does, which `close` sees to.
                tokio::spawn(poll_fn(move |cx| shared.turn(stream, cx)));
            }
        }
    }

    /// Gives up the shim's own write end of the stdin FIFO, so that the container gets EOF when the
    /// client has closed its end too (or at once if no client has the FIFO open).
    pub fn close_stdin(&self) {
        let mut lane = self.shared.lane(Stream::Stdin);
        if let Some(relay) = &mut lane.relay {
            relay.close_stdin();
        }
        let waker = lane.waker.clone();
        drop(lane);
        waker.inspect(Waker::wake_by_ref);
    }

    /// Waits until all output has been delivered, for `limit` at most. Changes nothing: it can be
    /// cancelled and repeated, and the relays go on until [`Io::close`].
    pub async fn drained(&self, limit: Duration) -> Drain {
        let mut changed = self.shared.changed.subscribe();
        let begun = Instant::now();
        let mut unread_since = None;
        loop {
            let (verdict, left, look) = match self.shared.undelivered() {
                None => return Drain::Done,
                Some((stream, Standing::Unread)) => {
                    let grace = UNREAD_GRACE
                        .saturating_sub(unread_since.get_or_insert_with(Instant::now).elapsed());
                    let left = limit.saturating_sub(begun.elapsed()).min(grace);
                    (Drain::Unread(stream), left, UNREAD_LOOK)
                }
                Some((stream, Standing::Moving | Standing::Delivered)) => {
                    let left = limit.saturating_sub(begun.elapsed());
                    (Drain::TimedOut(stream), left, left)
                }
            };
            if left.is_zero() {
                return verdict;
            }
            // Either outcome is a reason to look again.
            let _ = timeout(left.min(look), changed.changed()).await;
        }
    }

    /// Ends all relays and closes every descriptor, now. Bytes that nobody has read are gone. Can be
    /// called again; dropping the value does the same.
    pub fn close(&self) {
        let terminal = std::mem::replace(&mut *self.shared.terminal(), Terminal::None);
        if let Terminal::Awaited {
            stdout: Opened::File(file, Kind::File),
            ..
        } = terminal
        {
            sys::close_elsewhere(file);
        }
        for stream in STREAMS {
            let mut lane = self.shared.lane(stream);
            let waker = lane.waker.take();
            let relay = lane.relay.take();
            drop(lane);
            if let Some(relay) = relay {
                relay.close();
            }
            waker.inspect(Waker::wake_by_ref);
        }
        {
            let mut loggers = self.shared.loggers();
            loggers.pending.clear();
            for logger in &loggers.started {
                drop(logger.stop(None));
            }
        }
        self.shared.changed.send_replace(());
    }

    /// What has moved so far; also after [`Io::close`].
    pub fn counters(&self) -> Counters {
        let [stdin, stdout, stderr] = STREAMS.map(|stream| self.shared.lane(stream).tally);
        let buffered = |stream| {
            let lane = self.shared.lane(stream);
            lane.relay.as_ref().map_or(0, Relay::backlog)
        };
        Counters {
            buffered: buffered(Stream::Stdout) + buffered(Stream::Stderr),
            stdin: stdin.moved,
            stdout: stdout.moved,
            stderr: stderr.moved,
            lost: stdout.lost + stderr.lost + self.shared.loggers().lost(),
            turns: stdin.turns + stdout.turns + stderr.turns,
        }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.close();
    }
}

impl Loggers {
    fn lost(&self) -> u64 {
        self.started.iter().map(Logger::lost).sum()
    }

    /// What the first of them reads that is not over.
    fn reading(&self) -> Option<Stream> {
        let mut started = self.started.iter();
        started.find(|l| !l.is_over()).map(|l| l.stream)
    }
}

impl Shared {
    pub(super) fn lane(&self, stream: Stream) -> MutexGuard<'_, Lane> {
        let lane = match stream {
            Stream::Stdin => &self.lanes[0],
            Stream::Stdout => &self.lanes[1],
            Stream::Stderr => &self.lanes[2],
        };
        lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loggers(&self) -> MutexGuard<'_, Loggers> {
        self.loggers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn terminal(&self) -> MutexGuard<'_, Terminal> {
        self.terminal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the relays close the terminal, if it is open; the other owner is here.
    fn end_terminal(&self) {
        {
            let mut terminal = self.terminal();
            if !matches!(*terminal, Terminal::Open(_)) {
                return;
            }
            *terminal = Terminal::None;
        }
        for stream in [Stream::Stdin, Stream::Stdout] {
            let mut lane = self.lane(stream);
            if let Some(relay) = &mut lane.relay {
                relay.finish();
            }
            let waker = lane.waker.clone();
            drop(lane);
            waker.inspect(Waker::wake_by_ref);
        }
    }

    /// One turn of a relay's task.
    fn turn(&self, stream: Stream, cx: &mut Context<'_>) -> Poll<()> {
        let mut lane = self.lane(stream);
        let Lane {
            relay: slot,
            waker,
            tally,
        } = &mut *lane;
        let Some(relay) = slot else {
            return Poll::Ready(());
        };
        tally.turns += 1;
        let before = relay.standing();
        let polled = relay.poll(cx, tally);
        let news = if polled.is_ready() {
            if let Some(relay) = slot.take() {
                relay.close();
            }
            *waker = None;
            true
        } else {
            match waker {
                Some(known) => known.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            before != relay.standing()
        };
        drop(lane);
        if news {
            self.changed.send_replace(());
        }
        if stream == Stream::Stdin && polled.is_ready() {
            // The end of its input is the end of a terminal.
            self.end_terminal();
        }
        polled
    }

    /// What is no relay: a terminal that has not come, and the logging programs.
    pub(super) fn report_others(&self) -> Vec<StreamReport> {
        let awaited = matches!(*self.terminal(), Terminal::Awaited { .. });
        let terminal = awaited.then(|| StreamReport::of("terminal", "the runtime to send it"));
        let loggers = self.loggers();
        let pending = loggers.pending.iter().map(|_| "its start");
        let pending = pending.map(|waits| StreamReport::of("logger", waits));
        let started = loggers.started.iter().map(|logger| StreamReport {
            lost_bytes: logger.lost(),
            ..StreamReport::of(
                format!("{} by logger", logger.stream),
                match logger.is_over() {
                    true => "nothing: it has ended",
                    false => "the logging program",
                },
            )
        });
        terminal.into_iter().chain(pending).chain(started).collect()
    }

    /// The output that is furthest from being delivered, if any is not.
    fn undelivered(&self) -> Option<(Stream, Standing)> {
        let standing = |stream| {
            let relay_standing = self.lane(stream).relay.as_ref().map(Relay::standing);
            relay_standing.map(|standing| (stream, standing))
        };
        let outputs = [standing(Stream::Stdout), standing(Stream::Stderr)];
        let with = |wanted| outputs.into_iter().flatten().find(|(_, is)| *is == wanted);
        with(Standing::Moving)
            .or_else(|| Some((self.loggers().reading()?, Standing::Moving)))
            .or_else(|| with(Standing::Unread))
    }
}

/// Where an output goes, opened.
#[derive(Debug)]
enum Opened {
    Fifo(OwnedFd),
    /// A file or device, and which of them.
    File(Arc<OwnedFd>, Kind),
}

/// Opens what a relay writes to; a logger's pipe is made elsewhere.
fn open_target(stream: Stream, output: &Output) -> Result<Opened> {
    let file = |fd: OwnedFd, kind| Opened::File(Arc::new(fd), kind);
    match output {
        Output::Path(path) => Ok(match sys::kind(stream, path)? {
            Kind::Fifo => Opened::Fifo(sys::open_fifo(stream, path)?),
            kind @ (Kind::File | Kind::Device) => file(sys::open_append(stream, path)?, kind),
        }),
        Output::File(path) => {
            let fd = sys::create_append(stream, path)?;
            match sys::kind(stream, path)? {
                Kind::Fifo => Err(not_a_file(stream, path)),
                kind @ (Kind::File | Kind::Device) => Ok(file(fd, kind)),
            }
        }
        Output::Logger(command) => Err(not_a_file(stream, &command.path)),
    }
}

fn not_a_file(stream: Stream, path: &Path) -> Error {
    Error::invalid_argument(format!("{stream} {} is not a file", path.display()))
}

/// A pipe whose read end a logging program gets, so it blocks.
fn logger_pipe(stream: Stream, (uid, gid): (u32, u32)) -> Result<(OwnedFd, OwnedFd)> {
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
    owner: (u32, u32),
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
    (uid, gid): (u32, u32),
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

fn open_stdin(path: &Path, uid: u32, gid: u32) -> Result<Ends> {
    let stream = Stream::Stdin;
    match sys::kind(stream, path)? {
        Kind::Fifo => {
            let fifo = sys::open_fifo(stream, path)?;
            let (ours, theirs) = sys::pipe(stream, End::Write, uid, gid)?;
            let relay = Relay::to_container(fifo, ours)
                .map_err(|why| Error::io(format!("watch stdin {}", path.display()), &why))?;
            Ok((Some(relay), Some(theirs)))
        }
        Kind::File | Kind::Device => {
            let file = sys::open_read(stream, path)?;
            fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).map_err(|why| {
                Error::io(format!("set up stdin {}", path.display()), &why.into())
            })?;
            Ok((None, Some(file)))
        }
    }
}
