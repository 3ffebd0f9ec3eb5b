//! Checkpoint: write a running or paused container to disk, and let it run on or end.
//!
//! Invariant: a checkpoint that failed leaves the container as it was, running or paused. Nothing
//! joins the container meanwhile: starts of its execs wait, as do the other operations on it.
//!
//! `TaskCheckpointed` is queued when the runtime has succeeded, and before any `TaskDelete`. With
//! `exit` the container's `TaskExit` may precede it: CRIU kills the container before the runtime
//! returns, and no exit waits for a runtime.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tokio::time::timeout;

use crate::blocking::{Job, within};
use crate::container::Container;
use crate::container::state::{InitOp, State, init_allows};
use crate::errno::Words;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::proto::events::TaskCheckpointed;
use crate::proto::runc_options;
use crate::runtime::{CheckpointOptions, Kind, RuntimeError};

/// CRIU's log of a dump, in its work directory.
const DUMP_LOG: &str = "dump.log";
/// The copy of it that outlives the work directory, in the bundle (contract 6.4).
const KEPT_LOG: &str = "criu-dump.log";

impl Container {
    /// Writes the container to the directory `path`, by default the one that `options` names.
    ///
    /// # Errors
    /// The state's refusal, what is wrong with the request, or the runtime's error and where CRIU's
    /// log is. The container is as it was.
    pub async fn checkpoint(
        &self,
        path: &str,
        options: &runc_options::CheckpointOptions,
    ) -> Result<()> {
        let allowed = || init_allows(self.state_of_init(), InitOp::Checkpoint);
        allowed()?;
        let options = plan(&self.bundle, path, options)?;
        let _turn = self.turn("checkpoint").await?;
        let limit = self.shared.limits.turn;
        let _alone = timeout(limit, self.joining.write()).await.map_err(|_| {
            Error::deadline_exceeded(format!(
                "checkpoint of {} waited {limit:?} for the start of an exec, and can be repeated",
                self.id
            ))
        })?;
        allowed()?;

        let ours = options.work_path == default_work(&self.bundle);
        let kept = self.bundle.join(KEPT_LOG);
        let (work, log) = (options.work_path.clone(), kept.clone());
        within(self.disk_job("make room for a checkpoint"), move || {
            remove_if_there(fs::remove_file(&log), &log)?;
            if ours { make_work(&work) } else { Ok(()) }
        })
        .await??;

        let was_frozen = self.is_frozen();
        let called = self.runtime.checkpoint(&self.id, &options).await;
        if called.is_ok() {
            self.shared.tracker.step(|queue| {
                queue.push(Event::Checkpointed(TaskCheckpointed {
                    container_id: self.id.clone(),
                    checkpoint: options.image_path.to_string_lossy().into_owned(),
                    ..Default::default()
                }));
            });
        }
        if called.is_err() || options.leave_running {
            self.frozen_as_before(was_frozen, &called).await;
        }

        let failed = called.is_err();
        let (work, log) = (options.work_path, kept.clone());
        let has_log = within(self.disk_job("tidy up after a checkpoint"), move || {
            let has_log = failed && keep_log(&work, &log);
            if ours {
                let removed = remove_if_there(fs::remove_dir_all(&work), &work);
                removed.unwrap_or_else(|e| log::warn!("after a checkpoint: {e}"));
            }
            has_log
        })
        .await
        .inspect_err(|e| log::warn!("container {}: after a checkpoint: {e}", self.id));
        called.map_err(|why| explained(why, has_log.unwrap_or_default().then_some(&*kept)))
    }

    /// Work on the checkpoint's files, which may be on a disk of the client's choice.
    fn disk_job(&self, what: &str) -> Job<'static> {
        Job {
            name: "checkpoint",
            what: format!("{what} of container {}", self.id),
            limit: self.shared.limits.disk,
        }
    }

    /// CRIU freezes what it dumps. One that failed, or was cut off, may leave it so, or may thaw what
    /// was frozen before.
    async fn frozen_as_before(&self, before: Option<bool>, called: &Result<(), RuntimeError>) {
        let cut_off = matches!(
            called,
            Err(RuntimeError {
                kind: Kind::Timeout | Kind::Killed(_),
                ..
            })
        );
        match (self.state_of_init(), before, self.is_frozen()) {
            (State::Running, Some(false), Some(true)) => self.thaw("its checkpoint froze it").await,
            (State::Running, None, None) if cut_off => {
                self.thaw("its checkpoint was cut off").await
            }
            (State::Paused, _, Some(false)) => self.freeze_again().await,
            _ => {}
        }
    }
}

