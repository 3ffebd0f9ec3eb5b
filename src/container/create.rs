//! Create: from a bundle to a container whose init waits to be started.
//!
//! Invariant: it ends with a whole, usable container, or with none: a failure at any step leaves
//! neither mount, container, process nor file, and the id is free again.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::{fs, io};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::registry::{Registry, Shared};
use super::{Container, Process, files};
use crate::blocking::blocking;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::lifecycle::{ContainerKey, StartId};
use crate::monitor::Pid;
use crate::mount::{self, Mount};
use crate::proto;
use crate::proto::events::{TaskCreate, TaskIO};
use crate::proto::runc_options::Options;
use crate::runtime::{CreateOptions, Runtime, read_pid_file};
use crate::spec::Spec;
use crate::stdio::{self, Io, Stdio};

/// The runtime of a container that names none.
pub const DEFAULT_RUNTIME: &str = "runc";
/// Where runtimes keep their state, if the options do not say.
pub const DEFAULT_ROOT: &str = "/run/containerd/runc";

/// What Create is asked for.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// The container's id.
    pub id: String,
    /// The bundle directory: an absolute path, holding config.json.
    pub bundle: PathBuf,
    /// Mounts that make up `<bundle>/rootfs`, in order; none means that the rootfs is not the shim's business.
    pub rootfs: Vec<Mount>,
    /// Where init's streams go.
    pub stdio: Stdio,
    /// A checkpoint to restore from.
    pub checkpoint: String,
    /// The runtime's options.
    pub options: Options,
}

impl Registry {
    /// Makes a container and answers its init's pid.
    ///
    /// # Errors
    /// The step that failed, and why. Nothing is left behind.
    pub async fn create(&self, create: Create) -> Result<Pid> {
        check(&create)?;
        let reservation = self.reserve(&create.id)?;
        let mut progress = Progress::default();
        match build(&self.shared, &create, &mut progress).await {
            Ok((container, pid)) => {
                reservation.fill(container);
                Ok(pid)
            }
            Err(error) => {
                progress.roll_back(&self.shared, &create).await;
                Err(error)
            }
        }
    }
}

/// What can be refused without touching anything.
fn check(create: &Create) -> Result<()> {
    files::check_id("container", &create.id)?;
    if !create.bundle.is_absolute() {
        return Err(Error::invalid_argument(format!(
            "bundle \"{}\" is not an absolute path",
            create.bundle.display()
        )));
    }
    if !create.checkpoint.is_empty() {
        return Err(Error::unimplemented("Create from a checkpoint"));
    }
    Ok(())
}

/// What has been done so far and has to be undone if the rest fails.
#[derive(Default)]
struct Progress {
    runtime: Option<Runtime>,
    made_rootfs_dir: bool,
    mounted: bool,
    recorded: bool,
    /// Its streams, once they are open.
    io: Option<Arc<Io>>,
    /// The runtime was asked to create, and knew no container of this name before.
    asked_runtime: bool,
    start: Option<(ContainerKey, StartId)>,
}

