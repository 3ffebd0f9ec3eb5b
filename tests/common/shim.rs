//! A shim of our own under test, started as a manager starts it, with real runtimes: containers,
//! execs, the events it sends, and at the end the proof that nothing is left.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use cotter::error::Result;
use cotter::manager::bundle::Bundle;
use cotter::manager::client::{Tasks, gone};
use cotter::manager::dialect::{Dialect, Endpoint};
use cotter::manager::events::{Event, EventServer, Told};
use cotter::manager::launch::Launch;
use cotter::manager::request;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;
use cotter::proto::runc_options::Options;
use cotter::proto::task::{
    CloseIORequest, CreateTaskRequest, DeleteResponse, ExecProcessRequest, StateResponse,
    WaitResponse,
};
use cotter::proto::{Any, pack};

use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;

use super::census::{Census, MARK, Owner, Process, entries};
use super::containerd::{Version, shim_under_test};
use super::{LIMIT, TempDir, eventually, tool, unique};

/// Both runtimes that every behaviour is tested with.
pub const RUNTIMES: [&str; 2] = ["RUNC", "CRUN"];

/// The shim's binary.
pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-cotter-v2");

/// The methods of the task service.
pub const METHODS: [&str; 17] = [
    "State",
    "Create",
    "Start",
    "Delete",
    "Pids",
    "Pause",
    "Resume",
    "Checkpoint",
    "Kill",
    "Exec",
    "ResizePty",
    "CloseIO",
    "Update",
    "Wait",
    "Stats",
    "Connect",
    "Shutdown",
];

/// Runs an asynchronous test on one thread, with an end.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(5 * LIMIT, test)
            .await
            .expect("the test ends")
    })
}

/// A running shim and what its manager has.
pub struct Shim {
    /// Its calls.
    pub tasks: Tasks,
    /// What it tells.
    pub events: EventServer,
    /// How it was started.
    pub launch: Launch,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The options of every Create; its root is below the test's directory.
    pub options: Options,
    /// The containerd namespace, unique.
    pub namespace: String,
    bundles: BTreeMap<String, Bundle>,
    owner: Owner,
    before: Census,
    _sweep: Sweep,
    dir: TempDir,
}

/// Takes away, at the latest when a test has failed, what its shim left.
struct Sweep(Owner, String);

impl Drop for Sweep {
    fn drop(&mut self) {
        self.0.clear(&[&self.1]);
    }
}

impl Shim {
    /// Starts a shim for container `first`, whose bundle runs `args` once created; `runtime` is a
    /// name in the tools' list (`RUNC`, `CRUN`) or the path of a runtime.
    pub async fn start(runtime: &str, first: &str, args: &[&str]) -> Self {
        Self::start_as(
            Dialect::Proto23,
            runtime,
            Spec::new(first, args.iter().copied()),
            first,
        )
        .await
    }

    /// As [`start`](Self::start), in a dialect and with a spec of the test's.
    pub async fn start_as(dialect: Dialect, runtime: &str, spec: Spec, first: &str) -> Self {
        Self::start_with(dialect, runtime, spec, first, &[]).await
    }

    /// As [`start_as`](Self::start_as), with more in the shim's environment.
    pub async fn start_with(
        dialect: Dialect,
        runtime: &str,
        spec: Spec,
        first: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let shim = shim_under_test(Version::V2_1);
        Self::start_by(shim, dialect, runtime, spec, first, environment).await
    }