/// What the runtime is to be told.
fn plan(
    bundle: &Path,
    path: &str,
    options: &runc_options::CheckpointOptions,
) -> Result<CheckpointOptions> {
    // containerd makes the path of the option the path of the request.
    let image = if path.is_empty() {
        &options.image_path
    } else {
        path
    };
    let work = options.work_path.as_str();
    let absolute = |what: &str, path: &str| match Path::new(path) {
        path if path.is_absolute() => Ok(path.to_owned()),
        _ => Err(Error::invalid_argument(format!(
            "checkpoint: {what} \"{}\" is not an absolute path",
            path.escape_debug()
        ))),
    };
    Ok(CheckpointOptions {
        image_path: absolute("path", image)?,
        work_path: match work {
            "" => default_work(bundle),
            work => absolute("work_path", work)?,
        },
        parent_path: Some(options.parent_path.as_str())
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        tcp_established: options.open_tcp,
        ext_unix_sockets: options.external_unix_sockets,
        shell_job: options.terminal,
        file_locks: options.file_locks,
        cgroups_mode: options.cgroups_mode.clone(),
        empty_namespaces: options.empty_namespaces.clone(),
        leave_running: !options.exit,
    })
}

/// Removed after each checkpoint (contract 6.4).
fn default_work(bundle: &Path) -> PathBuf {
    bundle.join("work/criu-work")
}

/// An empty directory. The runtime makes one itself, but not the one above it, which managers other
/// than containerd may not have made.
fn make_work(work: &Path) -> Result<()> {
    remove_if_there(fs::remove_dir_all(work), work)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(work)
        .map_err(|e| Error::io(format!("mkdir {}", work.display()), &e))
}

fn remove_if_there(removed: io::Result<()>, path: &Path) -> Result<()> {
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}

/// Whether CRIU wrote a log that could be kept.
fn keep_log(work: &Path, kept: &Path) -> bool {
    let from = work.join(DUMP_LOG);
    // Made anew: what somebody may have put there since it was removed is not written to.
    let copy = || {
        let mut options = fs::OpenOptions::new();
        let mut log = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&from)?;
        let mut options = fs::OpenOptions::new();
        let mut to = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(kept)?;
        io::copy(&mut log, &mut to)
    };
    match copy() {
        Ok(_) => true,
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => {
            log::warn!(
                "copy {} to {}: {e}",
                from.display(),
                kept.display(),
                e = e.words()
            );
            false
        }
    }
}

/// The first line of the runtime's error: the others name the log in the work directory, which is
/// gone. The place of the kept one follows it, as in the Go shim.
fn explained(why: RuntimeError, log: Option<&Path>) -> Error {
    let mut error = Error::from(why);
    let line = error.message.lines().next().unwrap_or_default();
    error.message = match log {
        Some(log) => format!("{line} path= {}", log.display()),
        None => line.to_owned(),
    };
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::runtime::Operation;

    fn options() -> runc_options::CheckpointOptions {
        runc_options::CheckpointOptions::new()
    }

    #[test]
    fn every_option_reaches_the_runtime() {
        let b = Path::new("/b");
        let plain = plan(b, "/i", &options()).unwrap();
        assert_eq!(
            plain,
            CheckpointOptions {
                image_path: "/i".into(),
                work_path: "/b/work/criu-work".into(),
                leave_running: true,
                ..Default::default()
            }
        );
        let all = runc_options::CheckpointOptions {
            exit: true,
            open_tcp: true,
            external_unix_sockets: true,
            terminal: true,
            file_locks: true,
            empty_namespaces: vec!["network".into()],
            cgroups_mode: "ignore".into(),
            image_path: "/other".into(),
            work_path: "/w".into(),
            parent_path: "../p".into(),
            ..Default::default()
        };
        assert_eq!(
            plan(b, "/i", &all).unwrap(),
            CheckpointOptions {
                image_path: "/i".into(),
                work_path: "/w".into(),
                parent_path: Some("../p".into()),
                tcp_established: true,
                ext_unix_sockets: true,
                shell_job: true,
                file_locks: true,
                cgroups_mode: "ignore".into(),
                empty_namespaces: vec!["network".into()],
                leave_running: false,
            }
        );
        let of_the_option = plan(b, "", &all).unwrap();
        assert_eq!(of_the_option.image_path, Path::new("/other"));
    }

    #[test]
    fn paths_are_absolute() {
        let relative = runc_options::CheckpointOptions {
            work_path: "w".into(),
            ..options()
        };
        for (path, options, word) in [
            ("", options(), "path \"\""),
            ("i\n", options(), "path \"i\\n\""),
            ("/i", relative, "work_path \"w\""),
        ] {
            let error = plan(Path::new("/b"), path, &options).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(error.message.contains(word), "{error}");
        }
    }

    #[test]
    fn errors_name_the_log_that_is_there() {
        let why = |kind| RuntimeError {
            operation: Operation::Checkpoint,
            kind,
            message: "criu failed: type DUMP errno 0\nlog file: /gone/dump.log".into(),
        };
        let first = "OCI runtime checkpoint failed: criu failed: type DUMP errno 0";
        let with = explained(why(Kind::Failed(1)), Some(Path::new("/b/criu-dump.log")));
        let text = format!("{first} path= /b/criu-dump.log");
        assert_eq!(with, Error::unknown(text));
        let without = explained(why(Kind::Timeout), None);
        assert_eq!(without, Error::new(Code::DeadlineExceeded, first));
    }
}
