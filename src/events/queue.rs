//! The one queue in which every event gets its place.
//!
//! Invariant: the head is the oldest event that has not been settled; events leave in the order in
//! which they came; [`Queue::push`] never waits; an exit is never dropped. Pinned by the tests
//! beside this file.
//!
//! # Memory
//! The queue holds at most [`MAX_EVENTS`] events and [`MAX_BYTES`] bytes, some hours of an exec
//! probe every two seconds. Above either, one event goes for each that comes, and is counted
//! and logged: first the oldest of what managers can do without (exec added and started, paused,
//! resumed, checkpointed), then the oldest create, start, OOM or delete. Exits stay: what they
//! take is bounded by the number of processes started, below 0.5 KiB each, and a queue of exits
//! only goes on growing. The head stays too, as it may be on its way to the manager.

mod keeping;
mod report;
mod withheld;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use self::withheld::{Withheld, Word};
use super::event::{Event, Rank};

/// The most events held, exits apart.
pub const MAX_EVENTS: usize = 64 * 1024;
/// The most bytes held, exits apart.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;
/// The largest event taken, in bytes: ttrpc's 4 MiB, less room for envelope and request.
pub const MAX_PAYLOAD: usize = (4 << 20) - (64 << 10);
/// What an entry costs besides its payload and its container's id: the struct, its share of a
/// tree node and of the index, and the allocator's part (measured with 30,000 exits, glibc).
const ENTRY_COST: usize = 260;

/// An event as it goes out.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its place; grows by one with every push.
    pub(super) seq: u64,
    /// When it was pushed, which is when it happened.
    pub(super) time: SystemTime,
    pub(super) topic: &'static str,
    pub(super) type_name: &'static str,
    pub(super) rank: Rank,
    pub(super) container: Arc<str>,
    pub(super) payload: Arc<[u8]>,
}

impl Entry {
    fn cost(&self) -> usize {
        ENTRY_COST + self.payload.len() + self.container.len()
    }
}

/// A handle on the queue; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// A permit for the one publisher: there may be a head.
    pushed: Notify,
    /// Wakes those who wait for the queue to be empty.
    emptied: Notify,
    /// The manager does not answer.
    unanswered: AtomicBool,
    /// Told when files may be up to date.
    kept: Notify,
    /// The one keeper wants to know of every change.
    watched: AtomicBool,
    /// A permit for the keeper.
    changed: Notify,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner::new(MAX_EVENTS, MAX_BYTES)),
            pushed: Notify::new(),
            emptied: Notify::new(),
            unanswered: AtomicBool::new(false),
            kept: Notify::new(),
            watched: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }
}

/// The queue itself: pure, so that its policy is tested without a publisher.
#[derive(Debug)]
pub(super) struct Inner {
    entries: BTreeMap<u64, Entry>,
    /// The places of those that may be dropped, oldest first, by rank.
    droppable: [VecDeque<u64>; Rank::DROPPABLE],
    bytes: usize,
    next: u64,
    dropped: u64,
    max_events: usize,
    max_bytes: usize,
    withheld: Withheld,
}