    /// As [`start_with`](Self::start_with), with a program of the test's, which in the end becomes a shim.
    pub async fn start_by(
        shim: PathBuf,
        dialect: Dialect,
        runtime: &str,
        spec: Spec,
        first: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let dir = TempDir::new("cotter-t");
        let namespace = unique("t");
        let events = EventServer::listen(&dir.path().join("events.sock"))
            .await
            .unwrap();
        let binary = if runtime.starts_with('/') {
            PathBuf::from(runtime)
        } else {
            tool(runtime)
        };
        let options = Options {
            binary_name: binary.to_string_lossy().into_owned(),
            root: dir.path().join("runtime").to_string_lossy().into_owned(),
            ..Options::default()
        };
        let address = dir.path().join("grpc.sock");
        let owner = Owner {
            namespace: namespace.clone(),
            dir: dir.path().to_owned(),
            address: address.clone(),
        };
        let before = Census::take::<&str>(&owner, &[]);
        let mut bundles = BTreeMap::new();
        bundles.insert(
            first.to_owned(),
            make_bundle(dir.path(), &namespace, first, spec),
        );
        let mut launch = Launch::new(shim, dialect, first, bundles[first].path());
        launch.namespace.clone_from(&namespace);
        launch.grpc_address = address.to_string_lossy().into_owned();
        launch.ttrpc_address = events.address();
        launch.options = Some(options.clone());
        launch.environment.push((MARK.into(), namespace.clone()));
        let more = environment
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        launch.environment.extend(more);
        launch.debug = true;
        let sweep = Sweep(owner.clone(), first.to_owned());
        let endpoint = launch.start().await.unwrap();
        let tasks = Tasks::connect(&endpoint).await.unwrap();
        Self {
            tasks,
            events,
            launch,
            endpoint,
            options,
            namespace,
            bundles,
            owner,
            before,
            _sweep: sweep,
            dir,
        }
    }

    /// The test's directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The runtime's state directory.
    pub fn state_dir(&self) -> PathBuf {
        Path::new(&self.options.root).join(&self.namespace)
    }

    /// The serving process.
    pub fn pid(&self) -> u32 {
        self.owner.shim(&self.launch.id).expect("the shim runs").pid
    }

    /// A bundle directory for container `id`, made if there is none.
    pub fn bundle(&mut self, id: &str, spec: Spec) -> PathBuf {
        let (dir, namespace) = (self.dir.path(), &self.namespace);
        let make = || make_bundle(dir, namespace, id, spec);
        self.bundles
            .entry(id.to_owned())
            .or_insert_with(make)
            .path()
            .to_owned()
    }

    /// Where the bundle of `id` is.
    pub fn bundle_path(&self, id: &str) -> PathBuf {
        self.bundles[id].path().to_owned()
    }

    /// What the shim logged, as its manager read it.
    pub fn log(&self) -> Vec<String> {
        self.bundles[&self.launch.id].log()
    }

    /// A Create of `id` from its bundle, without streams; to be changed as the test wants.
    pub fn create_request(&self, id: &str) -> CreateTaskRequest {
        CreateTaskRequest {
            id: id.into(),
            bundle: self.bundle_path(id).to_string_lossy().into_owned(),
            options: Some(pack(&self.options).unwrap()).into(),
            ..Default::default()
        }
    }

    /// Creates container `id`, whose bundle exists, without streams; answers the pid.
    pub async fn create(&self, id: &str) -> Result<u32> {
        Ok(self.tasks.create(&self.create_request(id)).await?.pid)
    }

    /// Makes a bundle that runs `args`, creates and starts it.
    pub async fn run(&mut self, id: &str, args: &[&str]) -> u32 {
        self.bundle(id, Spec::new(id, args.iter().copied()));
        self.create(id).await.unwrap();
        self.start_process(id, "").await.unwrap()
    }

    /// FIFOs for a process.
    pub fn fifos(&self, name: &str, stdin: bool) -> Fifos {
        Fifos::create(self.dir.path(), name, stdin).unwrap()
    }

    /// An Exec that runs `args` in `id` without streams.
    pub fn exec_request(&self, id: &str, exec: &str, args: &[&str]) -> ExecProcessRequest {
        ExecProcessRequest {
            id: id.into(),
            exec_id: exec.into(),
            spec: Some(process(id, args)).into(),
            ..Default::default()
        }
    }

