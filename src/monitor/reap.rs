//! The reap loop: what is known first, then strangers.
//!
//! Invariant: a pid is let go only when it is known whose exit it is, and everybody else on the thread
//! has a turn after each of the loop's.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard, Weak};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};

use crate::errno::Words;

use super::others::Others;
use super::share::{Share, Spell};
use super::strangers::Strangers;
use super::wait::{Waited, Which, look_for, wait_for};
use super::{Exit, Moment, Pid, Shared, Table};

pub(super) async fn reap_loop(
    mut signals: tokio::net::UnixStream,
    again: Arc<Notify>,
    shared: Weak<Shared>,
    mut others: impl Others,
) {
    let mut buffer = [0; 64];
    // Before the first read too: children may have ended before the handler was in place.
    let mut strangers = Strangers::new();
    let mut known = Share::new(Instant::now());
    loop {
        let Some(alive) = shared.upgrade() else {
            return;
        };
        let spell = Spell::begin();
        alive.reap_known(&mut others);
        let pause = known.used(spell.begun, spell.ended());
        strangers.turn(&alive, &mut others);
        drop(alive);
        // Others have their turn after each of this, whatever comes in.
        match pause {
            Duration::ZERO => tokio::task::yield_now().await,
            // So many are known that one look at all of them takes long.
            pause => sleep(pause).await,
        }
        let due = async {
            match strangers.due() {
                // Not by the timer, which is no finer than a millisecond.
                Some(due) if due <= Instant::now() => {}
                Some(due) => sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let read = tokio::select! {
            read = signals.read(&mut buffer) => read,
            () = again.notified() => {
                strangers.look();
                continue;
            }
            () = due => continue,
        };
        match read {
            Ok(0) => return,
            Ok(_) => strangers.look(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                let e = e.words();
                return log::error!("read the SIGCHLD pipe: {e}; no exit is seen any more");
            }
        }
    }
}

impl Table {
    /// Reaps one of these that has ended. When it was `born`, if that is asked for, is settled while it still
    /// has its pid.
    fn reap(
        &self,
        which: Which,
        options: libc::c_int,
        births: bool,
    ) -> Waited<(Exit, Option<Moment>)> {
        if !births {
            return match wait_for(which, options) {
                Waited::Ended(exit) => Waited::Ended((exit, None)),
                Waited::Running => Waited::Running,
                Waited::None => Waited::None,
            };
        }
        loop {
            let pid = match look_for(which, options) {
                Waited::Ended(pid) => pid,
                Waited::Running => return Waited::Running,
                Waited::None => return Waited::None,
            };
            let ours = self.children.contains_key(&pid);
            let born = if ours { None } else { Moment::born(pid) };
            if let Some(exit) = wait_for(Which::One(pid), 0).ended() {
                return Waited::Ended((exit, born));
            }
            // Whoever holds it by a pidfd was first. Others may have ended, too.
        }
    }

    /// Which children the loop may wait for now without knowing their pids. One that is being
    /// started elsewhere is a child of the thread that starts it.
    fn certain(&self) -> libc::c_int {
        match self.starting {
            0 => 0,
            _ => libc::__WNOTHREAD,
        }
    }
}

impl Shared {
    /// Reaps what has ended of what is known here. It costs nothing per stranger.
    fn reap_known(&self, others: &mut impl Others) {
        let births = others.ask_births();
        let table = self.lock();
        let known = table.children.keys().chain(&table.expected);
        let known: Vec<Pid> = known.copied().collect();
        drop(table);
        for pid in known {
            let mut table = self.lock();
            match table.reap(Which::One(pid), 0, births) {
                Waited::Ended(ended) => self.tell(ended, table, others),
                Waited::Running => {}
                Waited::None => {
                    table.expected.remove(&pid);
                }
            }
        }
    }

    /// Reaps one child that has ended, whichever it is. False if there is none whose exit's owner is
    /// certain.
    pub(super) fn reap_any(&self, others: &mut impl Others) -> bool {
        let births = others.ask_births();
        let mut table = self.lock();
        match table.reap(Which::Any, table.certain(), births).ended() {
            Some(ended) => {
                self.tell(ended, table, others);
                true
            }
            None => {
                table.looked_meanwhile = table.starting > 0;
                false
            }
        }
    }

    /// Reaps a child that was in the list of children, if it has ended.
    pub(super) fn reap_listed(&self, pid: Pid, others: &mut impl Others) -> bool {
        let births = others.ask_births();
        let table = self.lock();
        let ended = table.reap(Which::One(pid), table.certain(), births).ended();
        let reaped = ended.is_some();
        if let Some(ended) = ended {
            self.tell(ended, table, others);
        }
        reaped
    }

    /// Hands an exit to its owner, without the lock.
    fn tell(
        &self,
        (exit, born): (Exit, Option<Moment>),
        mut table: MutexGuard<'_, Table>,
        others: &mut impl Others,
    ) {
        table.expected.remove(&exit.pid);
        let owner = table.children.remove(&exit.pid);
        drop(table);
        match owner {
            Some(entry) => {
                // No receiver: the handle was dropped, and the exit is forgotten with it.
                let _ = entry.exit.send(exit);
            }
            // A panic in the callback must not end the reaping.
            None if catch_unwind(AssertUnwindSafe(|| others.ended(exit, born))).is_err() => {
                log::error!("handler for the exit of pid {} panicked", exit.pid);
            }
            None => {}
        }
    }
}
