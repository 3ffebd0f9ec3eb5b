//! A Docker Engine of the test's own, on a containerd of the test's own.
//!
//! Everything of it lies in that containerd's directory, namespace and cgroup, so the census counts it; only dockerd
//! itself is left out, being the test's own child. Dropping the engine removes all of it, also when the test fails.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::common::census::{Census, MARK};
use crate::common::containerd::{Containerd, Form, Version};
use crate::common::{
    Done, LIMIT, eventually, eventually_some, results, run, run_with_input, signal, tool, unique,
};

/// The image of every container: busybox and nothing else, with `/bin` as its PATH.
const IMAGE: &str = "box";

/// The engines the shim must work under, as Debian packages them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// 20.10, bookworm; with containerd 1.6.
    V20_10,
    /// 28.5, forky; with containerd 2.1.
    V28_5,
}

impl Line {
    fn dir(self) -> PathBuf {
        tool(match self {
            Self::V20_10 => "DOCKER_20_10",
            Self::V28_5 => "DOCKER_28_5",
        })
    }

    fn containerd(self) -> Version {
        match self {
            Self::V20_10 => Version::V1_6,
            Self::V28_5 => Version::V2_1,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V20_10 => "Docker 20.10",
            Self::V28_5 => "Docker 28.5",
        })
    }
}

/// A running (or stopped) engine.
pub struct Engine {
    /// Which one.
    pub line: Line,
    /// Its containerd.
    pub containerd: Containerd,
    /// The OCI runtime that its containers use.
    pub runtime: PathBuf,
    daemon: Option<Child>,
    config: Value,
}

