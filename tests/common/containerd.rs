//! A containerd of the test's own: own root, state, sockets, configuration and PATH.
//!
//! Dropping it removes every process, mount, socket, cgroup and directory it caused, also when the
//! test fails.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::{fmt, fs};

use super::census::{Census, MARK, Owner};
use super::{
    Done, TempDir, eventually, results, run, run_with_input, run_with_silent_input, signal, tool,
    unique,
};

/// The lines of containerd the shim must work under, as Debian packages them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 1.6.20, bookworm.
    V1_6,
    /// 1.7.24, trixie.
    V1_7,
    /// 2.1, forky.
    V2_1,
}

impl Version {
    /// The directory with containerd, ctr and the Go shim.
    pub fn dir(self) -> PathBuf {
        tool(match self {
            Self::V1_6 => "CONTAINERD_1_6",
            Self::V1_7 => "CONTAINERD_1_7",
            Self::V2_1 => "CONTAINERD_2_1",
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_6 => "1.6",
            Self::V1_7 => "1.7",
            Self::V2_1 => "2.1",
        })
    }
}

/// How the shim under test is installed, and so how a container asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// By runtime name: the binary lies on the daemon's PATH under its own name.
    Name,
    /// By an absolute path as the runtime.
    Path,
    /// As a drop-in: on PATH under the Go shim's file name, asked for as io.containerd.runc.v2. The
    /// only form in which ctr passes runc options, so also the one that tests them.
    DropIn,
}

/// The shim under test: cotter's, or the one `COTTER_TEST_SHIM` names. With `go` there, each
/// containerd's own Go shim: that is how these tests are themselves tested.
pub fn shim_under_test(version: Version) -> PathBuf {
    match std::env::var_os("COTTER_TEST_SHIM") {
        Some(go) if go == "go" => version.dir().join("containerd-shim-runc-v2"),
        Some(path) => path.into(),
        None => env!("CARGO_BIN_EXE_containerd-shim-cotter-v2").into(),
    }
}

/// Panics unless the server of `id` is the shim under test, and not one that the daemon found elsewhere.
pub fn is_under_test(version: Version, id: &str) {
    use std::os::unix::fs::MetadataExt;
    let file = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino(), m.len()));
    let expected = file(&shim_under_test(version)).unwrap();
    let processes = super::peek::all().into_iter();
    let servers: Vec<PathBuf> = processes
        .filter(|process| process.argv.windows(2).any(|pair| pair == ["-id", id]))
        .map(|process| Path::new("/proc").join(process.pid.to_string()))
        .collect();
    assert!(!servers.is_empty(), "no shim of {id}");
    for server in servers {
        let exe = file(&server.join("exe"));
        // A copy, where a link could not be made, has the same length.
        let same = exe
            .is_some_and(|exe| (exe.0, exe.1) == (expected.0, expected.1) || exe.2 == expected.2);
        let path = fs::read_link(server.join("exe"));
        assert!(same, "{id} is served by {path:?}");
    }
}

/// Whether a Go shim is under test: these tests tolerate its known faults by asking this.
pub fn go_shim() -> bool {
    std::env::var_os("COTTER_TEST_SHIM").is_some_and(|s| s == "go")
}

/// The image that pods of a containerd with CRI are made of: the tests' root file system.
pub const CRI_IMAGE: &str = "localhost/cotter-test:1";

/// A running (or stopped) containerd.
pub struct Containerd {
    /// Whose belongings the census counts.
    pub owner: Owner,
    /// Which containerd.
    pub version: Version,
    form: Form,
    /// The OCI runtime that containers use.
    runtime: PathBuf,
    shim: PathBuf,
    /// Whether the CRI plugin is on.
    cri: bool,
    environment: Vec<(&'static str, &'static str)>,
    daemon: Option<Child>,
    ids: Mutex<Vec<String>>,
    dir: TempDir,
}

impl Containerd {
    /// Starts `version` with the shim installed as `form` says, running containers with the OCI
    /// runtime at `runtime`.
    pub fn start(version: Version, form: Form, runtime: &Path) -> Self {
        Self::start_in(version, form, runtime, &[])
    }

    /// As [`start`](Self::start), with more in the environment of the daemon, and so of its shims.
    pub fn start_in(
        version: Version,
        form: Form,
        runtime: &Path,
        environment: &[(&'static str, &'static str)],
    ) -> Self {
        Self::configured(version, form, runtime, false, environment)
    }

