//! Invariant: a change of a process, the event that tells of it and its place in the queue are one
//! step, under one short lock that is never held across an await, a runtime call or a system call
//! that can block. So the order of events is the order of what happened.
//!
//! The decisions are [`Lifecycle`]'s, which is pure; this module carries its effects out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::Container;
use super::crowd::Crowd;
use super::process::Process;
use crate::error::{Error, Result};
use crate::events::{Event, Queue};
use crate::lifecycle::{Census, Claim, ContainerKey, Effect, Lifecycle, Refusal, StartId};
use crate::monitor::{Clocks, Exit, Moment, Pid, is_unreaped_child};
use crate::proto::events::{TaskExecStarted, TaskExit, TaskStart};
use crate::proto::timestamp;
use crate::runtime::Named;

/// The lifecycle, its lock and the queue that its effects go to.
pub struct Tracker {
    lifecycle: Mutex<Lifecycle<Arc<Process>>>,
    queue: Queue,
    /// How many exits are written down for starts whose processes have no names yet.
    pub(super) crowd: Crowd,
}

impl Tracker {
    /// A tracker of nothing yet.
    pub fn new(queue: Queue) -> Self {
        Self {
            lifecycle: Mutex::new(Lifecycle::new()),
            queue,
            crowd: Crowd::default(),
        }
    }

    /// The queue of events.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    fn lock(&self) -> MutexGuard<'_, Lifecycle<Arc<Process>>> {
        self.lifecycle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A new container whose init is to come later, by its first start.
    pub fn add(&self) -> ContainerKey {
        self.lock().add()
    }

    /// A new container's key and the exit subscription of its Create.
    pub fn begin_create(&self) -> (ContainerKey, StartId) {
        let mut life = self.lock();
        let key = life.add();
        // A key just made is neither gone nor exited nor busy.
        let start = life
            .begin_create(key, Clocks::now())
            .unwrap_or_else(|_| unreachable!("a new container accepts its create"));
        (key, start)
    }

    /// The start of a created init begins.
    pub fn begin_start(&self, key: ContainerKey) -> Result<StartId, Refusal> {
        self.lock().begin_start(key, Clocks::now())
    }

    /// The start of an exec begins.
    pub fn begin_exec(&self, key: ContainerKey) -> Result<StartId, Refusal> {
        self.lock().begin_exec(key, Clocks::now())
    }

    /// The runtime has named the process of a start. What it has written down is looked up at once, so that
    /// others' exits need not be kept for this start any more.
    pub(super) fn named(&self, start: StartId, named: Named) {
        let mut life = self.lock();
        if let Some(begun) = life.begun(start) {
            let latest = begun.latest(named.written, Clocks::now());
            life.named(start, named.pid, latest);
        }
    }

    /// Whose the pid is that the runtime has named, up to the next await.
    pub(super) fn claim(&self, start: StartId, named: Named) -> Result<Claim, Refusal> {
        self.named(start, named);
        let pid = named.pid;
        let unreaped = is_unreaped_child(pid).then(|| Moment::born(pid));
        self.lock().claim(start, unreaped)
    }

    /// The runtime made `process`, which it has named so; `before` is queued ahead of anything it may do.
    /// Answers whether it is still to be reaped.
    ///
    /// # Errors
    /// The container has been deleted meanwhile, or the pid is not one the runtime has just made.
    /// Nothing was announced, and the start is still open: abandon it.
    pub(super) fn announce(
        &self,
        start: StartId,
        named: Named,
        process: &Arc<Process>,
        before: Option<Event>,
    ) -> Result<bool> {
        let pid = named.pid;
        let refused = |refusal| match refusal {
            Refusal::Stranger => Error::unknown(format!(
                "the runtime named process {pid}, which is no child of this shim that it has made"
            )),
            Refusal::Gone | Refusal::InitExited | Refusal::Busy => {
                Error::not_found("container not created")
            }
        };
        let claim = self.claim(start, named).map_err(refused)?;
        // Its exit is told below. Nobody reaps between here and there.
        if claim != Claim::Unreaped
            && let Some(container) = process.container.upgrade()
        {
            container
                .sensed()
                .tell_oom(Some(process.ended_as(pid, None)));
        }
        let mut life = self.lock();
        if claim == Claim::Unreaped && life.tracked(pid) {
            return Err(Error::unknown(format!(
                "the runtime named process {pid}, which is another process of this shim's containers"
            )));
        }
        let announced = life.announce(start, pid, Arc::clone(process), claim);
        let effects = announced.map_err(refused)?;
        process.has_pid(pid);
        if let Some(event) = before {
            self.queue.push(event);
        }
        self.apply(effects);
        Ok(claim == Claim::Unreaped)
    }

