//! What the lifecycle answers: what is to be done, why something may not be, and what is held.

use super::ContainerKey;
use crate::monitor::Exit;

/// Why a start may not begin or cannot be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The container was forgotten, or this start has already ended.
    Gone,
    /// The container's init was reaped.
    InitExited,
    /// The container has an init already, or one is being started.
    Busy,
    /// The pid is neither an unreaped child nor one reaped since the start began, or was born before it:
    /// the runtime named a process that is not its work, whose exit could never be seen.
    Stranger,
}

/// What the caller has to do, in the order given, before it lets go of the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<P> {
    /// Publish the start of this process.
    Started(P),
    /// Init was reaped. Comes at the reap, also when the exit is held back: refuse execs, signal
    /// its pid no more, kill what is left if the container has no pid namespace of its own.
    InitReaped {
        /// Whose init.
        container: ContainerKey,
        /// The init.
        process: P,
        /// Its exit; published later, by [`Effect::Exited`].
        exit: Exit,
    },
    /// Init's exit waits for execs in flight or running: arm the bounded timer that calls
    /// [`Lifecycle::drain_expired`](super::Lifecycle::drain_expired). At most once per container.
    Hold {
        /// Whose init.
        container: ContainerKey,
    },
    /// Publish the exit of this process, then wake its waiters.
    Exited {
        /// The process.
        process: P,
        /// Its exit.
        exit: Exit,
    },
}

/// What is held at this moment; all zero when nothing is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Census {
    /// Processes whose exit is awaited.
    pub running: usize,
    /// Starts in flight.
    pub starts: usize,
    /// Containers not forgotten yet.
    pub containers: usize,
    /// Exits in the log.
    pub recorded: usize,
}
