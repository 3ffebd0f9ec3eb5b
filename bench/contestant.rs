//! The shims that are compared, and one of them at work.
//!
//! Invariant: all are started, asked and ended by the same code, with the same runtime, each in the
//! dialect of its time; a [`Session`] that is dropped leaves nothing behind, however it failed.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cotter::error::{Error, Result};
use cotter::manager::bundle::Bundle;
use cotter::manager::client::{Tasks, gone};
use cotter::manager::dialect::{Dialect, Endpoint};
use cotter::manager::events::{Event, EventServer};
use cotter::manager::launch::Launch;
use cotter::manager::request;
use cotter::manager::spec::Spec;
use cotter::proto::pack;
use cotter::proto::runc_options::Options;
use cotter::proto::task::{CreateTaskRequest, ExecProcessRequest};

use crate::common::census::Owner;
use crate::common::shim::process;

/// How long any single step may take; reaching it ends the run.
const LIMIT: Duration = Duration::from_secs(120);

/// A shim under measurement.
#[derive(Clone, Debug)]
pub struct Contestant {
    /// As the table calls it.
    pub name: String,
    /// The binary.
    pub binary: PathBuf,
    /// How a manager of its time asks it.
    pub dialect: Dialect,
    /// What its shims have in their environment besides.
    pub environment: &'static [(&'static str, &'static str)],
}

/// An OCI runtime.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// `runc` or `crun`.
    pub name: &'static str,
    /// The binary, or a wrapper around it.
    pub binary: PathBuf,
}

/// Where everything of one session is.
pub struct Place {
    /// A directory of its own.
    pub dir: PathBuf,
    /// The root file system of every container.
    pub rootfs: PathBuf,
    count: u32,
}