    /// The runtime started the created init.
    pub fn announce_start(&self, start: StartId) {
        let mut life = self.lock();
        let effects = life.announce_start(start);
        self.apply(effects);
    }

    /// A start failed; nothing of it runs.
    pub fn abandon(&self, start: StartId) {
        let mut life = self.lock();
        let effects = life.abandon(start);
        self.apply(effects);
    }

    /// Sees to it that a start ends.
    pub fn ending(&self, start: StartId) -> Ending<'_> {
        let tracker = self;
        Ending { tracker, start }
    }

    /// Whether births are to be told with exits.
    pub(super) fn asks_births(&self) -> bool {
        self.lock().asks_births()
    }

    /// A child of the shim that is no runtime call was reaped.
    pub(super) fn exited(&self, exit: Exit, born: Option<Moment>) {
        // A file of the kernel's, read without the lock: nobody else reaps meanwhile.
        let owners = self.lock().owners(exit.pid);
        for process in &owners {
            let container = process.container.upgrade();
            let ended = process.ended_as(exit.pid, Some(exit.status));
            if let Some(container) = container {
                container.sensed().tell_oom(Some(ended));
            }
        }
        let mut life = self.lock();
        let effects = life.exited(exit, born);
        let recorded = life.census().recorded > 0;
        self.apply(effects);
        drop(life);
        if recorded {
            self.crowd.grows();
        }
    }

    /// The time for a container's execs to drain is over.
    pub fn drain_expired(&self, key: ContainerKey) {
        let mut life = self.lock();
        let effects = life.drain_expired(key);
        self.apply(effects);
    }

    /// Forgets a container: last exits first, then `after` is queued.
    pub fn forget(&self, key: ContainerKey, after: Option<Event>) {
        let mut life = self.lock();
        let effects = life.forget(key, SystemTime::now());
        self.apply(effects);
        if let Some(event) = after {
            self.queue.push(event);
        }
    }

    /// A change of state and the event that tells of it, in one step: no exit comes in between.
    pub fn step<T>(&self, change: impl FnOnce(&Queue) -> T) -> T {
        let _life = self.lock();
        change(&self.queue)
    }

    /// Whether the container's init has been reaped, published or not.
    pub fn init_reaped(&self, key: ContainerKey) -> bool {
        self.lock().init_exit(key).is_some()
    }

    /// Runs `signal` with the pid of `process` if it is certainly still this process: reaps go
    /// through the same lock, so its number cannot be recycled meanwhile.
    pub fn with_live_pid<T>(&self, process: &Process, signal: impl FnOnce(Pid) -> T) -> Option<T> {
        let _life = self.lock();
        let facts = process.facts();
        (facts.pid > 0 && !facts.reaped).then(|| signal(facts.pid))
    }

    /// Whether this is the pid of an announced process that has not been reaped.
    pub fn tracks(&self, pid: Pid) -> bool {
        self.lock().tracked(pid)
    }

    /// Sizes, for the dump and for leak tests.
    pub fn census(&self) -> Census {
        self.lock().census()
    }

    /// The running map, as it came.
    pub(super) fn running(&self) -> Vec<(Pid, Arc<Process>)> {
        let life = self.lock();
        let running = life.running();
        running
            .map(|(pid, process)| (pid, Arc::clone(process)))
            .collect()
    }

    /// The starts in flight, oldest first, with what each starts.
    pub(super) fn starts(&self) -> Vec<(ContainerKey, &'static str)> {
        self.lock().starts().collect()
    }

    /// Whether a process of this number was reaped while a start is under way.
    pub(super) fn has_reaped(&self, pid: Pid) -> bool {
        self.lock().has_reaped(pid)
    }

    /// The exit of this container's init is on record, or the time for that is over.
    pub(super) fn recorded(&self, container: &Container) {
        let _life = self.lock();
        if let Some(exit) = container.record.release() {
            self.tell(&container.init, exit);
        }
    }

    /// Tells an exit: its event has its place from here on, and clients know of it as soon as it cannot
    /// be lost any more. Called with the lock held.
    fn tell(&self, process: &Arc<Process>, exit: Exit) {
        process.ended(exit);
        let told = Arc::clone(process);
        let event = exited(process, exit);
        self.queue.push_then(event, move || told.has_exited(exit));
    }

    /// Carries effects out, in order; called with the lock held.
    fn apply(&self, effects: Vec<Effect<Arc<Process>>>) {
        let mut reaped_init = None;
        for effect in effects {
            match effect {
                Effect::Started(process) => {
                    process.runs();
                    self.queue.push(started(&process));
                }
                Effect::InitReaped { process, exit, .. } => {
                    process.was_reaped();
                    log::debug!(
                        "init {} (pid {}) exited with {}",
                        process.container_id,
                        exit.pid,
                        exit.status
                    );
                    reaped_init = process.container.upgrade();
                    if let Some(container) = &reaped_init {
                        container.record_exit(exit);
                        container.init_was_reaped();
                    }
                }
                Effect::Exited { process, exit } => {
                    let container = process.container.upgrade().filter(|_| process.is_init());
                    // What is not on record yet is told by `recorded`.
                    if container.is_none_or(|container| container.record.lets_tell(exit)) {
                        self.tell(&process, exit);
                    }
                }
                // Comes directly behind the reap of the init that is held.
                Effect::Hold { .. } => {
                    if let Some(container) = &reaped_init {
                        container.arm_exec_drain();
                    }
                }
            }
        }
    }
}