async fn build(
    shared: &Arc<Shared>,
    create: &Create,
    progress: &mut Progress,
) -> Result<(Arc<Container>, Pid)> {
    let plan =
        stdio::plan(&create.stdio).map_err(|e| e.context("failed to create init process I/O"))?;
    let bundle = create.bundle.as_path();
    let spec = Spec::read(bundle)?;
    let runtime = runtime(shared, bundle, &create.options);
    progress.runtime = Some(runtime.clone());

    if !create.rootfs.is_empty() {
        let rootfs = bundle.join("rootfs");
        progress.made_rootfs_dir = make_rootfs_dir(&rootfs)?;
        let mounts = create.rootfs.clone();
        blocking("mount", move || mount::mount_all(&mounts, &rootfs)).await??;
        progress.mounted = true;
    }
    progress.recorded = true;
    files::record(bundle, &create.options)?;

    let io_owner = (create.options.io_uid, create.options.io_gid);
    let (io, fds) = Io::open(&plan, io_owner.0, io_owner.1)
        .map_err(|e| e.context("failed to create init process I/O"))?;
    let io = Arc::new(io);
    progress.io = Some(Arc::clone(&io));
    let host = stdio::Host {
        monitor: &shared.monitor,
        id: &create.id,
        namespace: &shared.namespace,
        limits: &shared.limits,
    };
    io.start_loggers(&host)
        .await
        .map_err(|e| e.context("failed to create init process I/O"))?;

    let (key, start) = shared.tracker.begin_create();
    progress.start = Some((key, start));
    progress.asked_runtime = !runtime.root.join(&create.id).exists();
    let options = CreateOptions {
        pid_file: bundle.join(files::INIT_PID),
        console_socket: io.console_socket(),
        no_pivot: create.options.no_pivot_root,
        no_new_keyring: create.options.no_new_keyring,
    };
    files::remove(&options.pid_file);
    runtime.create(&create.id, bundle, &options, fds).await?;
    let pid = read_pid_file(&options.pid_file)
        .map_err(|e| e.context("failed to retrieve OCI runtime container pid"))?;
    io.connect_terminal(shared.limits.console).await?;
    io.start();

    let cgroup = Cgroup::of_pid(nix::unistd::Pid::from_raw(pid))
        .inspect_err(|e| log::warn!("container {}: its cgroup is unknown: {e}", create.id))
        .ok()
        .filter(|c| !c.is_shared_with_us());
    if let Some(cgroup) = &cgroup
        && let Err(e) = cgroup.enable_controllers()
    {
        log::warn!("container {}: enable cgroup controllers: {e}", create.id);
    }

    let container = Arc::new_cyclic(|me| Container {
        id: create.id.clone(),
        bundle: create.bundle.clone(),
        mounts: create.rootfs.clone(),
        key,
        runtime,
        kill_all_on_exit: spec.kill_all_on_exit,
        io_owner,
        init: Arc::new(Process::new(
            me.clone(),
            &create.id,
            "",
            create.stdio.clone(),
            Vec::new(),
        )),
        execs: Mutex::new(BTreeMap::new()),
        cgroup,
        shared: Arc::clone(shared),
        killing_all: watch::Sender::new(false),
        tasks: Mutex::new(JoinSet::new()),
    });
    container.init.set_io(io);
    shared
        .tracker
        .announce(start, pid, &container.init, Some(created(create, pid)))
        .map_err(|e| e.context("failed to retrieve OCI runtime container pid"))?;
    progress.start = None;
    Ok((container, pid))
}

/// The runtime as the options want it, for one container.
pub(super) fn runtime(shared: &Shared, bundle: &Path, options: &Options) -> Runtime {
    let or =
        |value: &str, default: &str| PathBuf::from(if value.is_empty() { default } else { value });
    Runtime {
        binary: or(&options.binary_name, DEFAULT_RUNTIME),
        root: or(&options.root, DEFAULT_ROOT).join(&shared.namespace),
        log: bundle.join("log.json"),
        systemd_cgroup: options.systemd_cgroup,
        monitor: shared.monitor.clone(),
        limit: shared.limits.runtime_call,
    }
}

/// Whether the directory was made by this call.
fn make_rootfs_dir(rootfs: &Path) -> Result<bool> {
    match fs::DirBuilder::new().mode(0o711).create(rootfs) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io(format!("mkdir {}", rootfs.display()), &e)),
    }
}

fn created(create: &Create, pid: Pid) -> Event {
    let stdio = &create.stdio;
    Event::Create(TaskCreate {
        container_id: create.id.clone(),
        bundle: create.bundle.to_string_lossy().into_owned(),
        rootfs: create.rootfs.iter().map(wire_mount).collect(),
        io: Some(TaskIO {
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            terminal: stdio.terminal,
            ..Default::default()
        })
        .into(),
        checkpoint: create.checkpoint.clone(),
        pid: pid.cast_unsigned(),
        ..Default::default()
    })
}

fn wire_mount(mount: &Mount) -> proto::types::Mount {
    proto::types::Mount {
        type_: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
        ..Default::default()
    }
}

impl Progress {
    async fn roll_back(self, shared: &Shared, create: &Create) {
        let id = &create.id;
        if let (Some(runtime), true) = (&self.runtime, self.asked_runtime) {
            // The runtime cleans up after a failure of its own; after a kill, a time-out or a
            // failure of ours its container is still there.
            if runtime.root.join(id).exists()
                && let Err(e) = runtime.delete(id, true).await
            {
                log::error!("container {id}: clean-up after a failed create: {e}");
            }
        }
        if let Some(io) = &self.io {
            io.close();
            io.end_loggers().await;
        }
        if let Some((key, start)) = self.start {
            shared.tracker.abandon(start);
            shared.tracker.forget(key, None);
        }
        let rootfs = create.bundle.join("rootfs");
        if self.mounted {
            let path = rootfs.clone();
            match blocking("unmount", move || mount::unmount_all(&path)).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) | Err(e) => {
                    log::error!("container {id}: clean-up after a failed create: {e}")
                }
            }
        }
        if self.made_rootfs_dir {
            // Not empty or busy: somebody else's by now.
            let _ = fs::remove_dir(&rootfs);
        }
        if self.recorded {
            files::forget(&create.bundle);
        }
    }
}
