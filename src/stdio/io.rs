//! The owner of one process's streams.
//!
//! Invariant: whatever state its relays are in, [`Io::close`] closes every descriptor before it
//! returns, and each relay's task ends at its next turn.

mod early;
mod feed;
mod loggers;
mod open;
mod opened;
mod terminal;

use std::future::poll_fn;
use std::mem::{replace, take};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::plan::{Held, Plan};
use super::relay::{Relay, Standing, Tally};
use super::{Buffering, Counters, Drain, Stream, StreamReport};
use crate::awaited::Awaited;
use crate::blocking::{Job, within};
use crate::error::Result;
use crate::in_memory::Memory;
use crate::runtime::Fds;
use loggers::Loggers;
use open::Opening;
use terminal::Terminal;

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
}

#[derive(Debug)]
pub(super) struct Shared {
    /// By [`Stream`].
    lanes: [Mutex<Lane>; 3],
    /// How often a relay ended or reached the end of its stream.
    changed: Arc<Awaited<u64>>,
    terminal: Mutex<Terminal>,
    loggers: Mutex<Loggers>,
    /// Of a terminal's output, which is opened later.
    buffering: Buffering,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// `None` if the process has no such stream, or it has ended.
    pub(super) relay: Option<Box<Relay>>,
    /// It has a task.
    started: bool,
    /// Of the relay's task.
    waker: Option<Waker>,
    pub(super) tally: Tally,
}

impl Io {
    /// Opens the FIFOs and makes the pipes; the container's ends are owned by `uid:gid`. Nothing
    /// moves before [`Io::start`], but for much output [`during`](Self::during) the runtime's call. On error nothing stays open.
    ///
    /// An output that is a regular file or a character device is appended to. A stdin that is one is read
    /// from; the container gets neither as it is, but for devices that are everybody's (`/dev/null`).
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
        let opening = Opening::of(plan, Held::default(), (uid, gid), buffering)?;
        Ok(Self::over(opening, buffering))
    }

    fn over(opening: Opening, buffering: Buffering) -> (Self, Fds) {
        let lane = |relay: Option<Relay>| {
            Mutex::new(Lane {
                relay: relay.map(Box::new),
                ..Lane::default()
            })
        };
        let shared = Shared {
            lanes: opening.relays.map(lane),
            changed: Arc::default(),
            terminal: Mutex::new(opening.terminal),
            loggers: Mutex::new(Loggers::before(opening.loggers)),
            buffering,
        };
        let io = Self {
            shared: Arc::new(shared),
        };
        (io, opening.fds)
    }

    /// As [`open`](Self::open), on a thread of its own: what the plan names may lie on a disk that
    /// does not answer. What is opened after the limit is closed again. FIFOs in this `memory`, as those of a
    /// manager are mostly, are opened at once.
    ///
    /// # Errors
    /// As [`open`](Self::open), and `DeadlineExceeded` naming the streams' paths.
    pub async fn open_within(
        plan: Plan,
        uid: u32,
        gid: u32,
        buffering: Buffering,
        memory: Option<Memory>,
        limit: Duration,
    ) -> Result<(Self, Fds)> {
        let at_once = |memory: Memory| plan.held(|path| memory.fifo(path));
        let held = match plan {
            Plan::Null => Some(Held::default()),
            _ => memory.and_then(at_once),
        };
        if let Some(held) = held {
            let opening = Opening::of(&plan, held, (uid, gid), buffering)?;
            return Ok(Self::over(opening, buffering));
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

    /// Lets the bytes move: to be called once the runtime has returned and the caller's copies of
    /// the container's ends are closed. A second call does nothing.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(&self) {
        for stream in STREAMS {
            self.shared.start(stream);
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
        let begun = Instant::now();
        let mut unread_since = None;
        loop {
            let seen = self.shared.changed.get();
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
            let changed = self.shared.changed.wait_for(|now| now != seen);
            let _ = timeout(left.min(look), changed).await;
        }
    }

    /// Ends all relays and closes every descriptor, now. Bytes that nobody has read are gone. Can be
    /// called again; dropping the value does the same.
    pub fn close(&self) {
        take(&mut *self.shared.terminal()).close();
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
        self.shared.loggers().close();
        self.shared.changed.count();
    }

    /// What has moved so far; also after [`Io::close`].
    pub fn counters(&self) -> Counters {
        let [stdin, stdout, stderr] = STREAMS.map(|stream| self.shared.lane(stream).tally);
        let buffered = |stream| {
            let lane = self.shared.lane(stream);
            lane.relay.as_deref().map_or(0, Relay::backlog)
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

impl Shared {
    pub(super) fn lane(&self, stream: Stream) -> MutexGuard<'_, Lane> {
        let lane = match stream {
            Stream::Stdin => &self.lanes[0],
            Stream::Stdout => &self.lanes[1],
            Stream::Stderr => &self.lanes[2],
        };
        lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, stream: Stream) {
        let mut lane = self.lane(stream);
        if lane.relay.is_some() && !replace(&mut lane.started, true) {
            let shared = Arc::clone(self);
            // Ends by itself when its relay does, which `close` sees to.
            tokio::spawn(poll_fn(move |cx| shared.turn(stream, cx)));
        }
    }

    fn loggers(&self) -> MutexGuard<'_, Loggers> {
        self.loggers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn terminal(&self) -> MutexGuard<'_, Terminal> {
        self.terminal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One turn of a relay's task.
    fn turn(&self, stream: Stream, cx: &mut Context<'_>) -> Poll<()> {
        let mut lane = self.lane(stream);
        let Lane {
            relay: slot,
            waker,
            tally,
            ..
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
            self.changed.count();
        }
        if stream == Stream::Stdin && polled.is_ready() {
            // The end of its input is the end of a terminal.
            self.end_terminal();
        }
        polled
    }

    /// What is no relay: a terminal that has not come, and the logging programs.
    pub(super) fn report_others(&self) -> Vec<StreamReport> {
        let terminal = self.terminal().report();
        terminal
            .into_iter()
            .chain(self.loggers().report())
            .collect()
    }

    /// The output that is furthest from being delivered, if any is not.
    fn undelivered(&self) -> Option<(Stream, Standing)> {
        let standing = |stream| {
            let relay_standing = self.lane(stream).relay.as_deref().map(Relay::standing);
            relay_standing.map(|standing| (stream, standing))
        };
        let outputs = [standing(Stream::Stdout), standing(Stream::Stderr)];
        let with = |wanted| outputs.into_iter().flatten().find(|(_, is)| *is == wanted);
        with(Standing::Moving)
            .or_else(|| Some((self.loggers().reading()?, Standing::Moving)))
            .or_else(|| with(Standing::Unread))
    }
}
