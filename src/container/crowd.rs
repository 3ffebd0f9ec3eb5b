//! How many exits are written down of processes whose starts have no names for them yet.
//!
//! Invariant: who can see to it that they become fewer is told of each thousand.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// After so many exits that are written down for starts whose processes have no names yet, it is looked
/// whether they have.
const CROWD: usize = 1024;

/// Counts exits that are written down, of all times, and wakes who can see to it that fewer are.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    exits: AtomicUsize,
    /// Told when there are many more.
    pub(super) many: Notify,
}

impl Crowd {
    pub(super) fn grows(&self) {
        if self.exits.fetch_add(1, Ordering::Relaxed) % CROWD == CROWD - 1 {
            self.many.notify_waiters();
        }
    }
}