/// A start that ends without a process when this is dropped, if it has not ended otherwise: neither an
/// error nor a panic can leave it open, which would hold the exit of its container's init back.
pub struct Ending<'a> {
    tracker: &'a Tracker,
    start: StartId,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.tracker.abandon(self.start);
    }
}

fn started(process: &Process) -> Event {
    let pid = process.facts().pid.cast_unsigned();
    if process.is_init() {
        Event::Start(TaskStart {
            container_id: process.container_id.clone(),
            pid,
            ..Default::default()
        })
    } else {
        Event::ExecStarted(TaskExecStarted {
            container_id: process.container_id.clone(),
            exec_id: process.exec_id.clone(),
            pid,
            ..Default::default()
        })
    }
}

fn exited(process: &Process, exit: Exit) -> Event {
    Event::Exit(TaskExit {
        container_id: process.container_id.clone(),
        id: process.id().to_owned(),
        pid: exit.pid.cast_unsigned(),
        exit_status: exit.status,
        exited_at: Some(timestamp(Some(exit.at))).into(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_leaves_no_start_open() {
        let tracker = Tracker::new(Queue::new());
        let (key, start) = tracker.begin_create();
        let operation = std::panic::AssertUnwindSafe(|| {
            let _ending = tracker.ending(start);
            panic!("an operation's bug");
        });
        assert!(std::panic::catch_unwind(operation).is_err());
        assert_eq!(tracker.census().starts, 0);
        assert!(tracker.begin_start(key).is_ok(), "it can be tried again");
    }
}
