//! Keeps what no manager takes in the bundles of the containers it is about.
//!
//! Invariant: while the manager answers, nothing is written. From the moment it does not, until it has
//! taken the last event, each container's bundle holds what is unpublished of that container, so that
//! the `delete` action can tell it if this shim dies ([`super::journal`]). What is pushed is written at
//! once, with what else has come by then, so that exits need not be told before; what is taken is struck out
//! before the next is sent ([`Queue::push_then`], [`Queue::forgotten`]). A write that fails is tried again, one
//! that hangs is waited for; from the limit on both cost nothing but this safety. Pinned by
//! `tests/faults/told_away.rs`.
//!
//! Nothing is synced: it is this process that may die, not the machine, of which nothing is left anyhow.
//!
//! The files are bounded as the queue is: what has been settled is cut out of a long file.

mod files;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{sleep, timeout};

use self::files::Files;
use super::journal::{self, Change};
use super::queue::Queue;
use crate::blocking::blocking;
use crate::errno::Words;
use crate::in_memory::Memory;

/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);
/// The most written at once, in bytes of payload.
const BATCH: usize = 1024 * 1024;
/// The most written to one file without a thread, in bytes, where it can be: not a millisecond's work.
const AT_ONCE: usize = 256 * 1024;

/// The task that writes; it ends when this is dropped.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What is kept in bundles at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Kept {
    manager_answers: bool,
    /// A write is under way, and nothing else is known.
    writing: bool,
    /// The last write failed.
    failing: bool,
    files: usize,
    events: usize,
    bytes: u64,
}

/// A change of the file of a container, in its bundle.
type Written = (Arc<str>, PathBuf, Change);
/// How it went.
type Done = (Arc<str>, io::Result<()>);

#[derive(Debug)]
struct Shared {
    queue: Queue,
    namespace: String,
    /// How long anybody waits for a write.
    limit: Duration,
    bundles: Mutex<HashMap<String, Bundle>>,
    /// Locked for as long as a write takes.
    files: AsyncMutex<Files>,
}

/// Where the file of a container is to be.
#[derive(Clone, Debug)]
struct Bundle {
    path: PathBuf,
    /// The file system, if it is in memory.
    memory: Option<Memory>,
}

impl Keeper {
    /// Starts keeping what `queue` holds for containers of `namespace`. Nobody waits for a write for longer
    /// than `limit`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(queue: Queue, namespace: String, limit: Duration) -> Self {
        queue.has_keeper(true);
        let shared = Arc::new(Shared {
            queue,
            namespace,
            limit,
            bundles: Mutex::default(),
            files: AsyncMutex::default(),
        });
        let task = tokio::spawn(Arc::clone(&shared).run());
        Self { shared, task }
    }

    /// From here on there is a bundle for the events of container `id`.
    pub fn add(&self, id: &str, bundle: &Path) {
        let memory = Memory::of(bundle);
        let path = bundle.to_owned();
        let bundle = Bundle { path, memory };
        self.shared.bundles().insert(id.to_owned(), bundle);
    }

    /// The container has been deleted, by somebody who knows how it ended and is about to remove its
    /// bundle: its file goes, and nothing is written there any more, unless a write hangs for longer than
    /// `limit`.
    pub async fn remove(&self, id: &str, limit: Duration) {
        self.shared.bundles().remove(id);
        let remove = async {
            let mut files = self.shared.files.lock().await;
            let bundle = files.forget(id);
            // Nobody else has to wait for this.
            drop(files);
            if let Some(bundle) = bundle {
                let done = blocking("journal", move || Change::Remove.carry_out(&bundle)).await;
                if let Ok(Err(e)) = done {
                    log::warn!(
                        "container {id}: remove {}: {e}",
                        journal::NAME,
                        e = e.words()
                    );
                }
            }
        };
        if timeout(limit, remove).await.is_err() {
            log::warn!("container {id}: writing {} hangs", journal::NAME);
        }
    }

    /// What is kept, for the dump.
    pub fn report(&self) -> Kept {
        let mut kept = Kept {
            manager_answers: !self.shared.queue.is_unanswered(),
            ..Kept::default()
        };
        // Held for as long as a write takes, which may hang.
        let Ok(files) = self.shared.files.try_lock() else {
            kept.writing = true;
            return kept;
        };
        kept.failing = files.failing;
        kept.files = files.by_id.len();
        for file in files.by_id.values() {
            kept.events += file.open.len();
            kept.bytes += file.len;
        }
        kept
    }

    /// Brings the files up to date, once the last event that will has left the queue: what they hold
    /// then is told by somebody else. Gives up after `limit`.
    pub async fn finish(&self, limit: Duration) {
        let up_to_date = self.shared.rounds();
        if timeout(limit, up_to_date).await.is_err() {
            log::warn!("writing {} hangs or fails", journal::NAME);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.queue.has_keeper(false);
    }
}

