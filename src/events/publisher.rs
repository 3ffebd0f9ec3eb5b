//! Moves the queue's head to the manager.
//!
//! Invariant: one event is in flight, and it leaves the queue only when the manager has taken it or
//! refused it for good; what was kept for the time after this process is told of that before the next is
//! sent, so that one event at most is told twice; no failure of the connection loses, skips or reorders
//! anything. A manager that was away is told nothing before its own listeners had time to find it again, or
//! are known to have. Idle and connected it has no timer; idle and disconnected neither. Pinned by
//! `tests/events.rs`.

use crate::errno::Words;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::clients::Clients;
use super::event::Rank;
use super::link::{Failure, Link};
use super::queue::{Entry, Queue};
use super::retry::{Limits, patience};

/// The longest pause between tries while somebody waits in [`Publisher::drain`].
const DRAIN_PAUSE: Duration = Duration::from_millis(50);

/// How often [`Publisher::drain`] grants its limit anew to a manager that takes events.
const DRAIN_ROUNDS: u32 = 12;

/// The task that publishes; it ends when this is dropped.
#[derive(Debug)]
pub struct Publisher {
    queue: Queue,
    shared: Arc<Shared>,
    clients: Clients,
    task: JoinHandle<()>,
}

/// What a publisher has done so far, for a person to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Events the manager has taken.
    pub delivered: u64,
    /// Events skipped because the manager refused them.
    pub refused: u64,
    /// Whether there is a connection that is not known to be dead.
    pub connected: bool,
    /// Tries that failed since the last answer.
    pub failures: u32,
    /// Why the last failed try failed; stays after a success.
    pub last_error: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    stats: Mutex<Stats>,
    draining: AtomicBool,
    settling: AtomicBool,
    /// How many times a manager has been given time to settle.
    settled: AtomicU64,
    hurry: Notify,
}

