//! What is known of the files, and what is to be written into them. Pure: it decides, others write.
//!
//! Invariant: after a round of writes that went well each file holds what waits of its container, in order,
//! and there is none where nothing waits. Pinned by the keeper's tests.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::journal::{self, Change};
use super::super::queue::Entry;
use super::{Done, Written};
use crate::errno::Words;

/// A file above this is rewritten when more than half of it is settled.
pub(super) const LONG: u64 = 1024 * 1024;

/// The files.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) by_id: BTreeMap<Arc<str>, File>,
    /// All events before this place have been looked at.
    pub(super) written: u64,
    /// The last write failed.
    pub(super) failing: bool,
}

#[derive(Debug)]
pub(super) struct File {
    bundle: PathBuf,
    /// Its length, as far as it is known to be good.
    pub(super) len: u64,
    /// The events it holds or is to hold that have not been settled, and their lengths in it.
    pub(super) open: VecDeque<(u64, u64)>,
    /// Records to be put behind it.
    new: Vec<u8>,
    /// It says which events are settled too late.
    stale: bool,
    /// Nobody knows what it holds.
    broken: bool,
}

impl Files {
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The bundle in which there may be a file.
    pub(super) fn forget(&mut self, id: &str) -> Option<PathBuf> {
        self.by_id.remove(id).map(|file| file.bundle)
    }

    /// All events before `head` have left the queue; all of them if it is `None`.
    pub(super) fn settle(&mut self, head: Option<u64>) {
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
    pub(super) fn add(&mut self, entry: &Entry, bundle: Option<PathBuf>, namespace: &str) {
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
    pub(super) fn changes(
        &mut self,
        namespace: &str,
        whole: impl Fn(&str) -> Vec<Entry>,
    ) -> Vec<Written> {
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

    pub(super) fn done(&mut self, done: Vec<Done>) {
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
    pub(super) fn lost(&mut self, why: &str) {
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