impl Shared {
    fn bundles(&self) -> MutexGuard<'_, HashMap<String, Bundle>> {
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>) {
        loop {
            self.queue.changed().await;
            self.rounds().await;
        }
    }

    /// Writes until only a change of the queue can bring more to write.
    async fn rounds(&self) {
        while let Some(pause) = self.round().await {
            match pause {
                Duration::ZERO => yield_now().await,
                pause => sleep(pause).await,
            }
        }
    }

    /// Writes what there is to write; answers after which pause there may be more, or `None` when only
    /// a change of the queue can bring more.
    async fn round(&self) -> Option<Duration> {
        let mut files = self.files.lock().await;
        if !self.queue.is_unanswered() && files.is_empty() {
            files.written = 0;
            self.queue.watch(false);
            self.queue.nothing_is_kept();
            return None;
        }
        self.queue.watch(true);
        let (head, entries) = self.queue.from(files.written, BATCH);
        let settled = head.unwrap_or_else(|| self.queue.end());
        files.settle(head);
        for entry in &entries {
            let bundle = self.bundles().get(&*entry.container).cloned();
            files.add(entry, bundle.map(|bundle| bundle.path), &self.namespace);
        }
        let whole = |id: &str| {
            let (_, all) = self.queue.from(0, usize::MAX);
            all.into_iter().filter(|e| &*e.container == id).collect()
        };
        let changes = files.changes(&self.namespace, whole);
        if changes.is_empty() {
            self.queue.kept(files.written, settled);
            return None;
        }
        match self.carry_out(changes).await {
            Ok(done) => files.done(done),
            Err(e) => files.lost(&e),
        }
        self.queue.keeping_fails(files.failing);
        if files.failing {
            return Some(RETRY);
        }
        self.queue.kept(files.written, settled);
        Some(Duration::ZERO)
    }

    /// What is on a disk is written by one thread, for which nobody but this task waits for longer than the
    /// limit.
    async fn carry_out(&self, changes: Vec<Written>) -> Result<Vec<Done>, String> {
        let (at_once, on_disk): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|change| self.is_at_once(change));
        let carry_out = |(id, bundle, change): Written| {
            let done = change.carry_out(&bundle);
            (id, done)
        };
        let mut done: Vec<Done> = at_once.into_iter().map(carry_out).collect();
        if on_disk.is_empty() {
            return Ok(done);
        }
        let work = move || -> Vec<Done> { on_disk.into_iter().map(carry_out).collect() };
        let mut written = pin!(blocking("journal", work));
        let written = match timeout(self.limit, written.as_mut()).await {
            Ok(written) => written,
            Err(_) => {
                self.queue.keeping_fails(true);
                written.await
            }
        };
        done.extend(written.map_err(|e| e.to_string())?);
        Ok(done)
    }

    fn is_at_once(&self, (id, path, change): &Written) -> bool {
        let memory = self.bundles().get(&**id).and_then(|bundle| bundle.memory);
        change.size() <= AT_ONCE && memory.is_some_and(|memory| memory.holds(path))
    }
}

#[cfg(test)]
mod tests;