/// Something that must work, and its name in the table of results.
pub type Case = (&'static str, fn(&Engine));

/// Runs `cases` on an engine all at once, and checks that nothing stays behind.
pub fn all_at_once(engine: Engine, cases: &[Case]) {
    let before = engine.census();
    let failed: Vec<&str> = thread::scope(|scope| {
        let begin = |(name, case): &Case| {
            let (engine, case) = (&engine, *case);
            let thread = thread::Builder::new().name((*name).to_owned());
            (
                *name,
                thread.spawn_scoped(scope, move || case(engine)).unwrap(),
            )
        };
        let begun: Vec<_> = cases.iter().map(begin).collect();
        let failed = |(name, thread): (_, thread::ScopedJoinHandle<()>)| {
            thread.join().is_err().then_some(name)
        };
        begun.into_iter().filter_map(failed).collect()
    });
    assert!(
        failed.is_empty(),
        "under {} failed: {failed:?}",
        engine.line
    );
    engine.nothing_left_since(&before);
    for (name, _) in cases {
        engine.passed(name);
    }
}

impl Engine {
    /// Starts `line` with the shim as a drop-in and the OCI runtime of that name in the list of tools.
    pub fn start(line: Line, runtime: &str) -> Self {
        Self::start_with(line, Form::DropIn, runtime, json!({}))
    }

    /// As [`start`](Self::start), with the shim installed as `form` says and more in daemon.json.
    pub fn start_with(line: Line, form: Form, runtime: &str, more: Value) -> Self {
        Self::start_in(line, form, runtime, more, &[])
    }

    /// As [`start_with`](Self::start_with), with more in the environment of containerd, and so of its shims.
    pub fn start_in(
        line: Line,
        form: Form,
        runtime: &str,
        more: Value,
        environment: &[(&'static str, &'static str)],
    ) -> Self {
        let runtime = tool(runtime);
        let containerd = Containerd::start_in(line.containerd(), form, &runtime, environment);
        let owner = &containerd.owner;
        let at = |name: &str| owner.dir.join(name);
        // Nothing that would touch the machine's network, and no name that another engine has.
        let mut config = json!({
            "data-root": at("docker"),
            "exec-root": at("run"),
            "pidfile": at("docker.pid"),
            "hosts": [format!("unix://{}", at("docker.sock").display())],
            "containerd": owner.address,
            "containerd-namespace": owner.namespace,
            "containerd-plugins-namespace": format!("{}-plugins", owner.namespace),
            "cgroup-parent": format!("/{}", owner.namespace),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "storage-driver": "overlay2",
            "bridge": "none",
            "iptables": false,
            "ip6tables": false,
            "ip-forward": false,
            "ip-masq": false,
            "userland-proxy": false,
            "init-path": line.dir().join("docker-init"),
            "runtimes": { "cotter": { "path": runtime } },
            "default-runtime": "cotter",
        });
        if line == Line::V20_10 {
            // Its default is below 0, which not every machine's root may ask for; and a key for the whole machine.
            config["oom-score-adjust"] = json!(0);
            config["deprecated-key-path"] = json!(at("key.json"));
        }
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        fs::create_dir(at("cid")).unwrap();
        let mut this = Self {
            line,
            containerd,
            runtime,
            daemon: None,
            config,
        };
        this.launch();
        let tar = this.containerd.owner.dir.join("box.tar");
        run(Command::new("tar")
            .arg("-C")
            .arg(tool("ROOTFS"))
            .arg("-cf")
            .arg(&tar)
            .arg("."))
        .ok();
        this.docker(&[
            "import",
            "--change",
            "ENV PATH=/bin",
            tar.to_str().unwrap(),
            IMAGE,
        ])
        .ok();
        this
    }

    /// Starts the daemon; `live` containers survive its orderly end.
    pub fn launch_with(&mut self, live: bool) {
        self.config["live-restore"] = json!(live);
        self.launch();
    }

    fn launch(&mut self) {
        assert!(self.daemon.is_none(), "it is still running");
        let dir = &self.containerd.owner.dir;
        let file = dir.join("daemon.json");
        fs::write(&file, self.config.to_string()).unwrap();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        // Without the mark: the census leaves it out.
        let child = Command::new(self.line.dir().join("dockerd"))
            .arg("--config-file")
            .arg(&file)
            .current_dir(dir)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("dockerd of {}: {e}", self.line));
        self.daemon = Some(child);
        eventually("dockerd answers", || {
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "dockerd ended: {}", self.log());
            self.containerd.owner.dir.join("docker.sock").exists()
                && self.docker(&["version"]).code == 0
        });
    }

    /// Ends the daemon with a signal: TERM is the orderly end.
    pub fn end(&mut self, name: &str) {
        let mut child = self.daemon.take().expect("it runs");
        signal(child.id(), name);
        eventually("dockerd ends", || child.try_wait().unwrap().is_some());
    }

    /// `docker ARGS…`, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let owner = &self.containerd.owner;
        let mut command = Command::new(self.line.dir().join("docker"));
        command
            .args(args)
            .env("DOCKER_HOST", self.config["hosts"][0].as_str().unwrap())
            .env("DOCKER_CONFIG", owner.dir.join("client"))
            .env(MARK, &owner.namespace);
        command
    }

    /// Runs `docker ARGS…` to its end.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> Done {
        run(&mut self.command(args))
    }

    /// `docker run FLAGS… IMAGE ARGV…` or `docker create …`, without a network unless the flags name one.
    pub fn new_command(&self, verb: &str, flags: &[&str], argv: &[&str]) -> Command {
        let mut command = self.command(&[verb]);
        if !flags.contains(&"--network") {
            command.args(["--network", "none"]);
        }
        command
            .arg("--cidfile")
            .arg(self.cids().join(unique("cid")));
        command.args(flags).arg(IMAGE).args(argv);
        command
    }

    /// Runs a container in the foreground, to its end.
    #[track_caller]
    pub fn run(&self, flags: &[&str], argv: &[&str]) -> Done {
        run(&mut self.new_command("run", flags, argv))
    }

    /// As [`run`](Self::run), with input.
    #[track_caller]
    pub fn run_with_input(&self, flags: &[&str], argv: &[&str], input: &[u8]) -> Done {
        run_with_input(&mut self.new_command("run", flags, argv), input)
    }

    /// Starts a container in the background.
    #[track_caller]
    pub fn up(&self, name: &str, flags: &[&str], argv: &[&str]) {
        let flags = [&["--detach", "--name", name], flags].concat();
        self.run(&flags, argv).ok();
    }

    /// Runs a command in a container, to its end.
    #[track_caller]
    pub fn exec(&self, flags: &[&str], name: &str, argv: &[&str]) -> Done {
        self.docker(&[&["exec"], flags, &[name], argv].concat())
    }

    /// Removes a container, running or not.
    #[track_caller]
    pub fn remove(&self, name: &str) {
        self.docker(&["rm", "--force", name]).ok();
    }

    /// What `docker inspect` says.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.docker(&["inspect", name]).ok();
        serde_json::from_str::<Value>(&text).unwrap()[0].take()
    }

    /// A container's state, as `docker inspect` has it.
    #[track_caller]
    pub fn state(&self, name: &str) -> Value {
        self.inspect(name)["State"].take()
    }

    /// The init process of a running container.
    #[track_caller]
    pub fn pid(&self, name: &str) -> u32 {
        let pid = self.state(name)["Pid"].as_u64().unwrap();
        assert_ne!(pid, 0, "{name} does not run");
        pid.try_into().unwrap()
    }

    /// Whether the OCI runtime is crun.
    pub fn crun(&self) -> bool {
        self.runtime.ends_with("crun")
    }

    /// Waits until a container has ended, and returns its exit code.
    #[track_caller]
    pub fn exited(&self, name: &str) -> i64 {
        let what = format!("{name} has exited");
        eventually_some(&what, || {
            let state = self.state(name);
            let ended = state["Status"] == "exited";
            ended.then(|| state["ExitCode"].as_i64().unwrap())
        })
    }

    /// Waits until the container has written `text`.
    #[track_caller]
    pub fn said(&self, name: &str, text: &str) {
        eventually(&format!("{name} says {text}"), || {
            let done = self.docker(&["logs", name]);
            done.out.contains(text) || done.err.contains(text)
        });
    }

    /// Counts what this engine, its containerd, shims and containers hold now.
    pub fn census(&self) -> Census {
        Census::take(&self.containerd.owner, &self.ids())
    }

    /// Waits until the census is what it was and the engine and its containerd know of no container.
    #[track_caller]
    pub fn nothing_left_since(&self, before: &Census) {
        assert_eq!(self.docker(&["ps", "--all", "--quiet"]).ok(), "");
        assert_eq!(
            self.containerd.ctr(&["containers", "ls", "--quiet"]).ok(),
            ""
        );
        let deadline = Instant::now() + LIMIT;
        loop {
            let census = before.diff(&self.census());
            let own = self.own_left();
            let own = own.iter().map(|p| format!("+ entry {}", p.display()));
            let lines = census.lines().map(str::to_owned).chain(own);
            // For the engine's life and for all containers: the host's network namespace stays mounted from its first
            // use, and crun keeps what it has compiled.
            let kept = |l: &String| l.ends_with("/run/netns/default") || l.ends_with("/.cache");
            let left: Vec<String> = lines.filter(|l| !kept(l)).collect();
            if left.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left behind (+) or missing (-): {left:#?}"
            );
            thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// What is left per container where only Docker puts it: FIFO directories and the runtime's state.
    fn own_left(&self) -> Vec<PathBuf> {
        let run = self.containerd.owner.dir.join("run");
        let state = entries(&run).into_iter().filter(|d| {
            let name = d.file_name().unwrap().to_str().unwrap();
            name.starts_with("runtime-")
        });
        let state = state.map(|d| d.join(&self.containerd.owner.namespace));
        let dirs = state.chain([run.join("containerd")]);
        dirs.flat_map(|d| entries(&d)).collect()
    }

    fn cids(&self) -> PathBuf {
        self.containerd.owner.dir.join("cid")
    }

    /// Every container there ever was.
    fn ids(&self) -> Vec<String> {
        let read = |file: PathBuf| fs::read_to_string(file).ok();
        entries(&self.cids()).into_iter().filter_map(read).collect()
    }

    /// Notes that `case` has passed; see [`results`].
    pub fn passed(&self, case: &str) {
        let engine = results::version(&self.line.dir().join("dockerd"), "--version");
        let name = self.runtime.file_name().unwrap().to_str().unwrap();
        let runtime = results::version(&self.runtime, "--version");
        results::passed("Docker", &engine, &format!("{name} {runtime}"), case);
    }

    fn log_file(&self) -> PathBuf {
        self.containerd.owner.dir.join("dockerd.log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of dockerd of {}:\n{}", self.line, self.log());
        }
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // The containerd, which clears up next, does not know whose shim sockets to look for.
        self.containerd.owner.clear(&self.ids());
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .map(|d| d.flatten().map(|e| e.path()).collect())
        .unwrap_or_default()
}
