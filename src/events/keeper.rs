//! Keeps what no manager takes in the bundles of the containers it is about.
//!
//! Invariant: while the manager answers, nothing is written. From the moment it does not, until it has
//! taken the last event, each container's bundle holds what is unpublished of that container, so that
//! the `delete` action can tell it if this shim dies ([`super::journal`]). Neither who pushes nor who
//! publishes waits for a write; a write that fails is tried again and costs nothing but this safety.
//!
//! The files are bounded as the queue is: what has been settled is cut out of a long file.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::journal::{self, Change};
use super::queue::{Entry, Queue};
use crate::blocking::blocking;
use crate::errno::Words;

/// Between two writes of one outage.
const PAUSE: Duration = Duration::from_millis(50);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);
/// The most written at once, in bytes of payload.
const BATCH: usize = 1024 * 1024;
/// A file above this is rewritten when more than half of it is settled.
const LONG: u64 = 1024 * 1024;

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

#[derive(Debug)]
struct Shared {
    queue: Queue,
    namespace: String,
    bundles: Mutex<HashMap<String, PathBuf>>,
    /// Locked for as long as a write takes.
    files: AsyncMutex<Files>,
}

impl Keeper {
    /// Starts keeping what `queue` holds for containers of `namespace`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(queue: Queue, namespace: String) -> Self {
        let shared = Arc::new(Shared {
            queue,
            namespace,
            bundles: Mutex::default(),
            files: AsyncMutex::default(),
        });
        let task = tokio::spawn(Arc::clone(&shared).run());
        Self { shared, task }
    }

    /// From here on there is a bundle for the events of container `id`.
    pub fn add(&self, id: &str, bundle: &Path) {
        self.shared
            .bundles()
            .insert(id.to_owned(), bundle.to_owned());
    }

    /// The container has been deleted, by somebody who knows how it ended and is about to remove its
    /// bundle: its file goes, and nothing is written there any more, unless a write hangs for longer than
    /// `limit`.
    pub async fn remove(&self, id: &str, limit: Duration) {
        self.shared.bundles().remove(id);
        let remove = async {
            let mut files = self.shared.files.lock().await;
            if let Some(bundle) = files.forget(id) {
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
        let up_to_date = async { while self.shared.round().await.is_some() {} };
        if timeout(limit, up_to_date).await.is_err() {
            log::warn!("writing {} hangs or fails", journal::NAME);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn bundles(&self) -> MutexGuard<'_, HashMap<String, PathBuf>> {
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>) {
        loop {
            self.queue.changed().await;
            while let Some(pause) = self.round().await {
                sleep(pause).await;
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
            return None;
        }
        self.queue.watch(true);
        let (head, entries) = self.queue.from(files.written, BATCH);
        files.settle(head);
        for entry in &entries {
            let bundle = self.bundles().get(&*entry.container).cloned();
            files.add(entry, bundle, &self.namespace);
        }
        let whole = |id: &str| {
            let (_, all) = self.queue.from(0, usize::MAX);
            all.into_iter().filter(|e| &*e.container == id).collect()
        };
        let changes = files.changes(&self.namespace, whole);
        if changes.is_empty() {
            return None;
        }
        let work = move || -> Vec<(Arc<str>, io::Result<()>)> {
            let carry_out = |(id, bundle, change): (_, PathBuf, Change)| {
                let done = change.carry_out(&bundle);
                (id, done)
            };
            changes.into_iter().map(carry_out).collect()
        };
        match blocking("journal", work).await {
            Ok(done) => files.done(done),
            Err(e) => files.lost(&e.to_string()),
        }
        Some(if files.failing { RETRY } else { PAUSE })
    }
}

/// What is known of the files. Pure: it decides, others write.
#[derive(Debug, Default)]
struct Files {
    by_id: BTreeMap<Arc<str>, File>,
    /// All events before this place have been looked at.
    written: u64,
    /// The last write failed.
    failing: bool,
}

#[derive(Debug)]
struct File {
    bundle: PathBuf,
    /// Its length, as far as it is known to be good.
    len: u64,
    /// The events it holds or is to hold that have not been settled, and their lengths in it.
    open: VecDeque<(u64, u64)>,
    /// Records to be put behind it.
    new: Vec<u8>,
    /// It says which events are settled too late.
    stale: bool,
    /// Nobody knows what it holds.
    broken: bool,
}

impl Files {
    fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The bundle in which there may be a file.
    fn forget(&mut self, id: &str) -> Option<PathBuf> {
        self.by_id.remove(id).map(|file| file.bundle)
    }

    /// All events before `head` have left the queue; all of them if it is `None`.
    fn settle(&mut self, head: Option<u64>) {
        for file in self.by_id.values_mut() {
            let before = file.open.len();
            while let Some((seq, _)) = file.open.front()
                && head.is_none_or(|head| *seq < head)
            {
                file.open.pop_front();
            }
            file.stale |= file.open.len() < before;
        }
    }

    /// An event of the queue that has not been looked at yet.
    fn add(&mut self, entry: &Entry, bundle: Option<PathBuf>, namespace: &str) {
        self.written = entry.seq + 1;
        // Of a container that has been deleted, by a manager that therefore knows how it ended.
        let Some(bundle) = bundle else { return };
        let file = self
            .by_id
            .entry(Arc::clone(&entry.container))
            .or_insert_with(|| File {
                bundle,
                len: 0,
                open: VecDeque::new(),
                new: Vec::new(),
                stale: false,
                broken: false,
            });
        let record = journal::record(namespace, entry);
        file.open.push_back((entry.seq, record.len() as u64));
        file.new.extend(record);
    }

    /// What is to be written now; `whole` gives all events of a container.
    fn changes(
        &mut self,
        namespace: &str,
        whole: impl Fn(&str) -> Vec<Entry>,
    ) -> Vec<(Arc<str>, PathBuf, Change)> {
        let written = self.written;
        let change = |(id, file): (&Arc<str>, &mut File)| {
            let change = file.change(namespace, || {
                let mut all = whole(id);
                all.retain(|entry| entry.seq < written);
                all
            })?;
            Some((Arc::clone(id), file.bundle.clone(), change))
        };
        self.by_id.iter_mut().filter_map(change).collect()
    }

    fn done(&mut self, done: Vec<(Arc<str>, io::Result<()>)>) {
        let failed = self.failing;
        self.failing = false;
        for (id, done) in done {
            let Some(file) = self.by_id.get_mut(&id) else {
                continue;
            };
            match done {
                Ok(()) if file.open.is_empty() && file.len == 0 => {
                    self.by_id.remove(&id);
                }
                Ok(()) => {}
                // The bundle has been removed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    self.by_id.remove(&id);
                }
                Err(e) => {
                    file.broken = true;
                    self.failing = true;
                    if !failed {
                        let path = file.bundle.join(journal::NAME);
                        log::warn!(
                            "container {id}: its unpublished events would be lost with this shim: write {}: {e}",
                            path.display(),
                            e = e.words()
                        );
                    }
                }
            }
        }
    }

    /// Nothing is known of what was to be written.
    fn lost(&mut self, why: &str) {
        if !self.failing {
            log::warn!("unpublished events would be lost with this shim: {why}");
        }
        self.failing = true;
        for file in self.by_id.values_mut() {
            file.broken = true;
        }
    }
}

impl File {
    fn change(&mut self, namespace: &str, whole: impl Fn() -> Vec<Entry>) -> Option<Change> {
        let live: u64 = self.open.iter().map(|(_, len)| len).sum();
        let new = std::mem::take(&mut self.new);
        let len = self.len + new.len() as u64;
        let stale = std::mem::take(&mut self.stale);
        if self.open.is_empty() {
            self.len = 0;
            return Some(Change::Remove);
        }
        if self.broken || (len > LONG && len > 2 * live) {
            self.broken = false;
            let mut bytes = Vec::new();
            self.open.clear();
            for entry in whole() {
                let record = journal::record(namespace, &entry);
                self.open.push_back((entry.seq, record.len() as u64));
                bytes.extend(record);
            }
            self.len = bytes.len() as u64;
            return Some(Change::Rewrite(bytes));
        }
        let mut bytes = new;
        if let Some((first, _)) = self.open.front().filter(|_| stale) {
            bytes.extend(journal::settled(*first));
        }
        let at = self.len;
        self.len += bytes.len() as u64;
        (!bytes.is_empty()).then_some(Change::Append { at, bytes })
    }
}

#[cfg(test)]
mod tests;
