//! Create: from a bundle to a container whose init waits to be started.
//!
//! Invariant: it ends with a whole, usable container, or with none: a failure at any step leaves
//! neither mount, container, process nor file, and the id is free again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::RwLock;
use tokio::task::JoinSet;

use super::rootfs::Rootfs;
use super::runtime::{runtime, undo};
use super::streams::{self, Opening};
use crate::container::exec_by::{self, ExecBy};
use crate::container::image::Image;
use crate::container::kills::Kills;
use crate::container::pids_limit::{self, Given};
use crate::container::record::Record;
use crate::container::registry::id_is_taken;
use crate::container::senses::cgroup_of;
use crate::container::state::State;
use crate::container::to_restore::ToRestore;
use crate::container::waits::Waits;
use crate::container::{Container, Process, Registry, Shared, exit_file, files, oom_group};
use crate::direct::Direct;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::in_memory::Memory;
use crate::lifecycle::{ContainerKey, StartId};
use crate::monitor::Pid;
use crate::mount::Mount;
use crate::proto;
use crate::proto::events::{TaskCreate, TaskIO};
use crate::proto::runc_options::Options;
use crate::runtime::{CreateOptions, Fds, Named, Runtime, read_named};
use crate::sensing::Senses;
use crate::spec::Spec;
use crate::stdio::{self, Buffering, Io, Stdio};

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
        let mut done = Done::default();
        match build(&self.shared, &create, &mut done).await {
            Ok((container, pid)) => {
                reservation.fill(container);
                Ok(pid)
            }
            Err(error) => {
                done.undo(&self.shared, &create).await;
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
    to_restore(create).map(drop)
}

fn to_restore(create: &Create) -> Result<Option<ToRestore>> {
    ToRestore::of(&create.checkpoint, &create.bundle, &create.options)
}

/// The steps that are done, as they came: what each has made has to be undone if a later one fails.
#[derive(Default)]
struct Done {
    rootfs: Option<Rootfs>,
    recorded: Option<Recorded>,
    io: Option<Arc<Io>>,
    init: Option<Init>,
}

impl Done {
    /// The last one first.
    async fn undo(self, shared: &Shared, create: &Create) {
        if let Some(init) = self.init {
            init.undo(shared, &create.id).await;
        }
        if let Some(io) = self.io {
            streams::close(&io).await;
        }
        if let Some(recorded) = self.recorded {
            recorded.undo(create);
        }
        if let Some(rootfs) = self.rootfs {
            rootfs.undo(shared, &create.id).await;
        }
    }
}

/// All steps.
async fn build(
    shared: &Arc<Shared>,
    create: &Create,
    done: &mut Done,
) -> Result<(Arc<Container>, Pid)> {
    let asked = Asked::read(shared, create).await?;
    done.rootfs = Rootfs::mount(shared, &create.bundle, &create.rootfs).await?;
    done.recorded = Some(Recorded::write(create)?);
    let (io, fds) = streams::open(shared, &create.opening(asked.buffering), "init").await?;
    done.io = Some(Arc::clone(&io));

    if asked.restore.is_some() {
        return Ok((asked.waiting(shared, create, io, fds), 0));
    }
    let init = done.init.insert(Init::begin(shared, create, &asked));
    let named = init.create(shared, create, &asked, &io, fds).await?;
    let (key, start) = (init.key, init.start);
    let container = asked.container(shared, create, key);
    container.init_is_there(start, named, io).await?;
    shared
        .announce(
            start,
            named,
            &container.init,
            Some(created(create, named.pid)),
        )
        .map_err(no_pid)?;
    Ok((container, named.pid))
}

impl Create {
    fn opening(&self, buffering: Buffering) -> Opening<'_> {
        Opening {
            id: &self.id,
            stdio: &self.stdio,
            owner: (self.options.io_uid, self.options.io_gid),
            buffering,
            logger_allow: self.options.logger_allow.as_deref(),
            memory: Memory::of(&self.bundle),
        }
    }
}

/// What the bundle, the annotations and the options ask for: read, and nothing made.
struct Asked {
    spec: Spec,
    runtime: Runtime,
    restore: Option<ToRestore>,
    buffering: Buffering,
    pids_limit: Option<u64>,
    oom_group: bool,
    exec_by: ExecBy,
}

impl Asked {
    async fn read(shared: &Shared, create: &Create) -> Result<Self> {
        let (options, bundle) = (&create.options, create.bundle.as_path());
        stdio::plan(&create.stdio).map_err(streams::failed("init"))?;
        let spec = Spec::read(bundle)?;
        if let Some(list) = &options.logger_allow {
            stdio::is_list(list)?;
        }
        let asked = Self {
            buffering: Buffering::of(&spec.annotations)?,
            pids_limit: pids_limit::wanted(&spec, &options.pids_limit, shared.pids_limit)?,
            oom_group: oom_group::asked(options, &spec.annotations).await?,
            exec_by: exec_by::wanted(options, &spec.annotations, shared.exec_by)?,
            runtime: runtime(shared, bundle, options),
            restore: to_restore(create)?,
            spec,
        };
        if let Some(restore) = &asked.restore {
            restore.has_images(shared.limits.disk).await?;
            // Nothing is asked of the runtime before Start, where this name would be in the way.
            if asked.runtime.knows(&create.id) {
                return Err(id_is_taken(&create.id));
            }
        }
        Ok(asked)
    }

