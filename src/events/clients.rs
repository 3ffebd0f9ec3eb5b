//! What is known of the manager's own clients: those whom it tells of events.
//!
//! Invariant: nobody waits for this, and it costs nothing while nothing is held back for them.
//!
//! A shim sees the manager only. That it is back says nothing of dockerd, which has to find it again and
//! to subscribe. But a request that has something done to a container (a signal, an exec) is never the
//! manager's own: it comes from a client, through the manager. Connect, Pids, Delete and Shutdown are what
//! containerd itself asks of the shims it finds at its start; State and Stats anybody who lists or measures.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// When a client last had something done; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Clients(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    last: Mutex<Option<Instant>>,
    /// A permit for the publisher.
    acted: Notify,
}

impl Clients {
    /// A client has something done.
    pub fn act(&self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.0.acted.notify_one();
    }

    /// How long ago one last did.
    pub(super) fn acted_ago(&self) -> Option<Duration> {
        let last = *self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|last| last.elapsed())
    }

    /// Waits until one does, or has since this was last waited for.
    pub(super) async fn acted(&self) {
        self.0.acted.notified().await;
    }
}
