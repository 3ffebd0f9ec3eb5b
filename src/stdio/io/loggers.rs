//! The logging programs of one process.
//!
//! Invariant: one that was started is kept to the end, for what it lost; and a start that fails leaves none.

use std::sync::Arc;

use super::Io;
use crate::error::Result;
use crate::stdio::logger::{Host, Logger, Pending};
use crate::stdio::{Stream, StreamReport};

#[derive(Debug, Default)]
pub(super) struct Loggers {
    /// Not started yet.
    pending: Vec<Pending>,
    /// Started; kept to the end for what they lost.
    started: Vec<Logger>,
}

impl Loggers {
    /// Yet to be started.
    pub(super) fn before(pending: Vec<Pending>) -> Self {
        Self {
            pending,
            started: Vec::new(),
        }
    }

    /// Bytes dropped because no program would read them.
    pub(super) fn lost(&self) -> u64 {
        self.started.iter().map(Logger::lost).sum()
    }

    /// What the first of them reads that is not over.
    pub(super) fn reading(&self) -> Option<Stream> {
        let mut started = self.started.iter();
        started.find(|l| !l.is_over()).map(|l| l.stream)
    }

    /// Ends all, now; none of them is waited for.
    pub(super) fn close(&mut self) {
        self.pending.clear();
        for logger in &self.started {
            drop(logger.stop(None));
        }
    }

    /// For the dump.
    pub(super) fn report(&mut self) -> impl Iterator<Item = StreamReport> {
        let pending = self.pending.iter().map(|_| "its start");
        let pending = pending.map(|waits| StreamReport::of("logger", waits));
        let started = self.started.iter_mut().flat_map(Logger::report);
        pending.chain(started)
    }
}

impl Io {
    /// Starts the logging programs and waits until they are ready, before the runtime is called; without
    /// one does nothing.
    ///
    /// # Errors
    /// What kept one from starting or being ready. None of them is left then.
    pub async fn start_loggers(&self, host: &Host<'_>) -> Result<()> {
        let pending = std::mem::take(&mut self.shared.loggers().pending);
        for pending in pending {
            match pending.start(host, Arc::clone(&self.shared.changed)).await {
                Ok(logger) => self.shared.loggers().started.push(logger),
                Err(error) => {
                    self.end_loggers().await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Ends the logging programs, those that have not ended by themselves: SIGTERM, SIGKILL after their
    /// limit. Without one does nothing.
    pub async fn end_loggers(&self) {
        let stops: Vec<_> = {
            let loggers = self.shared.loggers();
            loggers.started.iter().map(|l| l.stop(None)).collect()
        };
        for stop in stops {
            stop.await;
        }
    }
}
