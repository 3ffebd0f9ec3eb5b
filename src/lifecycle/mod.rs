//! Invariant: every announced process gets exactly one exit: its own, and after its start; and a
//! container's init gets its exit after all of its execs, unless the bounded wait for them ran out.
//!
//! Two things make that true. The **running map** `pid → processes` knows whose exit a reaped pid
//! is; a pid leaves it in the step in which it is reaped, so a recycled number never meets its
//! former owner. The **exit log** is for processes that die before their pid is known here: while
//! a start is in flight whose process has no name yet, every exit is written down with the birth of who
//! ended, which tells a process from others that have had its number. When the runtime [names](Lifecycle::named)
//! its process, at the latest when the start ends, that is looked up there ([`start`]). All such starts
//! share one log, trimmed to the oldest of them, bounded, and empty when there is none.
//!
//! The code is pure: exits and outcomes of starts go in, [`Effect`]s come out. The caller holds
//! one short mutex around each call *and* the application of its effects (queue the event, wake
//! the waiters, spawn the kill); that is what makes the order of effects the order of events.
//!
//! Contract: section 4 (exit handling), without the holes of 4.5. Pinned by `tests/lifecycle/`:
//! random worlds against an oracle, and every schedule of small worlds.

mod answers;
mod container;
mod log;
mod questions;
mod start;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::SystemTime;

pub use self::answers::{Census, Effect, Refusal};
use self::container::{Container, Init};
use self::log::{Ended, ExitLog};
pub use self::start::Claim;
use self::start::{Kind, Start};
use crate::monitor::{Clocks, Exit, Moment, Pid};

/// Status of a process whose container is forgotten before it was reaped: killed by SIGKILL,
/// which is what the runtime's forced delete does.
pub const FORGOTTEN_STATUS: u32 = 137;

/// One container, from Create to Delete. Never reused, unlike the container's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerKey(u64);

/// One start in flight (of an init or an exec). Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StartId(u64);

/// The running map and the exit subscribers. `P` is a cheap handle to a process.
#[derive(Clone, Debug)]
pub struct Lifecycle<P> {
    /// Numbers containers, starts and recorded exits alike, so that they compare in time.
    clock: u64,
    containers: BTreeMap<ContainerKey, Container<P>>,
    /// Announced and not reaped. The start makes room for several owners of one number (a sandbox
    /// process that stands for many containers), oldest first.
    running: BTreeMap<(Pid, StartId), Running<P>>,
    starts: BTreeMap<StartId, Start>,
    log: ExitLog,
}

#[derive(Clone, Debug)]
struct Running<P> {
    container: ContainerKey,
    exec: bool,
    process: P,
}

impl<P: Clone> Default for Lifecycle<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Clone> Lifecycle<P> {
    /// No containers.
    pub fn new() -> Self {
        Self {
            clock: 0,
            containers: BTreeMap::new(),
            running: BTreeMap::new(),
            starts: BTreeMap::new(),
            log: ExitLog::default(),
        }
    }

    /// A new container, at Create. Ends with [`forget`](Self::forget).
    pub fn add(&mut self) -> ContainerKey {
        let key = ContainerKey(self.tick());
        self.containers.insert(key, Container::new());
        key
    }

    /// Before the runtime's create, at `now`. From here until the start ends no exit is missed. Every
    /// `begin_*` is followed by one `announce*` or [`abandon`](Self::abandon).
    pub fn begin_create(&mut self, c: ContainerKey, now: Clocks) -> Result<StartId, Refusal> {
        let container = self.containers.get(&c).ok_or(Refusal::Gone)?;
        container.check_startable()?;
        match container.init {
            Init::Absent => Ok(self.open(c, Kind::Create, now)),
            Init::Alive(_) | Init::Held { .. } | Init::Published(_) => Err(Refusal::Busy),
        }
    }

    /// Before the runtime's start of a created init, or its restore if no init is known yet.
    /// A created init stays in the running map: its exit is noticed at once, and published only
    /// when the outcome of this start is known.
    pub fn begin_start(&mut self, c: ContainerKey, now: Clocks) -> Result<StartId, Refusal> {
        let container = self.containers.get(&c).ok_or(Refusal::Gone)?;
        container.check_startable()?;
        let kind = match container.init {
            Init::Absent => Kind::Restore,
            Init::Alive(_) | Init::Held { .. } | Init::Published(_) => Kind::Start,
        };
        Ok(self.open(c, kind, now))
    }

