//! What is not said before the event that belongs to it is kept.
//!
//! Invariant: everything is said once, in the order of the events, and not before its event is in a file or
//! with the manager, while there is a keeper that writes and no manager that takes events; else at once.
//! Pure: it says what is to be said, its caller says it. Pinned by the tests beside the queue and by
//! `tests/faults/told_away.rs`.

use std::collections::VecDeque;
use std::fmt;

/// Something to be said.
pub(super) type Word = Box<dyn FnOnce() + Send>;

/// The words that wait, and for what.
#[derive(Default)]
pub(super) struct Withheld {
    /// There is somebody who writes.
    keeper: bool,
    /// From when the manager stopped answering until the keeper has nothing more to keep.
    outage: bool,
    /// Writing fails, or hangs: nobody waits for it.
    failing: bool,
    /// The files hold all that waits of the events before this.
    written: u64,
    /// The files say that those before this are settled.
    settled: u64,
    words: VecDeque<(u64, Word)>,
}

impl fmt::Debug for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let withheld = f.debug_struct("Withheld");
        let mut withheld = withheld;
        withheld
            .field("outage", &self.outage)
            .field("failing", &self.failing)
            .field("words", &self.words.len())
            .finish_non_exhaustive()
    }
}

impl Withheld {
    fn waits(&self) -> bool {
        self.keeper && self.outage && !self.failing
    }

    /// A word about event `seq`, the newest; given back if it may be said.
    pub(super) fn add(&mut self, seq: u64, word: Word) -> Option<Word> {
        if !self.waits() || seq < self.written {
            return Some(word);
        }
        self.words.push_back((seq, word));
        None
    }

    /// Whether there is a keeper.
    pub(super) fn has_keeper(&mut self, keeper: bool) -> Vec<Word> {
        self.keeper = keeper;
        self.due()
    }

    /// Whether no manager takes events, or there is something left of such a time.
    pub(super) fn outage(&mut self, outage: bool) -> Vec<Word> {
        self.outage = outage;
        self.due()
    }

    /// Whether nothing can be written.
    pub(super) fn failing(&mut self, failing: bool) -> Vec<Word> {
        self.failing = failing;
        self.due()
    }

    /// What the files hold by now.
    pub(super) fn kept(&mut self, written: u64, settled: u64) -> Vec<Word> {
        self.written = self.written.max(written);
        self.settled = self.settled.max(settled);
        self.due()
    }

    /// Event `seq` is with the manager.
    pub(super) fn taken(&mut self, seq: u64) -> Vec<Word> {
        self.written = self.written.max(seq + 1);
        self.due()
    }

    /// Whether the files may still hold event `seq`, which is with the manager, as one that is not.
    pub(super) fn may_be_told_again(&self, seq: u64) -> bool {
        self.waits() && self.settled <= seq
    }

    /// How many words wait.
    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    fn due(&mut self) -> Vec<Word> {
        let due = match self.waits() {
            true => self.words.partition_point(|(seq, _)| *seq < self.written),
            false => self.words.len(),
        };
        let due = self.words.drain(..due).map(|(_, word)| word).collect();
        if self.words.is_empty() {
            self.words = VecDeque::new(); // gives a burst's memory back
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Add,
        Keeper(bool),
        Outage(bool),
        Failing(bool),
        /// Of those added, so many eighths.
        Kept(u64),
        Taken(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => Just(Step::Add),
            1 => any::<bool>().prop_map(Step::Keeper),
            1 => any::<bool>().prop_map(Step::Outage),
            1 => any::<bool>().prop_map(Step::Failing),
            3 => (0..=8_u64).prop_map(Step::Kept),
            3 => (0..8_u64).prop_map(Step::Taken),
        ]
    }

    proptest! {
        /// Against a model that remembers of each event whether it is safe.
        #[test]
        fn each_word_is_said_once_in_order_and_when_it_is_safe(
            steps in prop::collection::vec(step(), 0..200)
        ) {
            let said = Arc::new(Mutex::new(Vec::new()));
            let mut withheld = Withheld::default();
            let (mut keeper, mut outage, mut failing) = (false, false, false);
            let (mut next, mut safe) = (0_u64, 0_u64);
            for step in steps {
                let words = match step {
                    Step::Add => {
                        let (seq, said) = (next, Arc::clone(&said));
                        next += 1;
                        let word = Box::new(move || said.lock().unwrap().push(seq));
                        withheld.add(seq, word).into_iter().collect()
                    }
                    Step::Keeper(is) => { keeper = is; withheld.has_keeper(is) }
                    Step::Outage(is) => { outage = is; withheld.outage(is) }
                    Step::Failing(is) => { failing = is; withheld.failing(is) }
                    Step::Kept(part) => {
                        safe = safe.max(next * part / 8);
                        withheld.kept(next * part / 8, 0)
                    }
                    Step::Taken(part) => {
                        safe = safe.max(next * part / 8 + 1);
                        withheld.taken(next * part / 8)
                    }
                };
                words.into_iter().for_each(|word| word());
                if !(keeper && outage && !failing) {
                    // All have been said, and nothing is unsaid again.
                    prop_assert_eq!(said.lock().unwrap().len() as u64, next);
                }
                let said = said.lock().unwrap();
                prop_assert!(said.iter().copied().eq(0..said.len() as u64), "{said:?}");
                prop_assert!(said.len() as u64 >= safe.min(next), "all that is safe is said");
                prop_assert_eq!(withheld.len() as u64, next - said.len() as u64);
            }
        }
    }

    #[test]
    fn in_an_outage_a_word_waits_for_its_file() {
        let mut withheld = Withheld::default();
        let word = || -> Word { Box::new(|| ()) };
        assert!(withheld.add(0, word()).is_some(), "the manager answers");
        withheld.has_keeper(true);
        withheld.outage(true);
        assert!(withheld.add(1, word()).is_none());
        assert!(withheld.add(2, word()).is_none());
        assert_eq!(withheld.kept(1, 0).len(), 0);
        assert_eq!(withheld.kept(2, 0).len(), 1);
        assert!(withheld.may_be_told_again(0));
        assert_eq!(withheld.taken(2).len(), 1);
        assert!(withheld.may_be_told_again(2), "the files do not know");
        assert_eq!(withheld.kept(3, 3).len(), 0);
        assert!(!withheld.may_be_told_again(2));
        assert!(withheld.add(3, word()).is_none());
        assert_eq!(
            withheld.failing(true).len(),
            1,
            "nobody waits for a dead disk"
        );
        assert!(withheld.add(4, word()).is_some());
        assert!(!withheld.may_be_told_again(4));
        withheld.failing(false);
        assert!(withheld.add(5, word()).is_none());
        assert_eq!(withheld.outage(false).len(), 1);
        assert!(withheld.add(6, word()).is_some());
    }
}