    /// Registers and starts an exec; answers its pid.
    pub async fn exec(&self, id: &str, exec: &str, args: &[&str]) -> Result<u32> {
        self.tasks.exec(&self.exec_request(id, exec, args)).await?;
        self.start_process(id, exec).await
    }

    /// Start.
    pub async fn start_process(&self, id: &str, exec: &str) -> Result<u32> {
        Ok(self.tasks.start(&request::start(id, exec)).await?.pid)
    }

    /// State.
    pub async fn state(&self, id: &str, exec: &str) -> Result<StateResponse> {
        self.tasks.state(&request::state(id, exec)).await
    }

    /// Wait, for as long as it takes.
    pub async fn wait(&self, id: &str, exec: &str) -> Result<WaitResponse> {
        self.tasks.wait(&request::wait(id, exec)).await
    }

    /// Kill.
    pub async fn kill(&self, id: &str, exec: &str, signal: u32) -> Result<()> {
        let request = request::kill(id, exec, signal);
        self.tasks.kill(&request).await.map(drop)
    }

    /// Delete.
    pub async fn delete(&self, id: &str, exec: &str) -> Result<DeleteResponse> {
        self.tasks.delete(&request::delete(id, exec)).await
    }

    /// Kills the init of `id`, waits for it and deletes the container.
    pub async fn remove(&self, id: &str) -> DeleteResponse {
        // Ended already: nothing to kill.
        let _ = self.kill(id, "", 9).await;
        self.wait(id, "").await.unwrap();
        self.delete(id, "").await.unwrap()
    }

    /// Events up to and with the first for which `last` holds.
    pub async fn events_until(&mut self, last: impl Fn(&Event) -> bool) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            let told = self.events.next_within(LIMIT).await;
            let told =
                told.unwrap_or_else(|e| panic!("{e}; so far {all:#?}; log {:#?}", self.log()));
            let found = last(&told.event);
            all.push(told);
            if found {
                return all;
            }
        }
    }

    /// Drops the connection; the next call fails.
    pub fn disconnect(&mut self) {
        let (nobody, _) = tokio::net::UnixStream::pair().unwrap();
        self.tasks = Tasks::over(Client::new(Socket::new(nobody)), self.tasks.version());
    }

    /// Asks the shim to end, and checks that it does and that nothing of it is left. Returns the
    /// events nobody has taken.
    pub async fn end(self) -> Vec<Told> {
        let shim = self.pid();
        let request = request::shutdown(&self.launch.id);
        // The answer may be lost with the connection.
        let _ = self.tasks.shutdown(&request).await;
        gone(&self.endpoint, LIMIT).await.unwrap();
        // Its socket goes first. It then drains its events, which this thread has to answer.
        until("the shim has ended", || ended(shim)).await;
        self.end_of_the_gone().await
    }

    /// Checks that a shim that has ended has left nothing. Returns the events nobody has taken.
    pub async fn end_of_the_gone(mut self) -> Vec<Told> {
        // Whatever failed was told of in the words that cotter::errno has.
        let mut log = self.log().into_iter();
        let foreign = log.find(|line| line.contains("(os error "));
        assert_eq!(foreign, None, "not in Go's words");
        // A manager's limit is not this machine's: beside a storm in an emulator it is not met.
        self.launch.delete_limit = LIMIT;
        let deleted = self.launch.delete().await.unwrap();
        assert_eq!(
            deleted.warnings, "",
            "delete has nothing to say after an orderly end"
        );
        let ids = self.ids();
        let left = self.left_in_bundles();
        assert!(left.is_empty(), "left in the bundles: {left:?}");
        let state = self.state_dir();
        let left = entries(&state);
        assert!(left.is_empty(), "left: {left:?}");
        let (owner, before) = (self.owner.clone(), self.before.clone());
        let mut diff = String::new();
        eventually("nothing is left of the shim", || {
            diff = before.diff(&Census::take(&owner, &ids));
            diff.is_empty()
        });
        self.events.stop().await
    }

    /// What is in the bundles that neither their manager put there nor outlives a shim by contract.
    pub fn left_in_bundles(&self) -> Vec<PathBuf> {
        let expected = [
            "config.json",
            "rootfs",
            "log",
            "log.json",
            "bootstrap.json",
            "exitstatus.json",
            "s",
            "address",
            "sandbox",
        ];
        let bundles = self.bundles.values();
        let mut left: Vec<PathBuf> = bundles
            .flat_map(|bundle| entries(bundle.path()))
            .filter(|path| !expected.iter().any(|name| path.ends_with(name)))
            .collect();
        left.sort();
        left
    }

    /// Whose belongings the census counts.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The containers that have a bundle.
    pub fn ids(&self) -> Vec<String> {
        self.bundles.keys().cloned().collect()
    }

    /// Creates container `id`, whose bundle exists, with these streams; answers the pid.
    pub async fn create_with(&self, id: &str, fifos: &Fifos) -> Result<u32> {
        let request = CreateTaskRequest {
            stdin: fifos.stdin.clone(),
            stdout: fifos.stdout.clone(),
            stderr: fifos.stderr.clone(),
            ..self.create_request(id)
        };
        Ok(self.tasks.create(&request).await?.pid)
    }

    /// Registers and starts an exec with these streams; answers its pid.
    pub async fn exec_with(
        &self,
        id: &str,
        exec: &str,
        args: &[&str],
        fifos: &Fifos,
    ) -> Result<u32> {
        let request = ExecProcessRequest {
            stdin: fifos.stdin.clone(),
            stdout: fifos.stdout.clone(),
            stderr: fifos.stderr.clone(),
            ..self.exec_request(id, exec, args)
        };
        self.tasks.exec(&request).await?;
        self.start_process(id, exec).await
    }

    /// CloseIO.
    pub async fn close_io(&self, id: &str, exec: &str, stdin: bool) -> Result<()> {
        let request = CloseIORequest {
            id: id.into(),
            exec_id: exec.into(),
            stdin,
            ..Default::default()
        };
        self.tasks.close_io(&request).await.map(drop)
    }

    /// Live processes of this test, the shim and its runtime calls among them.
    pub fn processes(&self) -> Vec<Process> {
        self.owner.processes()
    }
}

