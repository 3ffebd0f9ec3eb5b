//! Create: from a bundle to a container whose init waits to be started.
//!
//! Invariant: it ends with a whole, usable container, or with none: a failure at any step leaves
//! neither mount, container, process nor file, and the id is free again.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use std::{fs, io};

use tokio::sync::RwLock;
use tokio::task::JoinSet;

use super::image::Image;
use super::kill::Kills;
use super::oom::{Told, group as oom_group};
use super::pids;
use super::record::Record;
use super::registry::{Registry, Shared};
use super::restore::Restore;
use super::state::State;
use super::waits::Waits;
use super::{Container, Process, exit_file, files, program};
use crate::blocking::{Job, within, within_or};
use crate::cgroup::Cgroup;
use crate::error::{Code, Error, Result};
use crate::events::Event;
use crate::lifecycle::{ContainerKey, StartId};
use crate::monitor::Pid;
use crate::mount::{self, Mount};
use crate::proto;
use crate::proto::events::{TaskCreate, TaskIO};
use crate::proto::runc_options::Options;
use crate::runtime::{CreateOptions, Runtime, read_named};
use crate::spec::Spec;
use crate::stdio::{self, Buffering, Io, Stdio};

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
    /// The directory of a checkpoint to restore from at Start; empty for a fresh program.
    pub checkpoint: String,
    /// The runtime's options.
    pub options: Options,
}

