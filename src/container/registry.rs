//! Invariant: an id names at most one container, from the moment its Create is accepted until its
//! Delete is done; a Create that fails gives the id back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Container;
use super::create::id_is_taken;
use super::tracker::Tracker;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::monitor::Monitor;

/// What all containers of a shim share.
pub struct Shared {
    /// The manager's namespace, a part of the runtime's state path.
    pub namespace: String,
    /// The order of things.
    pub tracker: Arc<Tracker>,
    /// The only one who waits for children.
    pub monitor: Monitor,
    /// The ends of waits.
    pub limits: Limits,
}

enum Slot {
    Creating,
    Ready(Arc<Container>),
}

/// The containers of this shim, by id.
pub struct Registry {
    /// What they share.
    pub shared: Arc<Shared>,
    slots: Mutex<BTreeMap<String, Slot>>,
}

/// An id that is taken while its container is being made; given back when dropped unfilled.
pub(super) struct Reservation<'a> {
    registry: &'a Registry,
    id: String,
    filled: bool,
}

impl Registry {
    /// A registry of no containers.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            slots: Mutex::new(BTreeMap::new()),
        }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container of that id.
    ///
    /// # Errors
    /// `NotFound` `container not created`, the Go shim's words, also while it is being made.
    pub fn get(&self, id: &str) -> Result<Arc<Container>> {
        match self.slots().get(id) {
            Some(Slot::Ready(container)) => Ok(Arc::clone(container)),
            Some(Slot::Creating) | None => Err(Error::not_found("container not created")),
        }
    }

    /// All containers that are ready.
    pub fn all(&self) -> Vec<Arc<Container>> {
        let ready = |slot: &Slot| match slot {
            Slot::Ready(container) => Some(Arc::clone(container)),
            Slot::Creating => None,
        };
        self.slots().values().filter_map(ready).collect()
    }

    /// Whether no container is there or being made.
    pub fn is_empty(&self) -> bool {
        self.slots().is_empty()
    }

    pub(super) fn reserve(&self, id: &str) -> Result<Reservation<'_>> {
        let mut slots = self.slots();
        if slots.contains_key(id) {
            return Err(id_is_taken(id));
        }
        slots.insert(id.to_owned(), Slot::Creating);
        Ok(Reservation {
            registry: self,
            id: id.to_owned(),
            filled: false,
        })
    }

    pub(super) fn remove(&self, container: &Arc<Container>) {
        let mut slots = self.slots();
        if matches!(slots.get(&container.id), Some(Slot::Ready(c)) if Arc::ptr_eq(c, container)) {
            slots.remove(&container.id);
        }
    }
}

impl Reservation<'_> {
    pub(super) fn fill(mut self, container: Arc<Container>) {
        self.registry
            .slots()
            .insert(self.id.clone(), Slot::Ready(container));
        self.filled = true;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.filled {
            self.registry.slots().remove(&self.id);
        }
    }
}
