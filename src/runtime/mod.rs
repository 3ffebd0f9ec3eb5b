//! A call of the OCI runtime always ends, within its limit, and leaves nothing behind but what it
//! was asked to make.
//!
//! Any runtime with runc's command line will do. A call is one child of the [`Monitor`], leader of
//! a process group of its own so that its limit ends its helpers too. Dropping a future here kills
//! nothing: a call that has begun goes on and is reaped, only its limit and its answer are lost. Whoever needs
//! them runs the future in a task of its own.
//!
//! **The log.** Calls on one container overlap (execs), so a message read from one common
//! `log.json` could belong to another call, or to an earlier one that failed likewise. Each call
//! therefore logs to a file of its own, which is appended to `log.json` at the end, where people
//! look, and removed.
//!
//! **Standard streams.** In create, exec and restore they belong to the container. A runtime may
//! write its own complaints there as well (both runc and crun do), so the message of an error
//! comes from the log. The other calls have their output captured, a bounded tail of it; a
//! grandchild that keeps the pipe open delays nothing.
//!
//! Pinned by `tests/runtime.rs`, with runc, crun and a runtime that misbehaves on purpose.

mod argv;
mod call;
mod error;
mod log;
mod pid_file;
mod private_file;
pub(crate) mod record;
mod spawn;
mod started;

pub use argv::{CheckpointOptions, CreateOptions, ExecOptions, RestoreOptions};
pub(crate) use call::clean_environment;
pub use error::{Kind, Operation, RuntimeError};
pub(crate) use log::last_error;
pub(crate) use pid_file::parse as parse_pid;
pub use pid_file::{Named, read_named, read_pid_file};
pub(crate) use spawn::reach;

use std::fs;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::errno::{Words, is_absent};
use crate::monitor::{Monitor, Pid};
use argv::Argv;
use call::Streams;
use private_file::{PrivateFile, remove_left};

/// How the file is called that holds an exec's process, with all its environment.
const PROCESS: &str = "process";

/// Removes the files that hold the processes of execs, left in a bundle by a shim that is dead.
pub fn remove_left_processes(bundle: &Path) {
    remove_left(bundle, PROCESS);
}

/// How to call the runtime for one container.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// A path, or a name looked up in `PATH`.
    pub binary: PathBuf,
    /// Where the runtime keeps its state: `<root>/<namespace>`.
    pub root: PathBuf,
    /// The log people read: `<bundle>/log.json`. Files for single calls are made beside it.
    pub log: PathBuf,
    /// Cgroups are made by systemd.
    pub systemd_cgroup: bool,
    /// Reaps the calls.
    pub monitor: Monitor,
    /// One limit for every operation instead of [`Operation::limit`].
    pub limit: Option<Duration>,
}

/// The container's ends of its standard streams; they are closed here once it has them.
/// `None` is `/dev/null`, open for reading and writing.
#[derive(Debug, Default)]
pub struct Fds {
    /// File descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// File descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// File descriptor 2.
    pub stderr: Option<OwnedFd>,
}

impl Fds {
    /// Further descriptors of the same streams.
    ///
    /// # Errors
    /// What the system said.
    pub fn try_clone(&self) -> io::Result<Self> {
        let clone = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        Ok(Self {
            stdin: clone(&self.stdin)?,
            stdout: clone(&self.stdout)?,
            stderr: clone(&self.stderr)?,
        })
    }
}

impl Runtime {
    /// Whether it keeps a state directory for a container of this id. Where that cannot be told it may: the
    /// runtime is asked then, and nothing taken for gone.
    pub fn knows(&self, id: &str) -> bool {
        may_be_there(&self.root.join(id))
    }

    /// Whether the container's init waits at a FIFO of the runtime's: runc and crun remove it when
    /// they have let the init go. Other runtimes have none.
    pub fn is_gated(&self, id: &str) -> bool {
        self.root.join(id).join("exec.fifo").exists()
    }

    /// Whether its kill of a running container with a pid namespace of its own is a kill(2) of the
    /// init's pid and nothing else, as is that of runc and crun. Of others the process that the
    /// shim knows may be a virtual machine or a sandbox, for which the signal is not meant.
    pub fn kills_by_pid(&self) -> bool {
        let name = self.binary.file_name().and_then(|name| name.to_str());
        matches!(name, Some("runc" | "crun"))
    }

    /// Makes the container; its init waits for [`Runtime::start`]. A stale pid file is removed.
    pub async fn create(
        &self,
        id: &str,
        bundle: &Path,
        options: &CreateOptions,
        fds: Fds,
    ) -> Result<(), RuntimeError> {
        forget(&options.pid_file);
        let argv = argv::create(id, bundle, options);
        self.call(Operation::Create, id, argv, Streams::Container(fds))
            .await
            .map(drop)
    }

