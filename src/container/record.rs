//! When an init's exit is written into its bundle, and when it may be told.
//!
//! Invariant: the record is there before anybody is told of the exit, by an event or an answer, unless the disk
//! does not take it within the limit ([`Limits::record`](crate::limits::Limits)), and then as soon as it does.
//! Writing it holds up nobody but who waits for this exit. Pinned by `tests/faults/told.rs`.
//!
//! In memory ([`Memory`]) it is written at once and without a thread, of which there may be none to be had;
//! elsewhere by one that is not waited for any longer.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use super::Container;
use super::exit_file::{NAME, write};
use crate::awaited::Awaited;
use crate::blocking::blocking;
use crate::errno::Words;
use crate::in_memory::Memory;
use crate::monitor::Exit;

/// After the first try that failed; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Until it is this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What becomes of the record of an init's exit.
#[derive(Debug)]
pub(super) struct Record {
    /// The file system of the bundle, if it is in memory.
    memory: Option<Memory>,
    stage: Awaited<Stage>,
    word: Mutex<Word>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is being done.
    Idle,
    /// It is being written.
    Writing,
    /// It is needed no more.
    Over,
}

/// What may be said of the exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// All there is.
    Free,
    /// Nothing before it is on record.
    Withheld,
    /// Nothing before that; and there is this to be said.
    Due(Exit),
}

impl Word {
    /// Whether this exit, which is to be told, may be. Otherwise it is kept.
    fn lets_tell(&mut self, exit: Exit) -> bool {
        let free = *self == Self::Free;
        if !free {
            *self = Self::Due(exit);
        }
        free
    }

    /// Nothing is withheld any more. What is to be said now.
    fn release(&mut self) -> Option<Exit> {
        match std::mem::replace(self, Self::Free) {
            Self::Due(exit) => Some(exit),
            Self::Free | Self::Withheld => None,
        }
    }
}

impl Record {
    /// The record of a container that has none.
    pub(super) fn in_bundle(bundle: &Path) -> Self {
        Self {
            memory: Memory::of(bundle),
            stage: Awaited::new(Stage::Idle),
            word: Mutex::new(Word::Free),
        }
    }

    /// The tmpfs that the bundle was on when the container was made, if it was on one.
    pub(super) fn memory(&self) -> Option<Memory> {
        self.memory
    }

    fn word(&self) -> MutexGuard<'_, Word> {
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an exit that is to be told may be. If not, [`release`](Self::release) brings it.
    pub(super) fn lets_tell(&self, exit: Exit) -> bool {
        self.word().lets_tell(exit)
    }

    /// It is written, or not waited for any more: the exit that was withheld for that.
    pub(super) fn release(&self) -> Option<Exit> {
        self.word().release()
    }

    /// Goes on to `stage`, unless it is over.
    fn comes_to(&self, stage: Stage) -> bool {
        self.stage.change(|now| {
            let goes_on = *now != Stage::Over;
            if goes_on {
                *now = stage;
            }
            goes_on
        })
    }
}

impl Container {
    /// Init has been reaped. Its exit is written down, at once where that takes no waiting; else it is
    /// withheld until it is, or for the limit, while it is written beside everything else.
    pub(super) fn record_exit(self: &Arc<Self>, exit: Exit) {
        if self.is_in_memory() {
            match write(&self.bundle, exit) {
                Ok(()) => return,
                Err(e) => self.complain(&e),
            }
        }
        *self.record.word() = Word::Withheld;
        let me = Arc::clone(self);
        self.spawn(async move {
            let mut written = pin!(me.write_until_it_is(exit));
            if timeout(me.shared.limits.record, written.as_mut())
                .await
                .is_err()
            {
                me.shared.tracker.recorded(&me);
                written.await;
            }
            me.shared.tracker.recorded(&me);
        });
    }

    fn is_in_memory(&self) -> bool {
        let memory = self.record.memory;
        memory.is_some_and(|memory| memory.holds(&self.bundle))
    }

    /// Tries again and again, for as long as there are bundle and container.
    async fn write_until_it_is(&self, exit: Exit) {
        let mut pause = FIRST_PAUSE;
        let mut complained = self.is_in_memory();
        while self.record.comes_to(Stage::Writing) {
            let written = self.try_to_write(exit).await;
            self.record.comes_to(Stage::Idle);
            match written {
                Ok(()) => return,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return,
                Err(e) if !complained => self.complain(&e),
                Err(_) => {}
            }
            complained = true;
            let over = self.record.stage.wait_for(|stage| stage == Stage::Over);
            let _ = timeout(pause, over).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    async fn try_to_write(&self, exit: Exit) -> io::Result<()> {
        if self.is_in_memory() {
            return write(&self.bundle, exit);
        }
        let bundle = self.bundle.clone();
        let written = blocking("exit status", move || write(&bundle, exit)).await;
        written.unwrap_or_else(|e| Err(io::Error::other(e.to_string())))
    }

    fn complain(&self, why: &io::Error) {
        let path = self.bundle.join(NAME);
        log::warn!(
            "container {}: its exit status is not kept yet: write {}: {why}",
            self.id,
            path.display(),
            why = why.words()
        );
    }

    /// Has nothing more written, and waits until nothing is being written, or for the limit: whoever asked
    /// for the Delete is about to remove the bundle.
    pub(super) async fn end_record(&self) {
        let idle = |stage| stage != Stage::Writing;
        let idle = self.record.stage.wait_for(idle);
        if timeout(self.shared.limits.bundle, idle).await.is_err() {
            log::warn!(
                "container {}: writing {NAME} into {} hangs",
                self.id,
                self.bundle.display()
            );
        }
        self.record.stage.set(Stage::Over);
        self.shared.tracker.recorded(self);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_word_is_given_once_and_not_before_its_time() {
        let exit = Exit {
            pid: 7,
            status: 1,
            at: SystemTime::UNIX_EPOCH,
        };
        let mut word = Word::Free;
        assert!(word.lets_tell(exit));
        assert_eq!(word.release(), None);
        // The record first, then the word.
        word = Word::Withheld;
        assert_eq!(word.release(), None);
        assert!(word.lets_tell(exit));
        // The other way round.
        word = Word::Withheld;
        assert!(!word.lets_tell(exit));
        assert_eq!([word.release(), word.release()], [Some(exit), None]);
    }
}
