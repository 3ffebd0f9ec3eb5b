//! Invariant: what a process is known to be (state, pid, exit) can be read at any moment without
//! waiting for anything that is being done to it.
//!
//! Facts are written by the [tracker](super::tracker) in the step in which they become true;
//! operations take [`Process::turn`] so that there is one at a time.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Instant, SystemTime};

use super::Container;
use super::state::State;
use super::turn::Turns;
use crate::awaited::Awaited;
use crate::error::Result;
use crate::monitor::{Exit, Pid};
use crate::stdio::{Io, Size, Stdio};

/// How a process ended, as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// The exit code, or 128 plus the number of the signal that killed it.
    pub status: u32,
    /// The time of the reap. `None` is Go's zero time on the wire.
    pub at: Option<SystemTime>,
}

/// What waiters wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Pending,
    /// A start failed; nothing ran. A later start puts it back to pending.
    NeverRan,
    Exited(ExitStatus),
}

/// What is known of a process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its state.
    pub state: State,
    /// Its pid in the shim's pid namespace; 0 before it was started.
    pub pid: Pid,
    /// Its exit status was collected: the pid may belong to another process by now.
    pub reaped: bool,
    /// It was sent SIGKILL by a Kill.
    pub sigkilled: bool,
    /// When it came into its state.
    pub since: Instant,
}

/// A container's init or one of its execs.
pub struct Process {
    /// The container's id.
    pub container_id: String,
    /// The exec's id; empty for the init.
    pub exec_id: String,
    /// Where its streams go.
    pub stdio: Stdio,
    /// The OCI process of an exec, as JSON for the runtime; empty for the init.
    pub spec: Vec<u8>,
    /// Held by the operation that is being done to this process (start, delete), one at a time.
    pub turn: Turns,
    /// The container it belongs to.
    pub container: Weak<Container>,
    /// When it came to be known.
    pub(super) made: Instant,
    facts: Mutex<Facts>,
    /// How it ended, told or not.
    ended: OnceLock<Exit>,
    outcome: Awaited<Outcome>,
    io: Mutex<Streams>,
}

/// Its streams, while they are open, and what they are to be like.
#[derive(Default)]
struct Streams {
    open: Option<Arc<Io>>,
    /// The last size a client wanted its terminal to have: it may ask before there is one.
    size: Option<Size>,
}

impl Process {
    /// A process that does not run yet.
    pub fn new(
        container: Weak<Container>,
        container_id: &str,
        exec_id: &str,
        stdio: Stdio,
        spec: Vec<u8>,
    ) -> Self {
        Self {
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
            stdio,
            spec,
            turn: Turns::default(),
            container,
            made: Instant::now(),
            facts: Mutex::new(Facts {
                state: State::Created,
                pid: 0,
                reaped: false,
                sigkilled: false,
                since: Instant::now(),
            }),
            ended: OnceLock::new(),
            outcome: Awaited::new(Outcome::Pending),
            io: Mutex::default(),
        }
    }

    /// Whether this is the container's init.
    pub fn is_init(&self) -> bool {
        self.exec_id.is_empty()
    }

    /// The id by which events and replies name it: the exec's, or the container's for an init.
    pub fn id(&self) -> &str {
        if self.is_init() {
            &self.container_id
        } else {
            &self.exec_id
        }
    }