/// Whether a process is gone, or a zombie, which is its parent's business.
pub fn ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
}

/// As [`eventually`], for conditions that need this thread's tasks to run meanwhile.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + LIMIT;
    while !holds() {
        assert!(
            std::time::Instant::now() < deadline,
            "still not so after {LIMIT:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Does `work` for every item, `parallel` of them at a time.
pub async fn each<T, F: Future<Output = ()>>(
    parallel: usize,
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> F,
) {
    let items = RefCell::new(items.into_iter());
    let worker = || async {
        loop {
            let next = items.borrow_mut().next();
            let Some(item) = next else { return };
            work(item).await;
        }
    };
    let mut workers: Vec<Pin<Box<_>>> = (0..parallel).map(|_| Box::pin(worker())).collect();
    std::future::poll_fn(|cx| {
        workers.retain_mut(|worker| worker.as_mut().poll(cx).is_pending());
        if workers.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// The Any that holds the OCI process of an exec.
pub fn process(id: &str, args: &[&str]) -> Any {
    Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
        value: Spec::new(id, args.iter().copied())
            .process()
            .to_string()
            .into_bytes(),
        ..Default::default()
    }
}

fn make_bundle(dir: &Path, namespace: &str, id: &str, mut spec: Spec) -> Bundle {
    // Any other path is the test's own choice.
    if spec.cgroups_path.starts_with("/cotter/") {
        spec.cgroups_path = format!("/{namespace}/{id}");
    }
    if spec.rootfs == "rootfs" {
        spec.rootfs = tool("ROOTFS").to_string_lossy().into_owned();
    }
    Bundle::create(&dir.join(id), &spec.to_json()).unwrap()
}

/// A pause that no test's verdict rests on.
pub async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}
