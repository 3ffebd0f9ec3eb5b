//! A container and its processes: what can be asked of them, one module an operation.
//!
//! Invariant: operations with side effects on one process go one after another, and always end in a
//! known state, whoever asked and whether or not they are still there: callers run them in tasks of
//! the shim ([`crate::service`]). Other containers, and questions ([`operations::snapshot`],
//! [`operations::members`]), never wait for them.
//!
//! | question | module |
//! |---|---|
//! | What is allowed in which state? | [`state`] |
//! | What is known of a process? | [`process`] |
//! | In which order are things told? | [`tracker`] over [`crate::lifecycle`] |
//! | Which containers are there? | [`registry`] |

mod crowd;
pub mod exec_by;
pub mod exit_file;
pub(crate) mod files;
mod image;
mod kills;
mod naming;
mod oom_group;
pub mod operations;
pub mod pids_limit;
pub mod process;
mod record;
pub mod registry;
mod report;
mod senses;
mod shared;
pub mod state;
mod to_restore;
pub mod tracker;
mod turn;
mod waits;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::RwLock;
use tokio::task::JoinSet;

pub use naming::Reaped;
pub use process::{ExitStatus, Process};
pub use registry::Registry;
pub use shared::Shared;

use crate::cgroup::Cgroup;
use crate::direct::Direct;
use crate::error::{Error, Result};
use crate::lifecycle::ContainerKey;
use crate::mount::Mount;
use crate::runtime::Runtime;
use crate::sensing::Senses;
use crate::stdio::{Buffering, Size};
use kills::Kills;
use pids_limit::Given;
use state::{ExecOp, exec_allows};
use to_restore::ToRestore;
use waits::Waits;

/// One container: an init, its execs, and what they share.
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its bundle directory.
    pub bundle: PathBuf,
    /// The mounts that Create was asked to make, as they are told in TaskCreate.
    mounts: Vec<Mount>,
    /// Its name in the lifecycle.
    key: ContainerKey,
    /// The runtime, set up for this container's root and log.
    runtime: Runtime,
    /// Whether the runtime is asked to kill what is left when init is gone: true unless the
    /// container has a pid namespace of its own, where the kernel does it.
    kill_all_on_exit: bool,
    /// The uid and gid that own the container's ends of the stdio pipes.
    io_owner: (u32, u32),
    /// How its outputs are buffered, and its execs'.
    buffering: Buffering,
    /// Which programs may be its loggers and its execs', where its options say so.
    logger_allow: Option<String>,
    /// Its first process.
    pub init: Arc<Process>,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
    /// Known when there is an init: from Create on, or from the Start that restores it.
    cgroup: OnceLock<Cgroup>,
    /// What the kernel has told of it.
    senses: Senses,
    /// The kernel is to kill all or nobody.
    oom_group: bool,
    pids_limit: Given,
    /// How its execs are done without the runtime, if they may be.
    direct: Option<Direct>,
    /// Its annotations name a group: what is right above its cgroup is its pod's.
    in_pod: bool,
    /// Init's exit, as it comes into the bundle.
    record: record::Record,
    /// What its init ran when it was created, waiting to be started, and whether at a gate.
    unstarted: OnceLock<(image::Image, bool)>,
    /// The checkpoint that Start restores; none for a container with a fresh init.
    restore: Option<ToRestore>,
    /// Held to read while a process joins the container, to write while none may.
    joining: RwLock<()>,
    shared: Arc<Shared>,
    /// The kills under way, by clients and of what init left behind.
    kills: Kills,
    /// The Waits of clients.
    waits: Waits,
    /// The container's own background work: the latter kill and the drain timer. Ends with it.
    tasks: Mutex<JoinSet<()>>,
}

impl Container {
    /// The init for an empty id, else the exec of that id.
    ///
    /// # Errors
    /// `NotFound` `process does not exist <id>`.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        execs.get(exec_id).cloned().ok_or_else(|| {
            Error::not_found(format!("process does not exist {}", files::shown(exec_id)))
        })
    }

    /// Sets the size of a process's terminal. Without one, or after the init's exit, does nothing;
    /// before an exec's start it is what the terminal will have.
    ///
    /// # Errors
    /// `NotFound`, a stopped exec's refusal (contract 3.2), or `InvalidArgument` for a size that no
    /// terminal can have.
    pub fn resize(&self, exec_id: &str, width: u32, height: u32) -> Result<()> {
        let process = self.process(exec_id)?;
        if !process.is_init() {
            exec_allows(process.facts().state, ExecOp::Resize)?;
        }
        process.resize(Size::new(width, height)?)
    }

    /// The turn of an operation on the container or its init.
    async fn turn(&self, operation: &'static str) -> Result<turn::Turn<'_>> {
        let limit = self.shared.limits.turn;
        self.init.turn.take(operation, &self.id, limit).await
    }

    /// All execs that have not been deleted.
    fn execs(&self) -> Vec<Arc<Process>> {
        self.execs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Runs something for as long as the container is known.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    /// Init's exit is being held back for execs: bound the wait.
    fn arm_exec_drain(self: &Arc<Self>) {
        let (tracker, key) = (Arc::clone(&self.shared.tracker), self.key);
        let (limit, id) = (self.shared.limits.exec_drain, self.id.clone());
        self.spawn(async move {
            tokio::time::sleep(limit).await;
            log::warn!("container {id}: execs did not end within {limit:?} of their init; publishing its exit");
            tracker.drain_expired(key);
        });
    }
}
