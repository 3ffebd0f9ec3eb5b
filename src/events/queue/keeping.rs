//! What publisher and keeper say to each other: whether the manager answers, what has come and gone, and what of
//! that is in the files.
//!
//! Invariant: neither waits for the other in vain. A change of the queue wakes a keeper that wants to know of it,
//! a change of the files whoever waits for that; and nobody does once writing fails.

use std::sync::atomic::Ordering;

use super::withheld::{Withheld, Word};
use super::{Entry, Queue, say};

impl Queue {
    /// Says whether the manager leaves events unanswered.
    pub(in crate::events) fn unanswered(&self, unanswered: bool) {
        if self.0.unanswered.swap(unanswered, Ordering::Relaxed) != unanswered && unanswered {
            self.change(|withheld| withheld.outage(true));
            self.0.changed.notify_one();
        }
    }

    pub(in crate::events) fn is_unanswered(&self) -> bool {
        self.0.unanswered.load(Ordering::Relaxed)
    }

    /// Waits until events are left unanswered or, while [`watch`](Self::watch)ed, until the queue has
    /// changed.
    pub(in crate::events) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    pub(in crate::events) fn watch(&self, watched: bool) {
        self.0.watched.store(watched, Ordering::Relaxed);
    }

    /// Whether there is a keeper.
    pub(in crate::events) fn has_keeper(&self, keeper: bool) {
        self.change(|withheld| withheld.has_keeper(keeper));
    }

    /// The keeper has nothing more to keep.
    pub(in crate::events) fn nothing_is_kept(&self) {
        self.change(|withheld| withheld.outage(false));
    }

    /// Whether the keeper cannot write.
    pub(in crate::events) fn keeping_fails(&self, fails: bool) {
        self.change(|withheld| withheld.failing(fails));
    }

    /// The keeper has looked at all before `written`, and its files know that what came before `settled` has
    /// left.
    pub(in crate::events) fn kept(&self, written: u64, settled: u64) {
        self.change(|withheld| withheld.kept(written, settled));
    }

    fn change(&self, change: impl FnOnce(&mut Withheld) -> Vec<Word>) {
        let words = change(&mut self.lock().withheld);
        say(words);
        self.0.kept.notify_waiters();
    }

    /// The place that the next event will have.
    pub(in crate::events) fn end(&self) -> u64 {
        self.lock().next
    }

    /// The head's place, and the events from `seq` on, up to about so many bytes.
    pub(in crate::events) fn from(&self, seq: u64, bytes: usize) -> (Option<u64>, Vec<Entry>) {
        let inner = self.lock();
        let mut room = bytes;
        let fits = |(_, entry): &(&u64, &Entry)| {
            let fits = room > 0;
            room = room.saturating_sub(entry.cost());
            fits
        };
        let entries = inner.entries.range(seq..).take_while(fits);
        let entries = entries.map(|(_, entry)| entry.clone()).collect();
        (inner.head().map(|head| head.seq), entries)
    }

    /// Waits until the files of the keeper, if there is anything in them, say that event `seq` has left: the
    /// `delete` action would tell it once more.
    pub(in crate::events) async fn forgotten(&self, seq: u64) {
        loop {
            let kept = self.0.kept.notified();
            tokio::pin!(kept);
            kept.as_mut().enable();
            if !self.lock().withheld.may_be_told_again(seq) {
                return;
            }
            kept.await;
        }
    }
}
