//! Restore: the init of a container that was created from a checkpoint comes to life at Start.
//!
//! Invariant: what is started is what the checkpoint holds, never a fresh program; a restore that
//! failed leaves nothing of it behind, and the container as it was, to be started again or deleted.
//!
//! Until then there is no process and the runtime knows nothing (contract 6.5): the state is
//! [`State::CreatedCheckpoint`](crate::container::state::State), the pid 0. From Start on it is a container
//! like any other, with a cgroup (the Go shim's have none) and the same path for an early exit.

use std::sync::Arc;

use super::runtime::undo;
use super::streams::{self, Opening};
use crate::cgroup::Cgroup;
use crate::container::senses::cgroup_of;
use crate::container::to_restore::ToRestore;
use crate::container::{Container, Process, files};
use crate::error::{Error, Result};
use crate::lifecycle::StartId;
use crate::monitor::Pid;
use crate::runtime::{Named, RestoreOptions, read_named};
use crate::stdio::Io;

impl Container {
    /// The runtime's part of a Start that restores, and the announcement.
    pub(super) async fn restore_init(
        self: &Arc<Self>,
        init: &Arc<Process>,
        restore: &ToRestore,
        start: StartId,
    ) -> Result<Pid> {
        restore.has_images(self.shared.limits.disk).await?;
        let restored = self.run_restore(init, restore, start).await;
        let announced = restored.and_then(|(named, cgroup)| {
            self.set_oom_group(cgroup.as_ref().ok())
                .inspect_err(|_| init.close_io())?;
            let announced = self.shared.announce(start, named, init, None);
            announced.map_err(no_pid).inspect_err(|_| init.close_io())?;
            self.watch(cgroup);
            Ok(named.pid)
        });
        if announced.is_err() {
            undo(&self.runtime, &self.id, "restore").await;
            files::remove(&self.bundle.join(files::INIT_PID));
        }
        announced
    }

    /// The streams stay open while restores fail, so that clients that hold the other ends see no end
    /// of them; but for a failure after the runtime's success, when they are opened anew.
    async fn run_restore(
        &self,
        init: &Process,
        restore: &ToRestore,
        start: StartId,
    ) -> Result<(Named, Result<Cgroup>)> {
        let io = match init.io() {
            Some(io) => io,
            None => self.reopen(init, restore).await?,
        };
        let options = RestoreOptions {
            image_path: restore.image.clone(),
            work_path: restore.work.clone(),
            pid_file: self.bundle.join(files::INIT_PID),
            console_socket: io.console_socket(),
            no_pivot: restore.no_pivot,
        };
        let fds = restore.fds().try_clone();
        let fds = fds.map_err(|e| Error::io("hand over the streams", &e))?;
        let call = self.runtime.restore(&self.id, &self.bundle, &options, fds);
        let call = io.during(call);
        let called = self.shared.named_meanwhile(start, &options.pid_file, call);
        let called = called.await;
        // A terminal that has been taken already is that of the call that failed.
        let failed = called.inspect_err(|_| {
            if io.has_terminal() {
                init.close_io();
            }
        });
        failed.map_err(|why| one_line(why.into()))?;
        let named = read_named(&options.pid_file).map_err(no_pid)?;
        // At once: it runs already, and may be gone soon.
        let lives = self.shared.still_has_pid(start, named);
        let cgroup = cgroup_of(&self.id, lives).await;
        self.limit_pids(cgroup.as_ref().ok()).await?;
        // Copies of ours would hold back the end of its streams.
        drop(std::mem::take(&mut *restore.fds()));
        let connected = io.connect_terminal(self.shared.limits.console).await;
        connected.inspect_err(|_| init.close_io())?;
        io.start();
        // Again: it has a terminal now, which can have the size that was asked for.
        init.set_io(io);
        Ok((named, cgroup))
    }

    async fn reopen(&self, init: &Process, restore: &ToRestore) -> Result<Arc<Io>> {
        let opening = Opening {
            id: &self.id,
            stdio: &init.stdio,
            owner: self.io_owner,
            buffering: self.buffering,
            logger_allow: self.logger_allow.as_deref(),
            memory: self.record.memory(),
        };
        let (io, fds) = streams::open(&self.shared, &opening, "init").await?;
        restore.keep(fds);
        init.set_io(Arc::clone(&io));
        Ok(io)
    }
}

fn no_pid(error: Error) -> Error {
    error.context("failed to retrieve OCI runtime container pid")
}

/// runc's second line says where CRIU's log is.
fn one_line(mut error: Error) -> Error {
    error.message = error.message.lines().collect::<Vec<_>>().join("; ");
    error
}
