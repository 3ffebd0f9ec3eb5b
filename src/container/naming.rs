//! Which process a runtime has made: what it writes down, asked as early as need be.
//!
//! Invariant: a number that a runtime names is taken for its process only while, by the
//! [lifecycle](crate::lifecycle)'s word, it is. Pinned by `tests/faults/recycled.rs`.

use std::path::Path;
use std::sync::Arc;

use super::process::Process;
use super::shared::Shared;
use super::tracker::Tracker;
use crate::blocking::{Job, within};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::lifecycle::{Claim, StartId};
use crate::monitor::{Exit, Moment, Others, Pid};
use crate::runtime::{Named, read_named};

/// The tracker as the monitor tells it of exits.
pub struct Reaped(pub Arc<Tracker>);

impl Others for Reaped {
    fn ask_births(&self) -> bool {
        self.0.asks_births()
    }

    fn ended(&mut self, exit: Exit, born: Option<Moment>) {
        self.0.exited(exit, born);
    }
}

impl Shared {
    /// The runtime made `process`: from here on its exit is told, and comes in time whatever strangers do.
    ///
    /// # Errors
    /// As the [tracker](Tracker) says. Nothing was announced, and the start is still open: abandon it.
    pub(super) fn announce(
        &self,
        start: StartId,
        named: Named,
        process: &Arc<Process>,
        before: Option<Event>,
    ) -> Result<()> {
        if self.tracker.announce(start, named, process, before)? {
            self.monitor.expect(named.pid);
        }
        Ok(())
    }

    /// The pid that the runtime has named, if the process that it has made still has it: up to the next await.
    ///
    /// # Errors
    /// It has ended, or the runtime has named another.
    pub(super) fn still_has_pid(&self, start: StartId, named: Named) -> Result<Pid> {
        match self.tracker.claim(start, named) {
            Ok(Claim::Unreaped) => Ok(named.pid),
            Ok(Claim::Ended(_)) | Err(_) => {
                Err(Error::not_found(format!("process {} has ended", named.pid)))
            }
        }
    }

    /// Waits for a call of the runtime that brings up a process, and while it is under way and many others
    /// die, looks whether it has named that process yet. Elsewhere: the disk may be a dead one.
    pub(super) async fn named_meanwhile<T>(
        &self,
        start: StartId,
        pid_file: &Path,
        call: impl Future<Output = T>,
    ) -> T {
        let looks = async {
            loop {
                self.tracker.crowd.many.notified().await;
                let place = pid_file.to_owned();
                let job = Job {
                    name: "pid-file",
                    what: format!("read pid file {}", place.display()),
                    limit: self.limits.disk,
                };
                // It is not there yet, as a rule.
                if let Ok(Ok(named)) = within(job, move || read_named(&place)).await {
                    self.tracker.named(start, named);
                    return;
                }
            }
        };
        tokio::pin!(call);
        tokio::select! {
            biased;
            done = &mut call => return done,
            () = looks => {}
        }
        call.await
    }
}