    /// Lets the container's init run its program.
    pub async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        self.captured(Operation::Start, id, argv::start(id)).await
    }

    /// Starts a further process in the container and leaves it running. `spec` is the OCI
    /// `process` object as JSON. A stale pid file is removed.
    pub async fn exec(
        &self,
        id: &str,
        spec: &[u8],
        options: &ExecOptions,
        fds: Fds,
    ) -> Result<(), RuntimeError> {
        forget(&options.pid_file);
        let process = PrivateFile::beside(&self.log, PROCESS).and_then(|mut file| {
            file.write_all(spec)?;
            Ok(file)
        });
        let process = process.map_err(|e| {
            let directory = self.log.parent().unwrap_or(&self.log);
            let message = format!(
                "write the process spec in {}: {e}",
                directory.display(),
                e = e.words()
            );
            RuntimeError::new(Operation::Exec, Kind::Spawn, message)
        })?;
        let argv = argv::exec(id, process.path(), options);
        self.call(Operation::Exec, id, argv, Streams::Container(fds))
            .await
            .map(drop)
    }

    /// Sends a signal to the init, or with `all` to every process of the container.
    pub async fn kill(&self, id: &str, signal: u32, all: bool) -> Result<(), RuntimeError> {
        self.captured(Operation::Kill, id, argv::kill(id, signal, all))
            .await
    }

    /// Removes what the runtime keeps of the container; with `force` also of a running one.
    pub async fn delete(&self, id: &str, force: bool) -> Result<(), RuntimeError> {
        self.captured(Operation::Delete, id, argv::delete(id, force))
            .await
    }

    /// Freezes all processes of the container.
    pub async fn pause(&self, id: &str) -> Result<(), RuntimeError> {
        self.captured(Operation::Pause, id, argv::pause(id)).await
    }

    /// Lets a frozen container run on.
    pub async fn resume(&self, id: &str) -> Result<(), RuntimeError> {
        self.captured(Operation::Resume, id, argv::resume(id)).await
    }

    /// The container's processes as seen from the host.
    pub async fn ps(&self, id: &str) -> Result<Vec<Pid>, RuntimeError> {
        let streams = Streams::Captured(None);
        let output = self.call(Operation::Ps, id, argv::ps(id), streams).await?;
        // runc prints `null` for none.
        let pids: Option<Vec<Pid>> = serde_json::from_slice(&output).map_err(|e| {
            let message = format!("list of processes of {id:?}: {e}");
            RuntimeError::new(Operation::Ps, Kind::Output, message)
        })?;
        Ok(pids.unwrap_or_default())
    }

    /// Changes resource limits; `resources` is the OCI `linux.resources` object as JSON.
    pub async fn update(&self, id: &str, resources: &[u8]) -> Result<(), RuntimeError> {
        let stdin = in_memory(resources).map_err(|e| {
            let message = format!("hand over the resources: {e}", e = e.words());
            RuntimeError::new(Operation::Update, Kind::Spawn, message)
        })?;
        let streams = Streams::Captured(Some(stdin));
        self.call(Operation::Update, id, argv::update(id), streams)
            .await
            .map(drop)
    }

    /// Writes the state of the running container to disk.
    pub async fn checkpoint(
        &self,
        id: &str,
        options: &CheckpointOptions,
    ) -> Result<(), RuntimeError> {
        self.captured(Operation::Checkpoint, id, argv::checkpoint(id, options))
            .await
    }

    /// Makes a running container from a checkpoint. A stale pid file is removed.
    pub async fn restore(
        &self,
        id: &str,
        bundle: &Path,
        options: &RestoreOptions,
        fds: Fds,
    ) -> Result<(), RuntimeError> {
        forget(&options.pid_file);
        let argv = argv::restore(id, bundle, options);
        self.call(Operation::Restore, id, argv, Streams::Container(fds))
            .await
            .map(drop)
    }

    /// What the runtime can do: the JSON it prints.
    pub async fn features(&self) -> Result<Vec<u8>, RuntimeError> {
        let streams = Streams::Captured(None);
        self.call(Operation::Features, "", argv::features(), streams)
            .await
    }

    /// Which version it is: what it prints, its name and number first.
    pub async fn version(&self) -> Result<Vec<u8>, RuntimeError> {
        let streams = Streams::Captured(None);
        self.call(Operation::Version, "", argv::version(), streams)
            .await
    }

    async fn captured(
        &self,
        operation: Operation,
        id: &str,
        argv: Argv,
    ) -> Result<(), RuntimeError> {
        let streams = Streams::Captured(None);
        self.call(operation, id, argv, streams).await.map(drop)
    }
}

/// A file left by an earlier process must not pass for this one's.
fn forget(pid_file: &Path) {
    // Absent, as a rule. If it can't be removed the runtime can't write it either, and says so.
    let _ = fs::remove_file(pid_file);
}

/// A file without a name: no writer has to keep up with the reader, as with a pipe.
fn in_memory(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = fs::File::from(memfd_create("resources", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

/// Whether there is something, or it cannot be told; that is logged.
fn may_be_there(path: &Path) -> bool {
    match path.metadata() {
        Ok(_) => true,
        Err(why) if is_absent(&why) => false,
        Err(why) => {
            ::log::warn!("look for {}: {}", path.display(), why.words());
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_looked_for_may_be_there() {
        let file = std::env::temp_dir().join(format!("cotter-knows-{}", std::process::id()));
        assert!(!may_be_there(&file.join("c1")));
        fs::write(&file, "").unwrap();
        // ENOTDIR.
        let looked = [&file, &file.join("c1")].map(|path| may_be_there(path));
        fs::remove_file(&file).unwrap();
        assert_eq!(looked, [true; 2]);
    }
}
