//! A start in flight, and which exit is its process's.
//!
//! Invariant: of all that had the number which the runtime names, it is the one that was born between
//! the beginning of the start and the naming, and the last of them: the kernel gives a number again only
//! when its owner is reaped, and a runtime names what it has just made. (Assumed: between the death of
//! a process that nobody has named yet and the writing of its name, the numbers do not come round.)
//!
//! Births are told by the kernel's own clock; the moment of the naming only by the time of a file, whose
//! disk may have another. So where there is but one candidate, and none can have been missed, the
//! naming is not asked when it was.

use super::ContainerKey;
use super::log::{Ended, ExitLog};
use crate::monitor::{Clocks, Exit, Moment, Pid};

#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) container: ContainerKey,
    pub(super) kind: Kind,
    pub(super) begun: Clocks,
    pub(super) named: Option<Named>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Init appears, not started yet.
    Create,
    /// Init is known from its create.
    Start,
    /// Init appears started.
    Restore,
    /// An exec appears started.
    Exec,
}

/// What the runtime says, and which exit is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    pub(super) pid: Pid,
    /// Not born later than this.
    latest: Moment,
    ended: Option<Ended>,
    /// An exit may have been missed.
    lossy: bool,
}

/// A process that has the number now and is not reaped: its birth, if that can be told.
pub(super) type Unreaped = Option<Moment>;

/// Whose the number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The process that has it now.
    Unreaped,
    /// The one that ended so.
    Ended(Exit),
}

impl Start {
    /// Whether it brings up a process, which has no name yet.
    pub(super) fn is_nameless(&self) -> bool {
        self.kind != Kind::Start && self.named.is_none()
    }

    /// The runtime says its process's pid. What was recorded is looked through; where it takes back what it
    /// said before, an exit may not have been recorded.
    pub(super) fn name(&mut self, since: u64, pid: Pid, latest: Moment, log: &ExitLog) {
        let mut named = Named {
            pid,
            latest,
            ended: None,
            lossy: log.has_lost(since) || self.named.is_some(),
        };
        log.of(since, pid)
            .for_each(|ended| named.take(ended, self.begun.boot));
        self.named = Some(named);
    }

    /// A process was reaped.
    pub(super) fn reaped(&mut self, ended: Ended) {
        let begun = self.begun.boot;
        if let Some(named) = self.named.as_mut().filter(|n| n.pid == ended.exit.pid) {
            named.take(ended, begun);
        }
    }
}

impl Named {
    /// Takes the exit if it is the process's rather than what it has: of what ends later, the birth is
    /// later.
    fn take(&mut self, ended: Ended, begun: Moment) {
        let late_enough = ended.born.is_none_or(|born| born >= begun);
        if late_enough && (self.ended.is_none() || self.fits(ended.born)) {
            self.ended = Some(ended);
        }
    }

    fn fits(&self, born: Option<Moment>) -> bool {
        born.is_none_or(|born| born <= self.latest)
    }

    /// Whose the number is; none if nobody's that the start can have made.
    pub(super) fn claim(&self, unreaped: Option<Unreaped>, begun: Moment) -> Option<Claim> {
        let unreaped = unreaped.filter(|born| born.is_none_or(|born| born >= begun));
        let alone = !self.lossy && self.ended.is_none();
        if unreaped.is_some_and(|born| alone || self.fits(born)) {
            return Some(Claim::Unreaped);
        }
        let ended = self.ended?;
        (!self.lossy || self.fits(ended.born)).then_some(Claim::Ended(ended.exit))
    }

    /// Its exit, if it is known.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.ended.map(|ended| ended.exit)
    }
}
