//! What the lifecycle knows of one container, and when its init's exit may be published.
//!
//! Invariant: an init's exit is published once, when no start of it is in flight and no exec is
//! left to wait for or the wait for them ran out.

use super::{Effect, Refusal};
use crate::monitor::Exit;

#[derive(Clone, Debug)]
pub(super) struct Container<P> {
    pub(super) init: Init<P>,
    /// A create, start or restore of init is in flight.
    pub(super) starting: bool,
    /// Execs in flight or running.
    pub(super) execs: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Init<P> {
    /// Not announced.
    Absent,
    /// In the running map.
    Alive(P),
    /// Reaped, not published.
    Held {
        process: P,
        exit: Exit,
        /// Execs are waited for no more.
        drained: bool,
    },
    /// Reaped and published.
    Published(Exit),
}

impl<P: Clone> Container<P> {
    pub(super) fn new() -> Self {
        Self {
            init: Init::Absent,
            starting: false,
            execs: 0,
        }
    }

    /// Whether a start of init may begin now.
    pub(super) fn check_startable(&self) -> Result<(), Refusal> {
        match self.init.exit() {
            _ if self.starting => Err(Refusal::Busy),
            Some(_) => Err(Refusal::InitExited),
            None => Ok(()),
        }
    }

    /// Publishes init's exit if it is held and nothing is left to wait for.
    pub(super) fn release(&mut self, effects: &mut Vec<Effect<P>>) {
        if let Init::Held {
            process,
            exit,
            drained,
        } = &self.init
            && !self.starting
            && (self.execs == 0 || *drained)
        {
            let (process, exit) = (process.clone(), *exit);
            effects.push(Effect::Exited { process, exit });
            self.init = Init::Published(exit);
        }
    }
}

impl<P> Init<P> {
    /// Its exit, from the reap on.
    pub(super) fn exit(&self) -> Option<Exit> {
        match self {
            Init::Absent | Init::Alive(_) => None,
            Init::Held { exit, .. } | Init::Published(exit) => Some(*exit),
        }
    }
}
