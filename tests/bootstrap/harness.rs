//! A manager's side of one bundle: enough to run the real binary and to see what it leaves.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cotter::proto::{self, Any, bootstrap, runc_options::Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protobuf::Message;

use crate::common::peek::{self, Seen};

pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-cotter-v2");

/// Bundles of one namespace, which belongs to one test alone.
pub struct Manager {
    pub dir: PathBuf,
    /// Short, whatever the temporary directory is: a socket's path is limited.
    sockets: PathBuf,
    pub namespace: String,
    /// Whose containerd it is, if not its own.
    pub grpc_of: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dialect {
    Plain,
    Json,
    Proto,
}

impl Manager {
    pub fn new(name: &str) -> Self {
        let namespace = format!("cotter-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(&namespace);
        fs::create_dir(&dir).unwrap();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let sockets = PathBuf::from(format!("/run/cotter-{}-{n}", std::process::id()));
        Self {
            dir,
            sockets,
            namespace,
            grpc_of: None,
        }
    }

    pub fn grpc(&self) -> String {
        let own = || format!("/run/{}.sock", self.namespace);
        self.grpc_of.clone().unwrap_or_else(own)
    }

    pub fn sockets(&self) -> PathBuf {
        self.sockets.clone()
    }

    /// A bundle with a log FIFO that nobody has opened.
    pub fn bundle(&self, id: &str, group: Option<&str>) -> Bundle<'_> {
        let path = self.dir.join("bundles").join(id);
        fs::create_dir_all(&path).unwrap();
        let annotations = match group {
            Some(group) => serde_json::json!({ "io.kubernetes.cri.sandbox-id": group }),
            None => serde_json::json!({}),
        };
        let config = serde_json::json!({ "annotations": annotations });
        fs::write(path.join("config.json"), config.to_string()).unwrap();
        nix::unistd::mkfifo(
            &path.join("log"),
            nix::sys::stat::Mode::from_bits_truncate(0o700),
        )
        .unwrap();
        Bundle {
            manager: self,
            id: id.to_owned(),
            path,
        }
    }

    /// The servers of this namespace.
    pub fn servers(&self) -> BTreeSet<i32> {
        let serves = |seen: &Seen| {
            let has = |word: &str| seen.argv.iter().any(|arg| arg == word);
            has(&self.namespace) && !["start", "delete", "-info"].into_iter().any(has)
        };
        let all = peek::all().into_iter().filter(serves);
        all.map(|seen| seen.pid.cast_signed()).collect()
    }

    pub fn server(&self) -> i32 {
        // Between exec and the first instruction a process has no command line.
        eventually("a server", || !self.servers().is_empty());
        let servers = self.servers();
        assert_eq!(servers.len(), 1, "servers: {servers:?}");
        *servers.first().unwrap()
    }

    /// Kills the server and waits until it is gone.
    pub fn end(&self, signal: Signal) {
        kill(Pid::from_raw(self.server()), signal).unwrap();
        eventually("the server to end", || self.servers().is_empty());
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        for pid in self.servers() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for bundle in fs::read_dir(self.dir.join("bundles"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = cotter::mount::unmount_all(&bundle.path().join("rootfs"));
            let address = fs::read_to_string(bundle.path().join("address")).unwrap_or_default();
            if let Some(path) = address.strip_prefix("unix://") {
                let _ = fs::remove_file(path);
            }
        }
        let _ = fs::remove_dir_all(&self.sockets);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub struct Bundle<'a> {
    pub manager: &'a Manager,
    pub id: String,
    pub path: PathBuf,
}

impl Bundle<'_> {
    pub fn command(&self, action: &str) -> Command {
        let mut command = Command::new(SHIM);
        command
            .current_dir(&self.path)
            .env_remove("GRPC_ADDRESS")
            .env_remove("RUST_LOG");
        command.env("TTRPC_ADDRESS", "/run/nobody.ttrpc");
        command.args(["-namespace", &self.manager.namespace, "-id", &self.id]);
        command.args([
            "-address",
            &self.manager.grpc(),
            "-publish-binary",
            "/usr/bin/containerd",
        ]);
        command.arg(action);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn stdin(&self, dialect: Dialect, options: &Options) -> Vec<u8> {
        self.stdin_any(dialect, proto::pack(options).unwrap())
    }

    pub fn stdin_any(&self, dialect: Dialect, options: Any) -> Vec<u8> {
        if dialect != Dialect::Proto {
            return options.write_to_bytes().unwrap();
        }
        self.params(options).write_to_bytes().unwrap()
    }

    fn params(&self, options: Any) -> bootstrap::BootstrapParams {
        bootstrap::BootstrapParams {
            instance_id: self.id.clone(),
            namespace: self.manager.namespace.clone(),
            containerd_grpc_address: self.manager.grpc(),
            containerd_ttrpc_address: "/run/param.ttrpc".into(),
            socket_dir: Some(self.manager.sockets().to_str().unwrap().to_owned()),
            extensions: vec![bootstrap::Extension {
                value: protobuf::MessageField::some(options),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    pub fn start_with(&self, dialect: Dialect, options: &Options) -> Output {
        self.start_any(dialect, proto::pack(options).unwrap())
    }

    pub fn start_any(&self, dialect: Dialect, options: Any) -> Output {
        let mut command = self.command("start");
        if dialect != Dialect::Plain {
            command.env("GRPC_ADDRESS", self.manager.grpc());
        }
        run(command, &self.stdin_any(dialect, options))
    }

    /// Starts, expects success, and returns the address's path.
    pub fn start(&self, dialect: Dialect) -> PathBuf {
        let output = self.start_with(dialect, &Options::default());
        succeeded(&output);
        path_of(&address(dialect, &output.stdout))
    }

    pub fn log(&self) -> File {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        options.open(self.path.join("log")).unwrap()
    }
}

pub fn run(mut command: Command, stdin: &[u8]) -> Output {
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // A shim that refuses its flags ends without having read.
    let _ = pipe.write_all(stdin);
    drop(pipe);
    child.wait_with_output().unwrap()
}

pub fn succeeded(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    assert_eq!(stderr, "", "standard error must stay empty");
}

/// The address in an answer, whose every byte is checked.
pub fn address(dialect: Dialect, stdout: &[u8]) -> String {
    match dialect {
        Dialect::Plain => String::from_utf8(stdout.to_vec()).unwrap(),
        Dialect::Json => {
            let answer: serde_json::Value = serde_json::from_slice(stdout).unwrap();
            let address = answer["address"].as_str().unwrap().to_owned();
            let expected = format!(r#"{{"version":2,"address":"{address}","protocol":"ttrpc"}}"#);
            assert_eq!(stdout, expected.as_bytes());
            address
        }
        Dialect::Proto => {
            let answer = bootstrap::BootstrapResult::parse_from_bytes(stdout).unwrap();
            assert_eq!((answer.version, answer.protocol.as_str()), (3, "ttrpc"));
            assert_eq!(answer.write_to_bytes().unwrap(), stdout);
            answer.address
        }
    }
}

pub fn path_of(address: &str) -> PathBuf {
    PathBuf::from(address.strip_prefix("unix://").unwrap())
}

/// Whether a server answers a ttrpc request; it does not matter what.
pub fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return false;
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // Stream 1, a request of 6 bytes: service "x", method "y".
    let _ = stream.write_all(b"\0\0\0\x06\0\0\0\x01\x01\0\x0a\x01x\x12\x01y");
    let mut header = [0; 10];
    stream.read_exact(&mut header).is_ok() && header[8] == 2
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < give_up, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn entries(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| e.file_name().into_string().unwrap())
        .collect()
}
