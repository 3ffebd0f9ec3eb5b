//! Delete: forget an exec, or take a container apart.
//!
//! Invariant: exit before delete, also for a container that was never started; waiters are
//! released; a Delete that failed half-way can be repeated. Draining the output runs outside every
//! lock.

use std::sync::{Arc, PoisonError};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::rootfs::unmount;
use crate::container::process::{ExitStatus, Process};
use crate::container::state::{ExecOp, InitOp, State, exec_allows, init_allows};
use crate::container::{Container, Registry, exit_file, files};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::monitor::Pid;
use crate::proto::events::TaskDelete;
use crate::proto::timestamp;
use crate::stdio::Drain;

/// What a Delete tells of the process that it removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Its last pid; 0 if it never ran.
    pub pid: Pid,
    /// How it ended; status 0 and no time if it never ran.
    pub exit: ExitStatus,
}

impl Registry {
    /// Deletes the init and with it the container (empty id), or an exec.
    ///
    /// # Errors
    /// The state's refusal, or the step that failed; the container stays as it was, to be deleted again.
    pub async fn delete(&self, id: &str, exec_id: &str) -> Result<Deleted> {
        let container = self.get(id)?;
        let process = container.process(exec_id)?;
        if !process.is_init() {
            return container.delete_exec(&process).await;
        }
        let deleted = container.take_apart().await?;
        let limit = self.shared.limits.bundle;
        self.shared.keeper.remove(id, limit).await;
        self.remove(&container);
        Ok(deleted)
    }
}

impl Container {
    async fn delete_exec(&self, exec: &Arc<Process>) -> Result<Deleted> {
        exec_allows(exec.facts().state, ExecOp::Delete)?;
        self.drain(vec![Arc::clone(exec)]).await;
        let limit = self.shared.limits.turn;
        let _turn = exec.turn.take("delete", exec.id(), limit).await?;
        let facts = exec.facts();
        exec_allows(facts.state, ExecOp::Delete)?;
        self.execs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&exec.exec_id);
        let deleted = Deleted::of(exec);
        exec.is_deleted();
        Ok(deleted)
    }

    async fn take_apart(&self) -> Result<Deleted> {
        let init = &self.init;
        init_allows(init.facts().state, InitOp::Delete)?;
        if init.facts().state == State::Stopped {
            self.drain(self.processes()).await;
        }
        let _turn = self.turn("delete").await?;
        let state = init.facts().state;
        init_allows(state, InitOp::Delete)?;
        self.kills.over().await;

        // The kernel's counts go with the cgroup.
        self.sensed().tell_oom(None);
        self.sensed().last_look_at_pids();
        // The runtime has nothing of one that was not restored, but for what a failed try left.
        if state != State::CreatedCheckpoint || self.runtime.knows(&self.id) {
            let force = matches!(state, State::Created | State::CreatedCheckpoint);
            self.delete_from_runtime(force).await?;
        }
        if state == State::Created {
            let limit = self.shared.limits.killed_exit;
            timeout(limit, init.wait()).await.map_err(|_| {
                Error::deadline_exceeded(format!(
                    "container {}: its init was killed but did not exit in {limit:?}",
                    self.id
                ))
            })?;
            self.drain(self.processes()).await;
        }
        init.close_io();

        if !self.mounts.is_empty() {
            let rootfs = self.bundle.join("rootfs");
            unmount(&rootfs, self.shared.limits.unmount)
                .await
                .map_err(|e| e.context("failed rootfs umount"))?;
        }
        self.end_record().await;
        let deleted = Deleted::of(init);
        self.shared
            .tracker
            .forget(self.key, Some(self.deleted_event(&deleted)));
        for exec in self.execs() {
            exec.is_deleted();
        }
        self.execs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        init.is_deleted();
        files::forget(&self.bundle);
        exit_file::forget(&self.bundle);
        Ok(deleted)
    }

    /// A container that the runtime has forgotten already is as good as deleted.
    async fn delete_from_runtime(&self, force: bool) -> Result<()> {
        match self.runtime.delete(&self.id, force).await {
            Err(e) if !e.no_such_container() => {
                Err(Error::from(e).context("failed to delete task"))
            }
            Err(_) => Ok(()),
            Ok(()) => self.is_gone_from_runtime(),
        }
    }

    /// A state directory that is left would be in the way of the next container of this id.
    fn is_gone_from_runtime(&self) -> Result<()> {
        if !self.runtime.knows(&self.id) {
            return Ok(());
        }
        Err(Error::unknown(format!(
            "failed to delete task: OCI runtime delete reported success but {} is still there",
            self.runtime.root.join(&self.id).display()
        )))
    }

    /// The init and all execs: whoever reads an exec's output gets its tail too, though the container
    /// is deleted before the exec.
    fn processes(&self) -> Vec<Arc<Process>> {
        let mut all = self.execs();
        all.push(Arc::clone(&self.init));
        all
    }

    /// Waits for the output of all of them at once, and for the end of their loggers.
    async fn drain(&self, processes: Vec<Arc<Process>>) {
        let limit = self.shared.limits.io_drain;
        let mut drains = JoinSet::new();
        for process in processes {
            if let Some(io) = process.io() {
                drains.spawn(async move {
                    let drain = io.drained(limit).await;
                    io.end_loggers().await;
                    (process, drain)
                });
            }
        }
        while let Some(drained) = drains.join_next().await {
            let Ok((process, drain)) = drained else {
                continue;
            };
            let (what, why) = match drain {
                Drain::Done => continue,
                Drain::Unread(stream) => (stream, "nobody has opened it to read"),
                Drain::TimedOut(stream) => {
                    (stream, "a process holds it open or its reader is slow")
                }
            };
            log::warn!(
                "container {} process {}: {what} is closed before its end, after {limit:?}: {why}",
                self.id,
                process.id()
            );
        }
    }

    fn deleted_event(&self, deleted: &Deleted) -> Event {
        Event::Delete(TaskDelete {
            container_id: self.id.clone(),
            pid: deleted.pid.cast_unsigned(),
            exit_status: deleted.exit.status,
            exited_at: Some(timestamp(deleted.exit.at)).into(),
            ..Default::default()
        })
    }
}

impl Deleted {
    fn of(process: &Process) -> Self {
        Self {
            pid: process.facts().pid,
            exit: process.exit().unwrap_or(ExitStatus {
                status: 0,
                at: None,
            }),
        }
    }
}
