//! Reaping children that nobody here has asked for, however many there are and however fast they die.
//!
//! Invariant: one turn is short, the turns have a [`Share`] of the thread, and in the end all are
//! reaped. Pinned by `tests/monitor.rs` and `tests/hostile/orphans.rs`.
//!
//! `waitpid(-1)` goes through all children, those that live and stand before the dead ones too. So
//! where a single one takes long, the list of children is read once instead, and each is then waited
//! for by its pid: that has one cost for all that have died meanwhile, and each step is a short one.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use super::others::Others;
use super::share::{SLICE, Share, Spell};
use super::{Pid, Shared};

/// Children reaped in one turn, at the most.
pub(super) const MOST: usize = 32;
/// What a `waitpid(-1)` may take before the list is read instead.
const WALK: Duration = Duration::from_micros(200);
/// Below this, walks are as good.
const FEW: usize = 256;

/// The work that is left.
pub(super) struct Strangers {
    share: Share,
    /// When the next turn is due; none when there is nothing to do.
    due: Option<Instant>,
    /// Something may have ended since the pass over all children began that is under way.
    again: bool,
    pass: Pass,
}

/// How all children are gone through.
enum Pass {
    Walk,
    Scan(Scan),
}

/// What a slice of a pass came to.
enum Sliced {
    /// There is none any more that had ended when it began.
    Done,
    /// The next pass is to be of this kind.
    Next(Pass),
    Unfinished,
}

impl Strangers {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            share: Share::new(now),
            due: Some(now),
            again: false,
            pass: Pass::Walk,
        }
    }

    /// Some may have ended.
    pub(super) fn look(&mut self) {
        self.again = true;
        self.due.get_or_insert_with(Instant::now);
    }

    /// When to come back.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// One turn, if it is time for one.
    pub(super) fn turn(&mut self, shared: &Shared, others: &mut impl Others) {
        let spell = Spell::begin();
        let begun = spell.begun;
        if self.due.is_none_or(|due| due > begun) {
            return;
        }
        let sliced = match &mut self.pass {
            Pass::Walk => {
                // It begins anew with each call.
                self.again = false;
                walk(shared, others, begun + SLICE)
            }
            Pass::Scan(scan) => scan.slice(shared, others, begun + SLICE),
        };
        let more = match sliced {
            Sliced::Unfinished => true,
            Sliced::Next(pass) => {
                self.pass = pass;
                self.again = false;
                true
            }
            Sliced::Done => {
                self.pass = Pass::Walk;
                std::mem::take(&mut self.again)
            }
        };
        let ended = spell.ended();
        let pause = self.share.used(begun, ended);
        self.due = more.then(|| ended + pause);
    }
}

/// Reaps as `waitpid(-1)` finds them.
fn walk(shared: &Shared, others: &mut impl Others, until: Instant) -> Sliced {
    for _ in 0..MOST {
        let begun = Instant::now();
        if begun >= until {
            break;
        }
        if !shared.reap_any(others) {
            return Sliced::Done;
        }
        if begun.elapsed() > WALK {
            return Sliced::Next(Scan::begin().map_or(Pass::Walk, Pass::Scan));
        }
    }
    Sliced::Unfinished
}

/// All children as they were listed at one time, each to be waited for by its pid.
struct Scan {
    /// Until it is read to its end.
    list: Option<File>,
    /// The digits read last, if they may go on.
    digits: Option<Pid>,
    pids: Vec<Pid>,
    next: usize,
    reaped: bool,
}

impl Scan {
    /// None where the kernel has no such list.
    fn begin() -> Option<Self> {
        let first = std::process::id();
        let list = File::open(format!("/proc/self/task/{first}/children")).ok()?;
        Some(Self {
            list: Some(list),
            digits: None,
            pids: Vec::new(),
            next: 0,
            reaped: false,
        })
    }

    fn slice(&mut self, shared: &Shared, others: &mut impl Others, until: Instant) -> Sliced {
        let mut reaped = 0;
        while reaped < MOST && Instant::now() < until {
            if self.list.is_some() {
                self.read_on();
            } else if let Some(&pid) = self.pids.get(self.next) {
                self.next += 1;
                reaped += usize::from(shared.reap_listed(pid, others));
            } else {
                return Sliced::Next(self.after());
            }
            self.reaped |= reaped > 0;
        }
        Sliced::Unfinished
    }

    /// While many die there are more by now. Otherwise a walk makes sure: it sees the children of all
    /// threads, this is the list of one.
    fn after(&self) -> Pass {
        match self.reaped && self.pids.len() >= FEW {
            true => Self::begin().map_or(Pass::Walk, Pass::Scan),
            false => Pass::Walk,
        }
    }

    /// One page at a time, as the kernel fills them.
    fn read_on(&mut self) {
        let mut page = [0; 4096];
        let read = match self.list.as_mut().map(|list| list.read(&mut page)) {
            Some(Ok(read)) if read > 0 => read,
            // Those behind an error are found by the next pass.
            _ => {
                self.list = None;
                0
            }
        };
        self.take(&page[..read]);
    }

    fn take(&mut self, text: &[u8]) {
        for &byte in text {
            match byte {
                b'0'..=b'9' => {
                    let before = self.digits.unwrap_or(0);
                    let digit = Pid::from(byte - b'0');
                    self.digits = Some(before.saturating_mul(10).saturating_add(digit));
                }
                _ => self.pids.extend(self.digits.take()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_in_pieces() {
        let mut scan = Scan::begin().unwrap();
        for piece in ["1 2", "2 ", "333 4", "", "4 5 ", "99999999999999 "] {
            scan.take(piece.as_bytes());
        }
        assert_eq!(scan.pids, [1, 22, 333, 44, 5, Pid::MAX]);
    }
}
