//! Invariant: an id names at most one container, from the moment its Create is accepted until its
//! Delete is done; a Create that fails gives the id back. Once closed, which only an empty one can be,
//! it accepts none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Container;
use super::shared::Shared;
use crate::error::{Code, Error, Result};

enum Slot {
    Creating,
    Ready(Arc<Container>),
}

/// The containers of this shim, by id.
pub struct Registry {
    /// What they share.
    pub shared: Arc<Shared>,
    slots: Mutex<Slots>,
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct Slots {
    by_id: BTreeMap<String, Slot>,
    /// How many there have been.
    made: usize,
    /// One of them was a pod's.
    of_a_pod: bool,
    /// The shim is ending.
    closed: bool,
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
            slots: Mutex::default(),
            count: watch::Sender::new(0),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many containers there are, those that are being made included.
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Accepts no further container, if there is none; answers whether there was none.
    pub fn close(&self) -> bool {
        let mut slots = self.slots();
        slots.closed |= slots.by_id.is_empty();
        slots.by_id.is_empty()
    }

    /// Whether there was one container, of no pod, and it has been deleted: as a rule no other will come.
    pub fn had_its_one(&self) -> bool {
        let slots = self.slots();
        slots.made == 1 && !slots.of_a_pod && slots.by_id.is_empty()
    }

    /// Takes a [`close`](Self::close) back.
    pub fn reopen(&self) {
        self.slots().closed = false;
    }

    /// The container of that id.
    ///
    /// # Errors
    /// `NotFound` `container not created`, the Go shim's words, also while it is being made.
    pub fn get(&self, id: &str) -> Result<Arc<Container>> {
        match self.slots().by_id.get(id) {
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
        self.slots().by_id.values().filter_map(ready).collect()
    }

    /// The ids that a Create under way has taken.
    pub(super) fn creating(&self) -> Vec<String> {
        let slots = self.slots();
        let creating = slots
            .by_id
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Creating));
        creating.map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn reserve(&self, id: &str) -> Result<Reservation<'_>> {
        let mut slots = self.slots();
        if slots.closed {
            return Err(Error::new(
                Code::Unavailable,
                format!("create {id}: the shim is ending"),
            ));
        }
        if slots.by_id.contains_key(id) {
            return Err(id_is_taken(id));
        }
        slots.by_id.insert(id.to_owned(), Slot::Creating);
        self.count.send_replace(slots.by_id.len());
        Ok(Reservation {
            registry: self,
            id: id.to_owned(),
            filled: false,
        })
    }

    pub(super) fn remove(&self, container: &Arc<Container>) {
        let mut slots = self.slots();
        let id = &container.id;
        if matches!(slots.by_id.get(id), Some(Slot::Ready(c)) if Arc::ptr_eq(c, container)) {
            slots.by_id.remove(id);
            self.count.send_replace(slots.by_id.len());
            if slots.by_id.is_empty() {
                self.shared.sensors.kernel_log.rest();
                crate::direct::rest();
            }
        }
    }
}

impl Reservation<'_> {
    pub(super) fn fill(mut self, container: Arc<Container>) {
        let mut slots = self.registry.slots();
        slots.made += 1;
        slots.of_a_pod |= container.in_pod;
        slots.by_id.insert(self.id.clone(), Slot::Ready(container));
        drop(slots);
        self.filled = true;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.filled {
            let mut slots = self.registry.slots();
            slots.by_id.remove(&self.id);
            self.registry.count.send_replace(slots.by_id.len());
        }
    }
}

/// The phrase is runc's, which the Go shim passes on; the code says what it is.
pub(super) fn id_is_taken(id: &str) -> Error {
    Error::new(
        Code::AlreadyExists,
        format!(
            "OCI runtime create failed: container with given ID already exists: {id}: already exists"
        ),
    )
}
