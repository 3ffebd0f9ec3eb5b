//! What a shim that died had not told its manager yet, told by the `delete` action.
//!
//! Invariant: each event once, in the order in which it happened, a container's exit behind those of its
//! execs. The exit and the deletion of the container that the manager asks about are left out: it tells
//! these itself, from the action's answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::container::files;
use crate::error::{Error, Result};
use crate::events::{Event, Publisher, Queue, journal};
use crate::monitor::Exit;
use crate::proto::Timestamp;
use crate::proto::events::{TaskDelete, TaskExit};

/// How long the manager may take nothing; it waits for this action to end.
const PUBLISH_LIMIT: Duration = Duration::from_millis(700);

/// How the init of container `id` ended, if that is among what its bundle holds.
pub(super) fn exit_of(bundle: &Path, id: &str) -> Option<Exit> {
    let exit = |unpublished: journal::Unpublished| match unpublished.event {
        Event::Exit(exit) if exit.container_id == id && exit.id == id => Some(Exit {
            pid: exit.pid.cast_signed(),
            status: exit.exit_status,
            at: exit
                .exited_at
                .into_option()
                .and_then(journal::time)
                .unwrap_or(unpublished.at),
        }),
        _ => None,
    };
    // Why they cannot be read is said by who tells them.
    let events = journal::read(bundle).unwrap_or_default();
    events.into_iter().filter_map(exit).next_back()
}

/// Events to be told.
#[derive(Debug, Default)]
pub(super) struct LastEvents {
    queue: Queue,
    /// The files that hold some of them.
    journals: Vec<PathBuf>,
}

impl LastEvents {
    /// What the bundle of container `id` holds, but for how the container itself ended, whose init had this
    /// `pid`: an exec may be called as its container is.
    ///
    /// # Errors
    /// Why it cannot be told what the bundle holds.
    pub(super) fn unpublished(&mut self, bundle: &Path, id: &str, pid: i32) -> Result<()> {
        let events = journal::read(bundle)?;
        if !events.is_empty() {
            self.journals.push(bundle.join(journal::NAME));
        }
        for unpublished in events {
            let end = match &unpublished.event {
                Event::Exit(exit) => {
                    let is = pid == 0 || exit.pid.cast_signed() == pid;
                    is && exit.container_id == id && exit.id == id
                }
                Event::Delete(delete) => delete.container_id == id,
                _ => false,
            };
            if !end {
                self.queue.push_at(unpublished.event, unpublished.at);
            }
        }
        Ok(())
    }

    /// That the container `id` has ended and is gone.
    pub(super) fn gone(&self, id: &str, exit: Exit) {
        let pid = exit.pid.cast_unsigned();
        let exited_at = Some(Timestamp::from(exit.at));
        let told = TaskExit {
            container_id: id.to_owned(),
            id: id.to_owned(),
            pid,
            exit_status: exit.status,
            exited_at: exited_at.clone().into(),
            ..Default::default()
        };
        self.queue.push_at(Event::Exit(told), exit.at);
        self.queue.push(Event::Delete(TaskDelete {
            container_id: id.to_owned(),
            pid,
            exit_status: exit.status,
            exited_at: exited_at.into(),
            ..Default::default()
        }));
    }

    /// Tells the manager at `address`, while there is `time`.
    ///
    /// # Errors
    /// When it has not taken it all.
    pub(super) fn tell(self, address: &str, namespace: &str, time: Duration) -> Result<()> {
        if self.queue.is_empty() {
            forget(&self.journals);
            return Ok(());
        }
        if address.is_empty() {
            return Ok(());
        }
        let what = "tell the manager what the shim that died had not told it";
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::io(what, &e))?;
        let queue = self.queue.clone();
        runtime.block_on(async {
            let publisher = Publisher::start(self.queue, address.to_owned(), namespace.to_owned());
            // What is left is counted below.
            let _ = tokio::time::timeout(time, publisher.drain(PUBLISH_LIMIT)).await;
        });
        match queue.len() {
            0 => {
                forget(&self.journals);
                Ok(())
            }
            left => Err(Error::deadline_exceeded(format!(
                "{what}: {left} events not taken by {address}"
            ))),
        }
    }
}

/// The action may be run again, and these have been told.
fn forget(journals: &[PathBuf]) {
    journals.iter().for_each(|path| files::remove(path));
}