impl Inner {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            droppable: Default::default(),
            bytes: 0,
            next: 0,
            dropped: 0,
            max_events,
            max_bytes,
            withheld: Withheld::default(),
        }
    }

    pub(super) fn push(&mut self, mut entry: Entry) {
        entry.seq = self.next;
        self.next += 1;
        self.bytes += entry.cost();
        if let Some(places) = self.droppable.get_mut(entry.rank as usize) {
            places.push_back(entry.seq);
        }
        self.entries.insert(entry.seq, entry);
        while self.entries.len() > self.max_events || self.bytes > self.max_bytes {
            if !self.drop_one() {
                break;
            }
        }
    }

    pub(super) fn head(&self) -> Option<&Entry> {
        self.entries.first_key_value().map(|(_, entry)| entry)
    }

    /// Takes out the head if it is `seq`: delivered, or refused for good.
    pub(super) fn settle(&mut self, seq: u64) {
        if self.head().is_some_and(|head| head.seq == seq) {
            self.remove(seq);
        }
        if self.entries.is_empty() {
            self.droppable = Default::default(); // gives a burst's memory back
        }
    }

    fn drop_one(&mut self) -> bool {
        let head = self.head().map(|head| head.seq);
        let victim = self
            .droppable
            .iter()
            .find_map(|places| places.iter().copied().find(|place| Some(*place) != head));
        let Some(entry) = victim.and_then(|seq| self.remove(seq)) else {
            return false;
        };
        self.dropped += 1;
        if self.dropped.is_power_of_two() {
            log::error!(
                "event queue is full ({} events, {} bytes): dropped {} of container {}, {} dropped so far",
                self.entries.len(),
                self.bytes,
                entry.topic,
                entry.container,
                self.dropped
            );
        }
        true
    }

    fn remove(&mut self, seq: u64) -> Option<Entry> {
        let entry = self.entries.remove(&seq)?;
        self.bytes -= entry.cost();
        if let Some(places) = self.droppable.get_mut(entry.rank as usize)
            && let Ok(at) = places.binary_search(&seq)
        {
            places.remove(at); // at the front or next to it: cheap
        }
        Some(entry)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Shared {
    fn tell_keeper(&self) {
        if self.watched.load(Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an event, stamped with the present time. Never blocks and never awaits, so it is
    /// called in the step that changes the state, under the lock that guards it.
    ///
    /// An event larger than [`MAX_PAYLOAD`] could never leave and is dropped here; an exit is a
    /// few hundred bytes.
    pub fn push(&self, event: Event) {
        self.push_at(event, SystemTime::now());
    }

    /// As [`push`](Self::push), and has `word` said once the event cannot be lost with this process: at once
    /// while the manager answers, else when it is kept. In any case this process says it in the end.
    pub fn push_then(&self, event: Event, word: impl FnOnce() + Send + 'static) {
        let place = self.push_in(event, SystemTime::now());
        let word: Word = Box::new(word);
        let word = match place {
            Some(seq) => self.lock().withheld.add(seq, word),
            None => Some(word),
        };
        say(word);
        self.0.tell_keeper();
    }

    /// Appends an event that happened at the time given.
    pub fn push_at(&self, event: Event, time: SystemTime) {
        self.push_in(event, time);
        self.0.tell_keeper();
    }

    /// The place of the event, if it has one.
    fn push_in(&self, event: Event, time: SystemTime) -> Option<u64> {
        let container: Arc<str> = event.container().into();
        let payload = match event.encode() {
            Ok(payload) if payload.len() <= MAX_PAYLOAD => payload,
            unsendable => {
                log::error!(
                    "dropped {} of container {container}: {}",
                    event.topic(),
                    match unsendable {
                        Ok(payload) => format!("{} bytes do not fit a message", payload.len()),
                        Err(why) => why.to_string(),
                    }
                );
                self.lock().dropped += 1;
                return None;
            }
        };
        let mut inner = self.lock();
        let place = inner.next;
        inner.push(Entry {
            seq: 0,
            time,
            topic: event.topic(),
            type_name: event.type_name(),
            rank: event.rank(),
            container,
            payload: payload.into(),
        });
        drop(inner);
        self.0.pushed.notify_one();
        Some(place)
    }

    /// How many events wait, the one on its way included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how many bytes of memory the waiting events take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// How many events were dropped because the queue was full or they were larger than
    /// [`MAX_PAYLOAD`].
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Waits for a head and copies it out; it keeps its place until settled. One caller at a time.
    pub(super) async fn head(&self) -> Entry {
        loop {
            if let Some(head) = self.lock().head() {
                return head.clone();
            }
            self.0.pushed.notified().await;
        }
    }

    /// Takes out the head if it is still `seq`.
    pub(super) fn settle(&self, seq: u64) {
        let mut inner = self.lock();
        inner.settle(seq);
        let empty = inner.entries.is_empty();
        let words = inner.withheld.taken(seq);
        drop(inner);
        say(words);
        if empty {
            self.0.emptied.notify_waiters();
        }
        self.0.tell_keeper();
    }

    /// Waits until nothing waits.
    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without the lock: a word may push.
fn say(words: impl IntoIterator<Item = Word>) {
    words.into_iter().for_each(|word| word());
}

#[cfg(test)]
mod tests;