impl Registry {
    /// Makes a container and answers its init's pid; 0 if it is to come from a checkpoint.
    ///
    /// # Errors
    /// The step that failed, and why. Nothing is left behind.
    pub async fn create(&self, create: Create) -> Result<Pid> {
        check(&create)?;
        let reservation = self.reserve(&create.id)?;
        self.shared.keeper.add(&create.id, &create.bundle);
        let mut progress = Progress::default();
        match build(&self.shared, &create, &mut progress).await {
            Ok((container, pid)) => {
                reservation.fill(container);
                Ok(pid)
            }
            Err(error) => {
                progress.roll_back(&self.shared, &create).await;
                let limit = self.shared.limits.bundle;
                self.shared.keeper.remove(&create.id, limit).await;
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
            files::shown(&create.bundle.to_string_lossy())
        )));
    }
    Restore::of(create).map(drop)
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
    key: Option<ContainerKey>,
    start: Option<StartId>,
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
    let extras = Extras::asked(shared, create, &spec).await?;
    let buffering = extras.buffering;
    let runtime = runtime(shared, bundle, &create.options);
    progress.runtime = Some(runtime.clone());
    let restore = Restore::of(create)?;
    if let Some(restore) = &restore {
        restore.has_images(shared.limits.disk).await?;
        // Nothing is asked of the runtime before Start, where this name would be in the way.
        if runtime.knows(&create.id) {
            return Err(id_is_taken(&create.id));
        }
    }

    if !create.rootfs.is_empty() {
        let rootfs = bundle.join("rootfs");
        progress.made_rootfs_dir = make_rootfs_dir(&rootfs)?;
        let mounts = create.rootfs.clone();
        let run = program::runner(shared);
        let job = Job {
            name: "mount",
            what: format!("mount onto {}", rootfs.display()),
            limit: shared.limits.mount,
        };
        let place = rootfs.clone();
        within_or(
            job,
            move || mount::mount_all(&mounts, &rootfs, &run),
            move |mounted| {
                // Nobody waits for it any more.
                if mounted.is_ok() {
                    let _ = mount::unmount_all(&place)
                        .inspect_err(|e| log::error!("clean-up after a late mount: {e}"));
                }
            },
        )
        .await??;
        progress.mounted = true;
    }
    progress.recorded = true;
    files::record(bundle, &create.options)?;
    exit_file::reserve(bundle)?;

    let (uid, gid) = (create.options.io_uid, create.options.io_gid);
    let (allow, limit) = (create.options.logger_allow.as_deref(), shared.limits.disk);
    let plan = stdio::ask(plan, allow, limit)
        .await
        .map_err(|e| e.context("failed to create init process I/O"))?;
    let (io, fds) = Io::open_within(plan, uid, gid, buffering, limit)
        .await
        .map_err(|e| e.context("failed to create init process I/O"))?;
    let io = Arc::new(io);
    progress.io = Some(Arc::clone(&io));
    io.start_loggers(&shared.host(&create.id, create.options.logger_allow.as_deref()))
        .await
        .map_err(|e| e.context("failed to create init process I/O"))?;

    if let Some(restore) = restore {
        restore.keep(fds);
        let key = shared.tracker.add();
        let container = container(shared, create, key, runtime, &spec, extras, Some(restore));
        container.init.set_io(io);
        container.init.is_now(State::CreatedCheckpoint);
        shared.tracker.step(|queue| queue.push(created(create, 0)));
        return Ok((container, 0));
    }

    let (key, start) = shared.tracker.begin_create();
    (progress.key, progress.start) = (Some(key), Some(start));
    progress.asked_runtime = !runtime.knows(&create.id);
    let options = CreateOptions {
        pid_file: bundle.join(files::INIT_PID),
        console_socket: io.console_socket(),
        no_pivot: create.options.no_pivot_root,
        no_new_keyring: create.options.no_new_keyring,
    };
    files::remove(&options.pid_file);
    let call = io.during(runtime.create(&create.id, bundle, &options, fds));
    shared
        .named_meanwhile(start, &options.pid_file, call)
        .await
        .map_err(|e| e.about_spec(&spec.oci_version, &runtime.binary))?;
    let named = read_named(&options.pid_file)
        .map_err(|e| e.context("failed to retrieve OCI runtime container pid"))?;
    let pid = named.pid;
    io.connect_terminal(shared.limits.console).await?;
    io.start();

    let container = container(shared, create, key, runtime, &spec, extras, None);
    // The number may be another's already, whose cgroup is none of ours.
    let lives = shared.still_has_pid(start, named);
    let cgroup = cgroup_of(&create.id, lives).await;
    container.set_oom_group(cgroup.as_ref().ok())?;
    container.watch(cgroup);
    container.limit_pids(container.cgroup.get()).await?;
    if let Some(image) = shared.still_has_pid(start, named).ok().and_then(Image::of) {
        let gated = container.runtime.is_gated(&create.id);
        let _ = container.unstarted.set((image, gated));
    }
    container.init.set_io(io);
    shared
        .announce(start, named, &container.init, Some(created(create, pid)))
        .map_err(|e| e.context("failed to retrieve OCI runtime container pid"))?;
    (progress.key, progress.start) = (None, None);
    Ok((container, pid))
}

/// What annotations and options ask for that no manager knows of.
struct Extras {
    buffering: Buffering,
    pids_limit: Option<u64>,
    oom: Told,
}

impl Extras {
    async fn asked(shared: &Shared, create: &Create, spec: &Spec) -> Result<Self> {
        if let Some(list) = &create.options.logger_allow {
            stdio::is_list(list)?;
        }
        Ok(Self {
            buffering: Buffering::of(&spec.annotations)?,
            pids_limit: pids::wanted(spec, &create.options.pids_limit, shared.pids.asked)?,
            oom: Told::new(oom_group::asked(&create.options, &spec.annotations).await?),
        })
    }
}

