//! Turns: operations on one process come one after another.
//!
//! Invariant: no operation waits for another without an end, and the error at that end names the one
//! that holds it up and since when. Nothing has been done then.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::times::since;

/// The right to work on a process.
#[derive(Default)]
pub struct Turns {
    lock: tokio::sync::Mutex<()>,
    holder: Mutex<Option<(&'static str, SystemTime)>>,
}

/// A turn under way; it ends when this is dropped.
pub struct Turn<'a> {
    turns: &'a Turns,
    _held: tokio::sync::MutexGuard<'a, ()>,
}

impl Turns {
    /// Waits for a turn for `operation` on `whom`, for `limit` at most.
    ///
    /// # Errors
    /// `DeadlineExceeded` naming the operation under way.
    pub async fn take(
        &self,
        operation: &'static str,
        whom: &str,
        limit: Duration,
    ) -> Result<Turn<'_>> {
        let Ok(held) = timeout(limit, self.lock.lock()).await else {
            return Err(self.busy(operation, whom, limit));
        };
        self.set(Some((operation, SystemTime::now())));
        Ok(Turn {
            turns: self,
            _held: held,
        })
    }

    /// What is under way, and since when.
    pub fn holder(&self) -> Option<(&'static str, SystemTime)> {
        *self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of an `operation` that has waited for what is under way.
    pub fn busy(&self, operation: &str, whom: &str, limit: Duration) -> Error {
        let holder = match self.holder() {
            Some((holder, at)) => format!("its {holder}, under way since {}", since(at)),
            None => "another operation on it".to_owned(),
        };
        Error::deadline_exceeded(format!(
            "{operation} of {whom} waited {limit:?} for {holder}, and can be repeated"
        ))
    }

    fn set(&self, holder: Option<(&'static str, SystemTime)>) {
        *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = holder;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn a_wait_ends_and_names_what_holds_it_up() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.unwrap().block_on(held_up());
    }

    async fn held_up() {
        let turns = Turns::default();
        let limit = Duration::from_millis(20);
        let first = turns.take("checkpoint", "c", limit).await.unwrap();
        let second = turns.take("delete", "c", limit).await.map(drop);
        let error = second.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded);
        let text = "delete of c waited 20ms for its checkpoint, under way since 2";
        assert!(error.message.starts_with(text), "{error}");
        drop(first);
        assert_eq!(turns.holder(), None);
        let third = turns.take("delete", "c", limit).await.unwrap();
        assert_eq!(turns.holder().map(|(what, _)| what), Some("delete"));
        drop(third);
    }
}