impl Publisher {
    /// Starts publishing what `queue` holds to `address` (`TTRPC_ADDRESS`: a socket path, with or
    /// without `unix://`) for containers of `namespace`. It connects with the first event. Without
    /// an address, events are logged at debug level and dropped.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(queue: Queue, address: String, namespace: String) -> Self {
        Self::with_limits(queue, address, namespace, Limits::default())
    }

    /// [`Publisher::start`] with other time limits.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn with_limits(queue: Queue, address: String, namespace: String, limits: Limits) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = Clients::default();
        let path = address.strip_prefix("unix://").unwrap_or(&address);
        let task = if path.is_empty() {
            tokio::spawn(discard(queue.clone()))
        } else {
            let worker = Worker {
                queue: queue.clone(),
                shared: Arc::clone(&shared),
                clients: clients.clone(),
                address: path.to_owned(),
                namespace,
                limits,
                failures: 0,
                patience: Patience::default(),
            };
            tokio::spawn(worker.run())
        };
        Self {
            queue,
            shared,
            clients,
            task,
        }
    }

    /// To be told when a client of the manager has something done.
    #[must_use]
    pub fn clients(&self) -> Clients {
        self.clients.clone()
    }

    /// Waits until everything pushed is delivered; returns how many events are left when the
    /// manager has taken none for `limit`, or in the end after [`DRAIN_ROUNDS`] times `limit`: what
    /// a busy manager is still taking, or one that has just come back will take, must not be lost.
    /// From here on tries follow each other
    /// quickly. Publishing goes on afterwards.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.shared.hurry.notify_one();
        let mut progress = self.progress();
        for _ in 0..DRAIN_ROUNDS {
            if let Ok(()) = timeout(limit, self.queue.emptied()).await {
                return 0;
            }
            let before = std::mem::replace(&mut progress, self.progress());
            if progress == before && !self.shared.settling.load(Ordering::Relaxed) {
                break;
            }
        }
        self.queue.len()
    }

    /// Grows with every event that leaves the queue by way of the manager, and when the wait for a
    /// manager that has just come back is over: its own time to answer begins only then.
    fn progress(&self) -> u64 {
        let left = self.shared.stats(|stats| stats.delivered + stats.refused);
        left + self.shared.settled.load(Ordering::Relaxed)
    }

    /// What was done so far. What waits, the [`Queue`] knows.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats(|stats| stats.clone())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn stats<T>(&self, f: impl FnOnce(&mut Stats) -> T) -> T {
        f(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where the connection is.
enum State {
    /// None; the next try is due at the time given, once there is an event.
    Disconnected(Instant),
    Connecting,
    /// To a manager that has just come back; it is told nothing before the time given.
    Settling(Link, Instant),
    Connected(Link),
}

struct Worker {
    queue: Queue,
    shared: Arc<Shared>,
    clients: Clients,
    address: String,
    namespace: String,
    limits: Limits,
    /// Tries that failed since the last answer; a connection alone does not reset it, as a
    /// manager may accept and then hang up.
    failures: u32,
    patience: Patience,
}

/// What the present head has been through.
#[derive(Debug, Default)]
struct Patience {
    seq: u64,
    timeouts: u32,
    answers: u32,
}

impl Worker {
    async fn run(mut self) {
        let mut state = State::Disconnected(Instant::now());
        loop {
            self.shared
                .stats(|stats| stats.connected = matches!(state, State::Connected(_)));
            let settling = matches!(state, State::Settling(..));
            self.shared.settling.store(settling, Ordering::Relaxed);
            state = match state {
                State::Disconnected(due) => {
                    self.queue.head().await;
                    self.pause(due).await;
                    State::Connecting
                }
                State::Connecting => self.connect().await,
                State::Settling(link, due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {
                        self.shared.settled.fetch_add(1, Ordering::Relaxed);
                        State::Connected(link)
                    }
                    () = self.clients.acted() => {
                        State::Settling(link, due.min(Instant::now() + self.hold()))
                    }
                },
                State::Connected(mut link) => {
                    // Before there is an event, too: from here on exits are kept before they are told.
                    let next = tokio::select! {
                        biased;
                        entry = self.queue.head() => Ok(entry),
                        why = link.lost() => Err(why),
                    };
                    match next {
                        Ok(entry) => self.publish(link, &entry).await,
                        Err(why) => self.failed(why),
                    }
                }
            }
        }
    }

    async fn connect(&mut self) -> State {
        match Link::connect(&self.address, &self.namespace).await {
            Ok(link) => self.connected(link),
            Err(why) => self.failed(format!(
                "connecting to {}: {why}",
                self.address,
                why = why.words()
            )),
        }
    }

    fn connected(&self, link: Link) -> State {
        let hold = match self.failures {
            0 => Duration::ZERO,
            _ => self.hold(),
        };
        if hold.is_zero() {
            return State::Connected(link);
        }
        log::debug!("publishing events: the manager is back; going on in {hold:?}");
        State::Settling(link, Instant::now() + hold)
    }

    /// How long those whom the manager tells may still take to listen.
    fn hold(&self) -> Duration {
        let (age, acted) = (Link::age(&self.address), self.clients.acted_ago());
        self.limits.hold(age, acted)
    }

    async fn publish(&mut self, mut link: Link, entry: &Entry) -> State {
        if self.patience.seq != entry.seq {
            self.patience = Patience {
                seq: entry.seq,
                ..Patience::default()
            };
        }
        let limit = self.limits.try_limit(self.patience.timeouts);
        let Some(answer) = self.forward(&mut link, entry, limit).await else {
            self.patience.timeouts += 1;
            return self.failed(format!("no answer to {} within {limit:?}", entry.topic));
        };
        match answer {
            Ok(()) => {
                self.queue.settle(entry.seq);
                self.shared.stats(|stats| stats.delivered += 1);
                self.answered();
                self.queue.forgotten(entry.seq).await;
                State::Connected(link)
            }
            Err(Failure::Lost(why)) => self.failed(format!("sending {}: {why}", entry.topic)),
            Err(Failure::Answered(code, why)) => {
                let why = format!("manager answered {} with {code:?}: {why}", entry.topic);
                let Some(most) = patience(code, entry.rank == Rank::Vital) else {
                    return self.failed(why);
                };
                self.patience.answers += 1;
                if self.patience.answers < most {
                    return self.failed(why);
                }
                log::error!(
                    "skipping an event of container {} after {most} tries: {why}",
                    entry.container
                );
                self.queue.settle(entry.seq);
                self.shared.stats(|stats| {
                    stats.refused += 1;
                    stats.last_error = Some(why);
                });
                self.answered();
                self.queue.forgotten(entry.seq).await;
                State::Connected(link)
            }
        }
    }

    /// The manager's answer; none within `limit`.
    async fn forward(
        &self,
        link: &mut Link,
        entry: &Entry,
        limit: Duration,
    ) -> Option<Result<(), Failure>> {
        let deadline = Instant::now() + limit;
        let mut answer = std::pin::pin!(link.forward(&self.namespace, entry, limit));
        let prompt = self.limits.prompt.min(limit);
        if let Ok(prompt) = timeout(prompt, answer.as_mut()).await {
            return Some(prompt);
        }
        self.queue.unanswered(true);
        timeout_at(deadline, answer).await.ok()
    }

    fn answered(&mut self) {
        if self.failures > 1 {
            log::info!(
                "events reach the manager again after {} failed tries, {} waiting",
                self.failures,
                self.queue.len()
            );
        }
        self.failures = 0;
        self.queue.unanswered(false);
        self.shared.stats(|stats| stats.failures = 0);
    }

    /// Notes a failed try; the link, if there was one, has been dropped by the caller's state.
    fn failed(&mut self, why: String) -> State {
        self.failures = self.failures.saturating_add(1);
        self.queue.unanswered(true);
        // The first failure is as a rule a restarted manager; then a line per doubling.
        if self.failures > 1 && self.failures.is_power_of_two() {
            log::warn!(
                "publishing events: {why} (try {}, {} waiting)",
                self.failures,
                self.queue.len()
            );
        } else {
            log::debug!("publishing events: {why}");
        }
        self.shared.stats(|stats| {
            stats.failures = self.failures;
            stats.last_error = Some(why);
        });
        State::Disconnected(Instant::now() + self.limits.backoff(self.failures))
    }

    /// Waits until `due`, or less when somebody waits for the queue to drain.
    async fn pause(&self, due: Instant) {
        let now = Instant::now();
        if !self.shared.draining.load(Ordering::Relaxed) {
            tokio::select! {
                () = tokio::time::sleep_until(due) => return,
                () = self.shared.hurry.notified() => {}
            }
        }
        tokio::time::sleep_until(due.min(now + DRAIN_PAUSE)).await;
    }
}

/// The publisher of a shim nobody listens to.
async fn discard(queue: Queue) {
    loop {
        let entry = queue.head().await;
        log::debug!(
            "no events address: {} of container {}",
            entry.topic,
            entry.container
        );
        queue.settle(entry.seq);
    }
}