    /// What is known of it now.
    pub fn facts(&self) -> Facts {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended, or `None` while it has not.
    pub fn exit(&self) -> Option<ExitStatus> {
        match self.outcome.get() {
            Outcome::Exited(status) => Some(status),
            Outcome::Pending | Outcome::NeverRan => None,
        }
    }

    /// Waits for its exit to be published. A process whose start failed answers status 0 without a
    /// time, as the Go shim does (contract A.1). Dropping the future leaves nothing behind.
    pub async fn wait(&self) -> ExitStatus {
        let over = |outcome| outcome != Outcome::Pending;
        match self.outcome.wait_for(over).await {
            Outcome::Exited(status) => status,
            Outcome::NeverRan | Outcome::Pending => ExitStatus {
                status: 0,
                at: None,
            },
        }
    }

    /// How many wait for its exit.
    pub(super) fn waiters(&self) -> usize {
        self.outcome.waiters()
    }

    /// Its streams, while they are open.
    pub fn io(&self) -> Option<Arc<Io>> {
        self.streams().open.clone()
    }

    /// Gives it its streams.
    pub fn set_io(&self, io: Arc<Io>) {
        let mut streams = self.streams();
        if let Some(size) = streams.size
            && let Err(why) = io.resize(size)
        {
            log::warn!("process {}: {why}", self.id());
        }
        streams.open = Some(io);
    }

    /// Sets the size of its terminal, now or as soon as it has one.
    ///
    /// # Errors
    /// What the system said.
    pub fn resize(&self, size: Size) -> Result<()> {
        let mut streams = self.streams();
        streams.size = Some(size);
        streams.open.as_ref().map_or(Ok(()), |io| io.resize(size))
    }

    /// The last size that [`resize`](Self::resize) was asked for.
    pub fn size(&self) -> Option<Size> {
        self.streams().size
    }

    /// Ends and forgets its streams.
    pub fn close_io(&self) {
        let io = self.streams().open.take();
        if let Some(io) = io {
            io.close();
        }
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let before = facts.state;
        change(&mut facts);
        if facts.state != before {
            facts.since = Instant::now();
        }
    }

    /// A start is being tried (again).
    pub(super) fn starting(&self) {
        self.outcome.change(|o| {
            let again = *o == Outcome::NeverRan;
            if again {
                *o = Outcome::Pending;
            }
            again
        });
    }

    /// Its start failed and nothing of it runs: nobody need wait for it.
    pub(super) fn never_ran(&self) {
        self.outcome.change(|o| {
            let pending = *o == Outcome::Pending;
            if pending {
                *o = Outcome::NeverRan;
            }
            pending
        });
    }

    /// The runtime made it: its pid is known.
    pub(super) fn has_pid(&self, pid: Pid) {
        self.change(|f| f.pid = pid);
    }

    /// Its program runs.
    pub(super) fn runs(&self) {
        self.is_now(State::Running);
    }

    /// It came into this state.
    pub(super) fn is_now(&self, state: State) {
        self.change(|f| f.state = state);
    }

    /// It was sent SIGKILL.
    pub(super) fn was_sigkilled(&self) {
        self.change(|f| f.sigkilled = true);
    }

    /// Its exit was collected; the pid is nobody's or another's from now on.
    pub(super) fn was_reaped(&self) {
        self.change(|f| f.reaped = true);
    }

    /// Its exit has been queued for publication, and is told as soon as it is on record.
    pub(super) fn ended(&self, exit: Exit) {
        self.was_reaped();
        // Once: the lifecycle sees to that.
        let _ = self.ended.set(exit);
    }

    /// Its exit may be told.
    pub(super) fn has_exited(&self, exit: Exit) {
        self.change(|f| {
            f.reaped = true;
            if f.state != State::Deleted {
                f.state = State::Stopped;
            }
        });
        if let Some(io) = self.io() {
            io.process_exited();
        }
        self.outcome.set(Outcome::Exited(ExitStatus {
            status: exit.status,
            at: Some(exit.at),
        }));
    }

    /// It has been deleted; who still waits is released.
    pub(super) fn is_deleted(&self) {
        // Whoever deletes it has no more use for a record.
        if let (Some(exit), None) = (self.ended.get(), self.exit()) {
            self.has_exited(*exit);
        }
        self.change(|f| f.state = State::Deleted);
        self.never_ran();
        self.close_io();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("container", &self.container_id)
            .field("exec", &self.exec_id)
            .field("facts", &self.facts())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> Process {
        Process::new(Weak::new(), "c", "x", Stdio::default(), Vec::new())
    }

    #[test]
    fn a_deleted_process_has_its_exit_recorded_or_not() {
        let exit = Exit {
            pid: 7,
            status: 3,
            at: SystemTime::UNIX_EPOCH,
        };
        let process = exec();
        process.has_pid(7);
        process.runs();
        process.ended(exit);
        let facts = process.facts();
        assert!(facts.reaped && facts.state == State::Running && process.exit().is_none());
        process.is_deleted();
        assert_eq!(process.exit().map(|exit| exit.status), Some(3));
        assert_eq!(process.facts().state, State::Deleted);
        // What was withheld comes later.
        process.has_exited(exit);
        assert_eq!(process.facts().state, State::Deleted);

        let never = exec();
        never.is_deleted();
        assert_eq!(never.exit(), None);
    }
}
