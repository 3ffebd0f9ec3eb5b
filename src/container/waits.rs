//! The Waits that are open for a container's processes.
//!
//! Invariant: they are never more than the limit, so a client that asks and asks cannot take the shim's
//! memory; each leaves the count when it is answered or its client is gone.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Container, ExitStatus};
use crate::error::{Code, Error, Result};

/// How many are open.
#[derive(Debug, Default)]
pub(super) struct Waits(AtomicUsize);

/// One of them, until it is dropped.
struct Open<'a>(&'a Waits);

impl Waits {
    fn begin(&self, limit: usize) -> Option<Open<'_>> {
        let more = |open| (open < limit).then_some(open + 1);
        let begun = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        begun.ok().map(|_| Open(self))
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Container {
    /// Waits for the exit of the init, for an empty id, or an exec. See [`Process::wait`](super::Process::wait).
    ///
    /// # Errors
    /// `NotFound`, or `ResourceExhausted` when too many wait already.
    pub async fn wait(&self, exec_id: &str) -> Result<ExitStatus> {
        let process = self.process(exec_id)?;
        let limit = self.shared.limits.waits;
        let _open = self.waits.begin(limit).ok_or_else(|| {
            let id = &self.id;
            let message = format!("container {id}: {limit} waits are open, which is the limit");
            Error::new(Code::ResourceExhausted, message)
        })?;
        Ok(process.wait().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_wait_is_dropped() {
        let waits = Waits::default();
        let first = waits.begin(2);
        let second = waits.begin(2);
        assert!(first.is_some() && second.is_some() && waits.begin(2).is_none());
        drop(first);
        let third = waits.begin(2);
        assert!(third.is_some() && waits.begin(2).is_none());
        drop((second, third));
        assert_eq!(waits.0.into_inner(), 0);
    }
}