/// A container whose init is not there yet.
fn container(
    shared: &Arc<Shared>,
    create: &Create,
    key: ContainerKey,
    runtime: Runtime,
    spec: &Spec,
    extras: Extras,
    restore: Option<Restore>,
) -> Arc<Container> {
    Arc::new_cyclic(|me| Container {
        id: create.id.clone(),
        bundle: create.bundle.clone(),
        mounts: create.rootfs.clone(),
        key,
        runtime,
        kill_all_on_exit: spec.kill_all_on_exit,
        io_owner: (create.options.io_uid, create.options.io_gid),
        buffering: extras.buffering,
        logger_allow: create.options.logger_allow.clone(),
        init: Arc::new(Process::new(
            me.clone(),
            &create.id,
            "",
            create.stdio.clone(),
            Vec::new(),
        )),
        execs: Mutex::new(BTreeMap::new()),
        cgroup: OnceLock::new(),
        oom: extras.oom,
        pids: pids::Limits::wanting(extras.pids_limit),
        in_pod: crate::spec::in_group(&spec.annotations),
        record: Record::in_bundle(&create.bundle),
        unstarted: OnceLock::new(),
        restore,
        joining: RwLock::new(()),
        shared: Arc::clone(shared),
        kills: Kills::default(),
        waits: Waits::default(),
        tasks: Mutex::new(JoinSet::new()),
    })
}

/// The cgroup of a container's init, if that is the container's alone, with its controllers enabled.
pub(super) async fn cgroup_of(id: &str, init: Result<Pid>) -> Result<Cgroup> {
    let cgroup = Cgroup::locate(nix::unistd::Pid::from_raw(init?)).await?;
    cgroup.is_its_own()?;
    if let Err(e) = cgroup.enable_controllers() {
        log::warn!("container {id}: enable cgroup controllers: {e}");
    }
    Ok(cgroup)
}

impl Container {
    /// Takes the container's cgroup, and watches what can be watched of it.
    pub(super) fn watch(self: &Arc<Self>, cgroup: Result<Cgroup>) {
        match cgroup {
            Ok(cgroup) => {
                self.has_cgroup(cgroup);
                self.watch_pids();
            }
            Err(why) => {
                self.oom_not_seen(&why);
                self.pids_not_watched(&why);
            }
        }
    }
}

/// The phrase is runc's, which the Go shim passes on; the code says what it is.
pub(super) fn id_is_taken(id: &str) -> Error {
    Error::new(
        Code::AlreadyExists,
        format!(
            "OCI runtime create failed: container with given ID already exists: {id}: already exists"
        ),
    )
}

/// Has the runtime take back what a failed call has made. It cleans up after a failure of its own;
/// after a kill, a time-out or a failure of ours its container is still there.
pub(super) async fn undo(runtime: &Runtime, id: &str, what: &str) {
    if runtime.knows(id)
        && let Err(e) = runtime.delete(id, true).await
    {
        log::error!("container {id}: clean-up after a failed {what}: {e}");
    }
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

/// Unmounts a rootfs, within a limit.
pub(super) async fn unmount(rootfs: &Path, limit: Duration) -> Result<()> {
    let job = Job {
        name: "unmount",
        what: format!("unmount {}", rootfs.display()),
        limit,
    };
    let rootfs = rootfs.to_owned();
    within(job, move || mount::unmount_all(&rootfs)).await?
}

/// Whether the directory was made by this call.
fn make_rootfs_dir(rootfs: &Path) -> Result<bool> {
    // What it leads to is not the container's, and would not be unmounted.
    if rootfs.is_symlink() {
        let what = "failed to mount rootfs component: the place is a link";
        return Err(Error::unknown(format!("{what}: {}", rootfs.display())));
    }
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
            undo(runtime, id, "create").await;
        }
        if let Some(io) = &self.io {
            io.close();
            io.end_loggers().await;
        }
        if let Some(start) = self.start {
            shared.tracker.abandon(start);
        }
        if let Some(key) = self.key {
            shared.tracker.forget(key, None);
        }
        let rootfs = create.bundle.join("rootfs");
        if self.mounted
            && let Err(e) = unmount(&rootfs, shared.limits.unmount).await
        {
            log::error!("container {id}: clean-up after a failed create: {e}");
        }
        if self.made_rootfs_dir {
            // Not empty or busy: somebody else's by now.
            let _ = fs::remove_dir(&rootfs);
        }
        if self.recorded {
            files::forget(&create.bundle);
            exit_file::remove(&create.bundle);
        }
    }
}
