//! Restore: the init of a container that was created from a checkpoint comes to life at Start.
//!
//! Invariant: what is started is what the checkpoint holds, never a fresh program; a restore that
//! failed leaves nothing of it behind, and the container as it was, to be started again or deleted.
//!
//! Until then there is no process and the runtime knows nothing (contract 6.5): the state is
//! [`State::CreatedCheckpoint`](super::state::State), the pid 0. From Start on it is a container
//! like any other, with a cgroup (the Go shim's have none) and the same path for an early exit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::create::Create;
use super::process::Process;
use super::{Container, create, files};
use crate::blocking::{Job, within};
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::lifecycle::StartId;
use crate::monitor::Pid;
use crate::runtime::{Fds, Named, RestoreOptions, read_named};
use crate::stdio::{self, Io};

/// What Start needs of the Create that named a checkpoint.
#[derive(Debug)]
pub(super) struct Restore {
    image: PathBuf,
    work: PathBuf,
    no_pivot: bool,
    /// The container's ends of the streams; none any more once it has them.
    fds: Mutex<Fds>,
}

impl Restore {
    /// None for a Create without a checkpoint.
    ///
    /// # Errors
    /// A path that is not absolute.
    pub(super) fn of(create: &Create) -> Result<Option<Self>> {
        let work = create.options.criu_work_path.as_str();
        for (what, path) in [
            ("checkpoint", &*create.checkpoint),
            ("criu_work_path", work),
        ] {
            if !path.is_empty() && !Path::new(path).is_absolute() {
                return Err(Error::invalid_argument(format!(
                    "{what} \"{}\" is not an absolute path",
                    path.escape_debug()
                )));
            }
        }
        let restore = Self {
            image: PathBuf::from(&create.checkpoint),
            work: match work {
                "" => create.bundle.join("work"),
                work => work.into(),
            },
            no_pivot: create.options.no_pivot_root,
            fds: Mutex::default(),
        };
        Ok(Some(restore).filter(|_| !create.checkpoint.is_empty()))
    }

    /// Takes the container's ends of its streams until there is a process to have them.
    pub(super) fn keep(&self, fds: Fds) {
        *self.fds() = fds;
    }

    fn fds(&self) -> MutexGuard<'_, Fds> {
        self.fds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is something to restore from. Asked at Create and again at Start: managers keep
    /// images in temporary places.
    pub(super) async fn has_images(&self, limit: Duration) -> Result<()> {
        let image = self.image.clone();
        let job = Job {
            name: "checkpoint",
            what: format!("look at checkpoint {}", image.display()),
            limit,
        };
        within(job, move || has_images(&image)).await?
    }
}

fn has_images(image: &Path) -> Result<()> {
    let failed = |e: &io::Error| Error::io(format!("checkpoint {}", image.display()), e);
    if fs::read_dir(image)
        .map_err(|e| failed(&e))?
        .next()
        .is_none()
    {
        return Err(Error::not_found(format!(
            "checkpoint {}: images in the directory, which is empty",
            image.display()
        )));
    }
    // By this link CRIU finds what incremental images build upon.
    let parent = image.join("parent");
    if parent.is_symlink() {
        fs::metadata(&parent).map_err(|e| failed(&e).context("parent of an incremental"))?;
    }
    Ok(())
}

impl Container {
    /// The runtime's part of a Start that restores, and the announcement.
    pub(super) async fn restore_init(
        self: &Arc<Self>,
        init: &Arc<Process>,
        restore: &Restore,
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
            create::undo(&self.runtime, &self.id, "restore").await;
            files::remove(&self.bundle.join(files::INIT_PID));
        }
        announced
    }

    /// The streams stay open while restores fail, so that clients that hold the other ends see no end
    /// of them; but for a failure after the runtime's success, when they are opened anew.
    async fn run_restore(
        &self,
        init: &Process,
        restore: &Restore,
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
        let cgroup = create::cgroup_of(&self.id, lives).await;
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

    async fn reopen(&self, init: &Process, restore: &Restore) -> Result<Arc<Io>> {
        let failed = |e: Error| e.context("failed to create init process I/O");
        let plan = stdio::plan(&init.stdio).map_err(failed)?;
        let ((uid, gid), limit) = (self.io_owner, self.shared.limits.disk);
        let asked = stdio::ask(plan, self.logger_allow.as_deref(), limit).await;
        let plan = asked.map_err(failed)?;
        let opened = Io::open_within(plan, uid, gid, self.buffering, limit).await;
        let (io, fds) = opened.map_err(failed)?;
        let io = Arc::new(io);
        let host = self.shared.host(&self.id, self.logger_allow.as_deref());
        io.start_loggers(&host).await.map_err(failed)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn create(checkpoint: &str, work: &str) -> Create {
        let mut create = Create {
            bundle: "/b".into(),
            checkpoint: checkpoint.into(),
            ..Default::default()
        };
        create.options.criu_work_path = work.into();
        create
    }

    #[test]
    fn what_start_needs() {
        assert!(Restore::of(&create("", "")).unwrap().is_none());
        for (work, expected) in [("", "/b/work"), ("/w", "/w")] {
            let restore = Restore::of(&create("/i", work)).unwrap().unwrap();
            assert_eq!(
                (&*restore.image, &*restore.work),
                (Path::new("/i"), Path::new(expected))
            );
        }
        for (checkpoint, work) in [("i", ""), ("../i", ""), ("/i", "w"), ("", "w")] {
            let error = Restore::of(&create(checkpoint, work)).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{error}");
        }
    }

    #[test]
    fn a_place_without_images_is_named() {
        let dir = std::env::temp_dir().join(format!("cotter-images-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let message = |path: &Path| {
            let error = has_images(path).unwrap_err();
            assert!(
                error.message.contains(path.to_str().unwrap())
                    && error.message.lines().count() == 1,
                "{error}"
            );
            error
        };
        assert_eq!(message(&dir.join("missing")).code, Code::NotFound);
        assert_eq!(message(&dir).code, Code::NotFound);
        let file = dir.join("inventory.img");
        fs::write(&file, "").unwrap();
        message(&file);
        has_images(&dir).unwrap();
        std::os::unix::fs::symlink("../nowhere", dir.join("parent")).unwrap();
        let error = message(&dir);
        assert!(
            error.message.starts_with("parent of an incremental"),
            "{error}"
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