    /// A container whose init waits in a checkpoint.
    fn waiting(
        mut self,
        shared: &Arc<Shared>,
        create: &Create,
        io: Arc<Io>,
        fds: Fds,
    ) -> Arc<Container> {
        if let Some(restore) = &mut self.restore {
            restore.keep(fds);
        }
        let container = self.container(shared, create, shared.tracker.add());
        container.init.set_io(io);
        container.init.is_now(State::CreatedCheckpoint);
        let event = created(create, 0);
        shared.tracker.step(|queue| queue.push(event));
        container
    }

    /// A container whose init is not there yet.
    fn container(self, shared: &Arc<Shared>, create: &Create, key: ContainerKey) -> Arc<Container> {
        let init = |me| Process::new(me, &create.id, "", create.stdio.clone(), Vec::new());
        Arc::new_cyclic(|me| Container {
            id: create.id.clone(),
            bundle: create.bundle.clone(),
            mounts: create.rootfs.clone(),
            key,
            runtime: self.runtime,
            kill_all_on_exit: self.spec.kill_all_on_exit,
            io_owner: (create.options.io_uid, create.options.io_gid),
            buffering: self.buffering,
            logger_allow: create.options.logger_allow.clone(),
            init: Arc::new(init(me.clone())),
            execs: Mutex::new(BTreeMap::new()),
            cgroup: OnceLock::new(),
            senses: Senses::default(),
            oom_group: self.oom_group,
            pids_limit: Given::wanting(self.pids_limit),
            direct: (self.exec_by == ExecBy::Direct).then(Direct::default),
            in_pod: crate::spec::in_group(&self.spec.annotations),
            record: Record::in_bundle(&create.bundle),
            unstarted: OnceLock::new(),
            restore: self.restore,
            joining: RwLock::new(()),
            shared: Arc::clone(shared),
            kills: Kills::default(),
            waits: Waits::default(),
            tasks: Mutex::new(JoinSet::new()),
        })
    }
}

/// The bundle says what was asked for, and has a place for the end.
struct Recorded;

impl Recorded {
    fn write(create: &Create) -> Result<Self> {
        let bundle = create.bundle.as_path();
        let written = files::record(bundle, &create.options);
        written
            .and_then(|()| exit_file::reserve(bundle))
            .inspect_err(|_| Self.undo(create))?;
        Ok(Self)
    }

    fn undo(self, create: &Create) {
        files::forget(&create.bundle);
        exit_file::remove(&create.bundle);
    }
}

/// The runtime is being asked for an init, whose exit is awaited.
struct Init {
    key: ContainerKey,
    start: StartId,
    runtime: Runtime,
    /// The runtime knew no container of this name before.
    is_new: bool,
}

impl Init {
    fn begin(shared: &Shared, create: &Create, asked: &Asked) -> Self {
        let (key, start) = shared.tracker.begin_create();
        Self {
            key,
            start,
            runtime: asked.runtime.clone(),
            is_new: !asked.runtime.knows(&create.id),
        }
    }

    async fn create(
        &self,
        shared: &Shared,
        create: &Create,
        asked: &Asked,
        io: &Io,
        fds: Fds,
    ) -> Result<Named> {
        let bundle = create.bundle.as_path();
        let options = CreateOptions {
            pid_file: bundle.join(files::INIT_PID),
            console_socket: io.console_socket(),
            no_pivot: create.options.no_pivot_root,
            no_new_keyring: create.options.no_new_keyring,
        };
        files::remove(&options.pid_file);
        let call = io.during(self.runtime.create(&create.id, bundle, &options, fds));
        shared
            .named_meanwhile(self.start, &options.pid_file, call)
            .await
            .map_err(|e| e.about_spec(&asked.spec.oci_version, &self.runtime.binary))?;
        let named = read_named(&options.pid_file).map_err(no_pid)?;
        io.connect_terminal(shared.limits.console).await?;
        io.start();
        Ok(named)
    }

    async fn undo(self, shared: &Shared, id: &str) {
        if self.is_new {
            undo(&self.runtime, id, "create").await;
        }
        shared.tracker.abandon(self.start);
        shared.tracker.forget(self.key, None);
    }
}

impl Container {
    /// The runtime has made the init: what is to hold before its program runs.
    async fn init_is_there(
        self: &Arc<Self>,
        start: StartId,
        named: Named,
        io: Arc<Io>,
    ) -> Result<()> {
        // The number may be another's already, whose cgroup is none of ours.
        let lives = self.shared.still_has_pid(start, named);
        let cgroup = cgroup_of(&self.id, lives).await;
        self.set_oom_group(cgroup.as_ref().ok())?;
        self.watch(cgroup);
        self.limit_pids(self.cgroup.get()).await?;
        if let (Some(direct), Ok(init)) = (&self.direct, self.shared.still_has_pid(start, named)) {
            direct.is_created(&self.runtime, &self.id, init).await;
        }
        let lives = self.shared.still_has_pid(start, named);
        if let Some(image) = lives.ok().and_then(Image::of) {
            let gated = self.runtime.is_gated(&self.id);
            let _ = self.unstarted.set((image, gated));
        }
        self.init.set_io(io);
        Ok(())
    }
}

fn no_pid(error: Error) -> Error {
    error.context("failed to retrieve OCI runtime container pid")
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