impl Place {
    /// A new directory in the system's place for such.
    pub fn new(rootfs: PathBuf) -> std::io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("cotter-bench-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        Ok(Self {
            dir,
            rootfs,
            count: 0,
        })
    }

    /// A name that no other session has.
    fn unique(&mut self) -> String {
        self.count += 1;
        format!("b{}-{}", std::process::id(), self.count)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A connection to a shim; cheap to clone.
#[derive(Clone)]
pub struct Client {
    /// The calls as they are on the wire.
    pub tasks: Tasks,
    /// Of the runtime.
    pub options: Options,
    /// Where the bundles are.
    pub dir: PathBuf,
}

/// A shim that runs, as its manager sees it.
pub struct Session {
    /// What it tells.
    pub events: EventServer,
    /// How long `start` took to answer.
    pub started_in: Duration,
    /// The connection to it.
    pub client: Client,
    launch: Launch,
    endpoint: Endpoint,
    rootfs: PathBuf,
    bundles: BTreeMap<String, Bundle>,
    sweep: Sweep,
}

/// Takes away, once a session is over, what its shim has left; all of it when something failed.
struct Sweep {
    owner: Owner,
    orderly: bool,
}

impl Drop for Sweep {
    fn drop(&mut self) {
        if !self.orderly {
            self.owner.clear(&["c"]);
        }
        // Not the runtime's, which has removed what is in it.
        for cgroup in self.owner.cgroups() {
            let _ = fs::remove_dir(cgroup);
        }
        let _ = fs::remove_dir_all(&self.owner.dir);
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Session {
    /// Starts the shim for container `c`.
    pub async fn start(
        who: &Contestant,
        runtime: &Runtime,
        place: &mut Place,
        spec: impl FnOnce(&mut Spec),
    ) -> Result<Self> {
        let namespace = place.unique();
        let dir = place.dir.join(&namespace);
        fs::create_dir_all(&dir).map_err(|e| Error::io(format!("mkdir {}", dir.display()), &e))?;
        let events = EventServer::listen(&dir.join("events.sock")).await?;
        let options = Options {
            binary_name: runtime.binary.to_string_lossy().into_owned(),
            root: dir.join("runtime").to_string_lossy().into_owned(),
            ..Options::default()
        };
        let mut launch = Launch::new(&who.binary, who.dialect, "c", dir.join("c"));
        launch.namespace = namespace;
        launch.grpc_address = dir.join("grpc.sock").to_string_lossy().into_owned();
        launch.ttrpc_address = events.address();
        launch.options = Some(options.clone());
        let more = who.environment.iter();
        launch
            .environment
            .extend(more.map(|(name, value)| ((*name).into(), (*value).into())));
        let sweep = Sweep {
            owner: Owner {
                namespace: launch.namespace.clone(),
                dir: dir.clone(),
                address: dir.join("grpc.sock"),
            },
            orderly: false,
        };
        let bundle = bundle(&dir, &launch.namespace, &place.rootfs, "c", spec)?;
        let begun = Instant::now();
        let endpoint = launch.start().await?;
        let started_in = begun.elapsed();
        let tasks = Tasks::connect(&endpoint).await?.within(LIMIT);
        Ok(Self {
            events,
            started_in,
            client: Client {
                tasks,
                options,
                dir,
            },
            launch,
            endpoint,
            rootfs: place.rootfs.clone(),
            bundles: BTreeMap::from([("c".to_owned(), bundle)]),
            sweep,
        })
    }

    /// A shim with container `c` running `sleep`.
    pub async fn running(who: &Contestant, runtime: &Runtime, place: &mut Place) -> Result<Self> {
        Self::running_as(who, runtime, place, |_| {}).await
    }

    /// As [`running`](Self::running), with another spec.
    pub async fn running_as(
        who: &Contestant,
        runtime: &Runtime,
        place: &mut Place,
        spec: impl FnOnce(&mut Spec),
    ) -> Result<Self> {
        let session = Self::start(who, runtime, place, spec).await?;
        session.create("c").await?;
        session.start_process("c", "").await?;
        Ok(session)
    }

    /// Removes container `c` and ends the shim.
    pub async fn finish(self) -> Result<()> {
        self.remove("c").await?;
        self.end().await?;
        Ok(())
    }

    /// Runs the runtime without a shim, as a person does.
    pub fn by_hand(&self, arguments: &[&str]) -> Result<()> {
        let done = Command::new(&self.options.binary_name)
            .arg("--root")
            .arg(Path::new(&self.options.root).join(&self.launch.namespace))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(|e| Error::io("run the runtime by hand", &e))?;
        match done.success() {
            true => Ok(()),
            false => Err(Error::unknown(format!("{arguments:?} by hand: {done}"))),
        }
    }

    /// Makes a bundle for another container of this shim.
    pub fn bundle(&mut self, id: &str) -> Result<()> {
        let dir = &self.client.dir;
        let made = bundle(dir, &self.launch.namespace, &self.rootfs, id, |_| {})?;
        self.bundles.insert(id.into(), made);
        Ok(())
    }

    /// The first event from now on for which `wanted` holds.
    pub async fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Result<()> {
        loop {
            if wanted(&self.events.next_within(LIMIT).await?.event) {
                return Ok(());
            }
        }
    }

    /// Shutdown, and the `delete` action as containerd runs it then; how long that took.
    pub async fn end(mut self) -> Result<Duration> {
        // Some shims end before the answer is out.
        let _ = self.tasks.shutdown(&request::shutdown("c")).await;
        gone(&self.endpoint, LIMIT).await?;
        let begun = Instant::now();
        self.launch.delete().await?;
        let took = begun.elapsed();
        self.bundles.clear();
        self.sweep.orderly = true;
        Ok(took)
    }
}

impl Client {
    /// The pid of the shim.
    pub async fn pid(&self) -> Result<u32> {
        Ok(self
            .tasks
            .connect_task(&request::connect("c"))
            .await?
            .shim_pid)
    }

    /// Create without streams.
    pub async fn create(&self, id: &str) -> Result<u32> {
        self.create_with(id, "").await
    }

    /// Create with stdout to a FIFO, unless empty.
    pub async fn create_with(&self, id: &str, stdout: &str) -> Result<u32> {
        let request = CreateTaskRequest {
            id: id.into(),
            bundle: self.dir.join(id).to_string_lossy().into_owned(),
            stdout: stdout.into(),
            stderr: stdout.into(),
            options: pack(&self.options).ok().into(),
            ..Default::default()
        };
        Ok(self.tasks.create(&request).await?.pid)
    }

    /// Exec without streams: registers it.
    pub async fn exec(&self, id: &str, exec: &str, args: &[&str]) -> Result<()> {
        let request = ExecProcessRequest {
            id: id.into(),
            exec_id: exec.into(),
            spec: Some(process(id, args)).into(),
            ..Default::default()
        };
        self.tasks.exec(&request).await.map(drop)
    }

    /// Start.
    pub async fn start_process(&self, id: &str, exec: &str) -> Result<u32> {
        Ok(self.tasks.start(&request::start(id, exec)).await?.pid)
    }

    /// Wait.
    pub async fn wait(&self, id: &str, exec: &str) -> Result<u32> {
        Ok(self
            .tasks
            .wait_within(&request::wait(id, exec))
            .await?
            .exit_status)
    }

    /// Kill.
    pub async fn kill(&self, id: &str, exec: &str, signal: u32) -> Result<()> {
        let request = request::kill(id, exec, signal);
        self.tasks.kill(&request).await.map(drop)
    }

    /// Delete.
    pub async fn delete(&self, id: &str, exec: &str) -> Result<()> {
        self.tasks
            .delete(&request::delete(id, exec))
            .await
            .map(drop)
    }

    /// One exec of `true` from Exec to Delete.
    pub async fn exec_cycle(&self, exec: &str) -> Result<()> {
        self.exec("c", exec, &["true"]).await?;
        self.start_process("c", exec).await?;
        self.wait("c", exec).await?;
        self.delete("c", exec).await
    }

    /// Kills a container's init and deletes the container.
    pub async fn remove(&self, id: &str) -> Result<()> {
        self.kill(id, "", 9).await?;
        self.wait(id, "").await?;
        self.delete(id, "").await
    }
}

fn bundle(
    dir: &Path,
    namespace: &str,
    rootfs: &Path,
    id: &str,
    change: impl FnOnce(&mut Spec),
) -> Result<Bundle> {
    let mut spec = Spec::new(id, ["sleep", "100000"]);
    spec.rootfs = rootfs.to_string_lossy().into_owned();
    spec.cgroups_path = format!("/{namespace}/{id}");
    change(&mut spec);
    Bundle::create(&dir.join(id), &spec.to_json())
}