    /// Before the runtime's exec. Init's exit waits for this exec from here on.
    pub fn begin_exec(&mut self, c: ContainerKey, now: Clocks) -> Result<StartId, Refusal> {
        let container = self.containers.get_mut(&c).ok_or(Refusal::Gone)?;
        if container.init.exit().is_some() {
            return Err(Refusal::InitExited);
        }
        container.execs += 1;
        Ok(self.open(c, Kind::Exec, now))
    }

    /// The runtime of this start says that its process is `pid`, which it wrote down not later than
    /// `latest`. May be told at any time before the start ends: from then on what others do is not written
    /// down for this start.
    pub fn named(&mut self, id: StartId, pid: Pid, latest: Moment) {
        if let Some(start) = self.starts.get_mut(&id)
            && start.named.is_none_or(|named| named.pid != pid)
        {
            start.name(id.0, pid, latest, &self.log);
            self.trim();
        }
    }

    /// Whose the number is that this start's runtime has [named](Self::named).
    ///
    /// `unreaped`: at this moment `pid` is a child still to be reaped (`waitid` with `WNOWAIT` finds
    /// it), that was born then, as far as that can be told. It may have the number of this start's
    /// process, which was reaped before.
    pub fn claim(&self, id: StartId, unreaped: Option<Option<Moment>>) -> Result<Claim, Refusal> {
        let start = self.starts.get(&id).ok_or(Refusal::Gone)?;
        let named = start.named.ok_or(Refusal::Stranger)?;
        let claim = named.claim(unreaped, start.begun.boot);
        claim.ok_or(Refusal::Stranger)
    }

    /// A create, restore or exec came up as `pid`, which was [named](Self::named) and
    /// [claimed](Self::claim). Of a create, the caller publishes the create event itself, after this
    /// returned `Ok` and before it applies the effects.
    ///
    /// No reap may lie between the claim and this without its [`exited`](Self::exited): they run on one
    /// thread.
    ///
    /// On `Err` nothing was announced: the caller kills the process, and then abandons the start.
    pub fn announce(
        &mut self,
        id: StartId,
        pid: Pid,
        process: P,
        claim: Claim,
    ) -> Result<Vec<Effect<P>>, Refusal> {
        let start = *self.starts.get(&id).ok_or(Refusal::Gone)?;
        if start.kind == Kind::Start {
            return Ok(self.announce_start(id));
        }
        self.close(id);

        let mut effects = Vec::new();
        if start.kind != Kind::Create {
            effects.push(Effect::Started(process.clone()));
        }
        let exec = start.kind == Kind::Exec;
        if let (false, Some(container)) = (exec, self.containers.get_mut(&start.container)) {
            container.starting = false;
            container.init = Init::Alive(process.clone());
        }
        let running = Running {
            container: start.container,
            exec,
            process,
        };
        match claim {
            Claim::Unreaped => {
                self.running.insert((pid, id), running);
            }
            Claim::Ended(exit) => self.reaped(running, exit, &mut effects),
        }
        Ok(effects)
    }

    /// The runtime's start of a created init succeeded.
    #[must_use]
    pub fn announce_start(&mut self, id: StartId) -> Vec<Effect<P>> {
        self.end(id, true)
    }

    /// A start failed and left no process behind that would be ours to announce. Does nothing
    /// when the start has already ended.
    #[must_use]
    pub fn abandon(&mut self, id: StartId) -> Vec<Effect<P>> {
        self.end(id, false)
    }

    /// Whether births are to be told with exits: a start is in flight that brings up a process.
    pub fn asks_births(&self) -> bool {
        self.starts.values().any(|start| start.kind != Kind::Start)
    }

    /// When this start began.
    pub fn begun(&self, id: StartId) -> Option<Clocks> {
        self.starts.get(&id).map(|start| start.begun)
    }

    /// A child was reaped which is not the monitor's own: a process of a container or a stranger. It was
    /// born then, if that was [asked](Self::asks_births) and could be told.
    #[must_use]
    pub fn exited(&mut self, exit: Exit, born: Option<Moment>) -> Vec<Effect<P>> {
        let mut owners = Vec::new();
        let all = (exit.pid, StartId(0))..=(exit.pid, StartId(u64::MAX));
        while let Some((&key, _)) = self.running.range(all.clone()).next() {
            owners.extend(self.running.remove(&key));
        }
        let ended = Ended { exit, born };
        let mut nameless = false;
        for start in self.starts.values_mut() {
            start.reaped(ended);
            nameless |= start.is_nameless();
        }
        if nameless {
            let seq = self.tick();
            self.log.record(seq, ended);
        }
        // With several owners one of them is right, or all (one sandbox process for many
        // containers); otherwise the older one's exit was missed and is over anyway.
        owners.sort_by_key(|owner| !owner.exec);
        let mut effects = Vec::new();
        for owner in owners {
            self.reaped(owner, exit, &mut effects);
        }
        effects
    }