    /// Starts `version` with the CRI plugin on. Its default handler runs the shim as a drop-in by path
    /// (`io.containerd.runc.v2` with runc options), the handlers `by-name` and `by-name-with-options` by the
    /// shim's own name.
    pub fn start_with_cri(
        version: Version,
        runtime: &Path,
        environment: &[(&'static str, &'static str)],
    ) -> Self {
        Self::configured(version, Form::Path, runtime, true, environment)
    }

    /// Who put the execs of a container into it, as `cotter stats` tells.
    pub fn execs(&self, namespace: &str, id: &str) -> serde_json::Value {
        let mut stats = Command::new(super::cotter::cotter());
        stats
            .arg("stats")
            .arg("--json")
            .arg("--state")
            .arg(self.owner.dir.join("state"));
        let told = run(stats.args(["-n", namespace, id])).ok();
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        told["execs"].clone()
    }

    fn configured(
        version: Version,
        form: Form,
        runtime: &Path,
        cri: bool,
        environment: &[(&'static str, &'static str)],
    ) -> Self {
        let dir = TempDir::new("ctd");
        let namespace = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        // A real file under the name in question, not a link to another name: a shim may look at
        // its own name.
        let source = shim_under_test(version);
        let shim = bin.join(match form {
            Form::DropIn => OsStr::new("containerd-shim-runc-v2"),
            Form::Name | Form::Path => source.file_name().unwrap(),
        });
        if fs::hard_link(&source, &shim).is_err() {
            fs::copy(&source, &shim).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        }
        // The CRI of 1.6 knows no path of a runtime: it takes what has the name on its PATH.
        if cri && form != Form::DropIn {
            fs::hard_link(&shim, bin.join("containerd-shim-runc-v2"))
                .unwrap_or_else(|e| assert_eq!(e.kind(), std::io::ErrorKind::AlreadyExists));
        }
        // ctr passes runc options for io.containerd.runc.v2 only, so for the other forms the runtime
        // is chosen by what "runc" means on the shim's PATH.
        if form != Form::DropIn {
            symlink(runtime, bin.join("runc")).unwrap();
        }
        let mut this = Self {
            owner: Owner {
                namespace,
                dir: dir.path().to_owned(),
                address: dir.path().join("containerd.sock"),
            },
            version,
            form,
            runtime: runtime.to_owned(),
            shim,
            cri,
            environment: environment.to_vec(),
            daemon: None,
            ids: Mutex::default(),
            dir,
        };
        fs::create_dir(this.dir.path().join("fifo")).unwrap();
        fs::write(this.dir.path().join("config.toml"), this.config()).unwrap();
        this.launch();
        this
    }

    fn config(&self) -> String {
        let dir = self.dir.path().display();
        let cri = if self.cri {
            self.cri_config()
        } else {
            String::new()
        };
        // nri would bind an address shared by the whole machine, and cri without settings of its own too;
        // opt would make a directory outside the test's own.
        let no_cri = r#""io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime","#;
        let no_cri = if self.cri { "" } else { no_cri };
        format!(
            r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = [
  {no_cri}
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.blockfile",
]
[grpc]
address = "{dir}/containerd.sock"
[debug]
level = "info"
{cri}"#
        )
    }

