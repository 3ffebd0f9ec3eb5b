//! Work on the event loop that is as long as somebody else makes it, in slices.
//!
//! Invariant: between two of its pauses such work holds the loop no longer than [`SLICE`] and one step more.
//! Each step is bounded by who makes it: one read, one cgroup, some names. It needs no thread, so there is
//! nothing that could fail for want of one; what may hang goes to [`crate::blocking`] instead.

use std::time::{Duration, Instant};

/// How long the loop is held at a time.
const SLICE: Duration = Duration::from_micros(500);

/// The slices of one piece of work.
#[derive(Debug)]
pub(crate) struct Slices(Instant);

impl Slices {
    /// The first one begins.
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }

    /// To be called after each step: lets all others have their turn when the slice is over.
    pub(crate) async fn pause(&mut self) {
        if self.0.elapsed() >= SLICE {
            tokio::task::yield_now().await;
            self.0 = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_have_their_turn_meanwhile() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let (stop, stopped) = std::sync::mpsc::channel();
            let other = tokio::spawn(async move { stop.send(()) });
            let mut slices = Slices::begin();
            // Ends only if the other one is run.
            while stopped.try_recv().is_err() {
                slices.pause().await;
            }
            other.await.unwrap().unwrap();
        });
    }
}