    /// The time execs had to end after their init is over: init's exit is published without
    /// them; if its own start is still in flight, as soon as that ends.
    #[must_use]
    pub fn drain_expired(&mut self, c: ContainerKey) -> Vec<Effect<P>> {
        let mut effects = Vec::new();
        if let Some(container) = self.containers.get_mut(&c) {
            if let Init::Held { drained, .. } = &mut container.init {
                *drained = true;
            }
            container.release(&mut effects);
        }
        effects
    }

    /// At Delete: nothing of the container remains. Its announced processes that have no exit yet
    /// get their last one here, init's last: the real one if it was held back, otherwise
    /// [`FORGOTTEN_STATUS`] at `now`. Starts in flight find it [`Refusal::Gone`].
    #[must_use]
    pub fn forget(&mut self, c: ContainerKey, now: SystemTime) -> Vec<Effect<P>> {
        let Some(container) = self.containers.remove(&c) else {
            return Vec::new();
        };
        self.starts.retain(|_, start| start.container != c);
        self.trim();

        let mut effects = Vec::new();
        let mut init = match container.init {
            Init::Held { process, exit, .. } => Some(Effect::Exited { process, exit }),
            _ => None,
        };
        self.running.retain(|&(pid, _), running| {
            if running.container != c {
                return true;
            }
            let exited = Effect::Exited {
                process: running.process.clone(),
                exit: Exit {
                    pid,
                    status: FORGOTTEN_STATUS,
                    at: now,
                },
            };
            match running.exec {
                true => effects.push(exited),
                false => init = Some(exited),
            }
            false
        });
        effects.extend(init);
        effects
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn open(&mut self, container: ContainerKey, kind: Kind, begun: Clocks) -> StartId {
        let id = StartId(self.tick());
        if let (true, Some(container)) = (kind != Kind::Exec, self.containers.get_mut(&container)) {
            container.starting = true;
        }
        let start = Start {
            container,
            kind,
            begun,
            named: None,
        };
        self.starts.insert(id, start);
        id
    }

    fn close(&mut self, id: StartId) -> Option<Start> {
        let start = self.starts.remove(&id);
        self.trim();
        start
    }

    /// A start ends without a new process.
    fn end(&mut self, id: StartId, started: bool) -> Vec<Effect<P>> {
        let mut effects = Vec::new();
        let Some(start) = self.close(id) else {
            return effects;
        };
        let Some(container) = self.containers.get_mut(&start.container) else {
            return effects;
        };
        match start.kind {
            Kind::Exec => container.execs -= 1,
            Kind::Create | Kind::Restore => container.starting = false,
            Kind::Start => {
                container.starting = false;
                if let (true, Init::Alive(process) | Init::Held { process, .. }) =
                    (started, &container.init)
                {
                    effects.push(Effect::Started(process.clone()));
                }
            }
        }
        container.release(&mut effects);
        effects
    }

    fn trim(&mut self) {
        let mut starts = self.starts.iter();
        let oldest = starts.find(|(_, start)| start.is_nameless());
        self.log.trim(oldest.map(|(id, _)| id.0));
    }

    /// An announced process is over; it is in the running map no more.
    fn reaped(&mut self, who: Running<P>, exit: Exit, effects: &mut Vec<Effect<P>>) {
        let process = who.process;
        let Some(container) = self.containers.get_mut(&who.container) else {
            return;
        };
        if who.exec {
            effects.push(Effect::Exited { process, exit });
            container.execs -= 1;
        } else {
            container.init = Init::Held {
                process: process.clone(),
                exit,
                drained: false,
            };
            effects.push(Effect::InitReaped {
                container: who.container,
                process,
                exit,
            });
            // No exec begins after this, so that none to wait for now is none ever.
            if container.execs > 0 {
                effects.push(Effect::Hold {
                    container: who.container,
                });
            }
        }
        container.release(effects);
    }
}