    /// The plugin's own part. The runtime's state is in the test's directory, since all tests of the CRI
    /// share one namespace; no process may lower its `oom_score_adj` where the machine forbids it.
    fn cri_config(&self) -> String {
        let dir = self.dir.path().display();
        let (shim, name) = (self.shim.display(), self.runtime_name());
        let runtime = self.runtime.display();
        format!(
            r#"[plugins."io.containerd.grpc.v1.cri"]
stream_server_address = "127.0.0.1"
stream_server_port = "0"
sandbox_image = "{CRI_IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
cdi_spec_dirs = ["{dir}/cdi"]
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{dir}/cni/bin"
conf_dir = "{dir}/cni/conf"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "drop-in"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.drop-in]
runtime_type = "io.containerd.runc.v2"
runtime_path = "{shim}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.drop-in.options]
BinaryName = "{runtime}"
Root = "{dir}/runtime"
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.by-name]
runtime_type = "{name}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.by-name-with-options]
runtime_type = "{name}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.by-name-with-options.options]
BinaryName = "{runtime}"
Root = "{dir}/runtime"
"#
        )
    }

    fn launch(&mut self) {
        let path = |dirs: &[&Path]| std::env::join_paths(dirs).unwrap();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let child = Command::new(self.version.dir().join("containerd"))
            .arg("--config")
            .arg(self.dir.path().join("config.toml"))
            .current_dir(self.dir.path())
            .env(
                "PATH",
                path(&[
                    &self.dir.path().join("bin"),
                    Path::new("/usr/sbin"),
                    Path::new("/usr/bin"),
                    Path::new("/sbin"),
                    Path::new("/bin"),
                ]),
            )
            .env(MARK, &self.owner.namespace)
            .envs(self.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("containerd {:?}: {e}", self.version));
        self.daemon = Some(child);
        eventually("containerd answers", || {
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "containerd ended: {}", self.log());
            std::os::unix::net::UnixStream::connect(&self.owner.address).is_ok()
                && self.ctr(&["version"]).code == 0
        });
    }

    /// Ends the daemon in order. Shims and containers stay, as with a service manager's restart.
    pub fn stop(&mut self) {
        self.end("TERM");
    }

    /// Kills the daemon with no warning.
    pub fn kill(&mut self) {
        self.end("KILL");
    }

    /// Stops the daemon and starts it again on the same state.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    /// Replaces the daemon by another version on the same state, as a package upgrade does.
    pub fn upgrade(&mut self, version: Version) {
        self.stop();
        self.version = version;
        self.launch();
    }

    /// Replaces the installed shim by `binary`, as a package upgrade does: by rename, so that a shim
    /// that runs keeps the file it was started from.
    pub fn replace_shim(&self, binary: &Path) {
        let new = self.shim.with_extension("new");
        fs::copy(binary, &new).unwrap_or_else(|e| panic!("{}: {e}", binary.display()));
        fs::rename(&new, &self.shim).unwrap();
    }

    /// Starts the daemon again after [`Self::stop`] or [`Self::kill`].
    pub fn relaunch(&mut self) {
        assert!(self.daemon.is_none(), "it is still running");
        self.launch();
    }

    fn end(&mut self, name: &str) {
        let Some(mut child) = self.daemon.take() else {
            return;
        };
        signal(child.id(), name);
        eventually("the daemon ends", || child.try_wait().unwrap().is_some());
    }

    /// `ctr ARGS…`, not yet started, talking to this daemon in the test's namespace.
    pub fn ctr_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.version.dir().join("ctr"));
        command
            .arg("--address")
            .arg(&self.owner.address)
            .args(["--namespace", &self.owner.namespace])
            .args(args)
            .env(MARK, &self.owner.namespace);
        command
    }

    /// Runs `ctr ARGS…` to its end, within the time limit.
    #[track_caller]
    pub fn ctr(&self, args: &[&str]) -> Done {
        run(&mut self.ctr_command(args))
    }

    /// `ctr run FLAGS… ROOTFS ID COMMAND…` with the shim under test, not yet started.
    pub fn run_command(&self, flags: &[&str], id: &str, argv: &[&str]) -> Command {
        let mut command = self.run_command_from(flags);
        command.arg("--rootfs").arg(tool("ROOTFS"));
        self.for_container(command, id, argv)
    }

    /// `ctr run FLAGS… IMAGE ID COMMAND…`, the same.
    pub fn run_image_command(
        &self,
        flags: &[&str],
        image: &str,
        id: &str,
        argv: &[&str],
    ) -> Command {
        let mut command = self.run_command_from(flags);
        command.arg(image);
        self.for_container(command, id, argv)
    }

    fn for_container(&self, mut command: Command, id: &str, argv: &[&str]) -> Command {
        self.ids.lock().unwrap().push(id.to_owned());
        command.arg(id).args(argv);
        command
    }

    fn run_command_from(&self, flags: &[&str]) -> Command {
        let mut command = self.ctr_command(&["run", "--fifo-dir"]);
        command.arg(self.dir.path().join("fifo"));
        match self.form {
            Form::Name => command.args(["--runtime", &self.runtime_name()]),
            Form::Path => command.arg("--runtime").arg(&self.shim),
            Form::DropIn => command
                .args(["--runtime", "io.containerd.runc.v2", "--runc-binary"])
                .arg(&self.runtime),
        };
        // Without an image there is no default environment.
        command.args(["--env", "PATH=/bin"]);
        command.args(flags);
        command
    }

    /// Runs a container to its end in the foreground; `--rm` removes it. Without input ctr's own does
    /// not end: on a loaded machine it drops output once it has, with any shim.
    #[track_caller]
    pub fn run(&self, id: &str, argv: &[&str], input: &[u8]) -> Done {
        let mut command = self.run_command(&["--rm"], id, argv);
        match input {
            [] => run_with_silent_input(&mut command),
            _ => run_with_input(&mut command, input),
        }
    }

    /// Runs a container to its end in the foreground, on a terminal: `script` has one for ctr.
    #[track_caller]
    pub fn run_on_terminal(&self, id: &str, argv: &[&str]) -> Done {
        self.on_terminal(&self.run_command(&["--rm", "--tty"], id, argv))
    }

    /// Starts a container in the background, with no stdio.
    #[track_caller]
    pub fn run_detached(&self, id: &str, argv: &[&str]) {
        run(&mut self.run_command(&["-d", "--null-io"], id, argv)).ok();
    }

    /// Runs a command in a container, to its end.
    #[track_caller]
    pub fn exec(&self, id: &str, argv: &[&str]) -> Done {
        let exec = unique("exec");
        let mut command = self.ctr_command(&["tasks", "exec", "--exec-id", &exec, "--fifo-dir"]);
        command.arg(self.dir.path().join("fifo"));
        command.arg(id).args(argv);
        run(&mut command)
    }

    /// As [`exec`](Self::exec), on a terminal.
    #[track_caller]
    pub fn exec_on_terminal(&self, id: &str, argv: &[&str]) -> Done {
        let exec = unique("exec");
        let mut command = self.ctr_command(&["tasks", "exec", "--tty", "--exec-id", &exec]);
        command.arg("--fifo-dir").arg(self.dir.path().join("fifo"));
        command.arg(id).args(argv);
        self.on_terminal(&command)
    }

    #[track_caller]
    fn on_terminal(&self, command: &Command) -> Done {
        let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line = words.map(quoted).collect::<Vec<_>>().join(" ");
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        run(script.env(MARK, &self.owner.namespace))
    }

    /// The name as `--runtime` takes it: containerd-shim-NAME-v2 is io.containerd.NAME.v2.
    fn runtime_name(&self) -> String {
        let file = self.shim.file_name().unwrap().to_str().unwrap();
        let name = file.strip_prefix("containerd-shim-").unwrap();
        format!("io.containerd.{}", name.replace('-', "."))
    }

    /// The status column of `ctr tasks ls` for `id`: RUNNING, STOPPED, …; none when unlisted.
    pub fn status(&self, id: &str) -> Option<String> {
        let list = self.ctr(&["tasks", "ls"]).ok();
        list.lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>())
            .find(|l| l.first() == Some(&id))
            .and_then(|l| l.get(2).map(|s| (*s).to_owned()))
    }

    /// The init process of container `id`, as the daemon lists it.
    pub fn pid(&self, id: &str) -> Option<u32> {
        let list = self.ctr(&["tasks", "ls"]).ok();
        list.lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>())
            .find(|l| l.first() == Some(&id))
            .and_then(|l| l.get(1)?.parse().ok())
    }

    /// Counts the shim sockets of container `id`, which was not made by `ctr`, among the test's belongings.
    pub fn adopt(&self, id: &str) {
        self.ids.lock().unwrap().push(id.to_owned());
    }

    /// Counts what this containerd, its shims and containers hold now.
    pub fn census(&self) -> Census {
        Census::take(&self.owner, &self.ids.lock().unwrap())
    }

    /// Removes the shim sockets of container `id`.
    pub fn remove_sockets(&self, id: &str) {
        for socket in self.owner.shim_sockets(id) {
            let _ = fs::remove_file(socket);
        }
    }

    /// Waits until the census is what it was; panics with the difference when it never is.
    #[track_caller]
    pub fn nothing_left_since(&self, before: &Census) {
        let mut last = String::new();
        let deadline = std::time::Instant::now() + super::LIMIT;
        while std::time::Instant::now() < deadline {
            last = before.diff(&self.census());
            if last.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("left behind (+) or missing (-):\n{last}");
    }

    /// Notes that `case` has passed; see [`results`].
    pub fn passed(&self, case: &str) {
        self.passed_with(&self.runtime, case);
    }

    /// As [`passed`](Self::passed), with another runtime than the daemon's.
    pub fn passed_with(&self, runtime: &Path, case: &str) {
        let manager = results::version(&self.version.dir().join("containerd"), "--version");
        let name = runtime.file_name().unwrap().to_str().unwrap();
        let runtime = results::version(runtime, "--version");
        results::passed("containerd", &manager, &format!("{name} {runtime}"), case);
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("containerd.log")
    }

    /// What the daemon and the shims have logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of containerd {:?}, without its start:", self.version);
            self.log()
                .lines()
                .filter(|l| !l.contains("loading plugin"))
                .for_each(|l| eprintln!("{l}"));
        }
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.owner.clear(&self.ids.lock().unwrap());
    }
}
