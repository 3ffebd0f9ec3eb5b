//! The other ends of a terminal's FIFOs, as a manager holds them. All waits have an end.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use cotter::error::Result;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;
use cotter::proto::task::{CreateTaskRequest, ExecProcessRequest, ResizePtyRequest};

use crate::common::LIMIT;
use crate::common::shim::{RUNTIMES, Shim, run};

/// Each runtime, once with the init and once with an exec having the terminal.
pub fn everywhere<F: Future<Output = ()>>(test: impl Fn(&'static str, &'static str) -> F) {
    for runtime in RUNTIMES {
        for exec in ["", "x"] {
            run(test(runtime, exec));
        }
    }
}

/// A process with a terminal.
pub struct Tty {
    pub shim: Shim,
    /// Its exec id; empty for the init.
    pub exec: String,
    pub fifos: Fifos,
    pub screen: Screen,
}

impl Tty {
    /// A shim whose init, or exec `exec`, runs `script` with a terminal.
    pub async fn start(runtime: &str, exec: &str, script: &str) -> Self {
        let tty = Self::prepare(runtime, exec, script).await;
        tty.shim.start_process("c", exec).await.unwrap();
        tty
    }

    /// The same, not started.
    pub async fn prepare(runtime: &str, exec: &str, script: &str) -> Self {
        let args: &[&str] = if exec.is_empty() {
            &["sh", "-c", script]
        } else {
            &["sleep", "1000"]
        };
        let mut spec = Spec::new("c", args.iter().copied());
        spec.terminal = exec.is_empty();
        let shim = Shim::start_as(
            cotter::manager::dialect::Dialect::Proto23,
            runtime,
            spec,
            "c",
        )
        .await;
        let fifos = terminal_fifos(&shim, "f");
        let screen = Screen::open(&fifos.stdout);
        if exec.is_empty() {
            create(&shim, "c", &fifos).await.unwrap();
        } else {
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            register(&shim, exec, script, &fifos).await.unwrap();
        }
        Self {
            shim,
            exec: exec.into(),
            fifos,
            screen,
        }
    }

    /// A client that types.
    pub fn keyboard(&self) -> Keyboard {
        Keyboard::open(&self.fifos.stdin)
    }

    /// Waits for its exit status.
    pub async fn status(&self) -> u32 {
        self.shim.wait("c", &self.exec).await.unwrap().exit_status
    }

    /// ResizePty.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        resize(&self.shim, &self.exec, width, height).await
    }

    /// CloseIO of its stdin.
    pub async fn close_stdin(&self) {
        self.shim.close_io("c", &self.exec, true).await.unwrap();
    }

    /// Everything else that it writes, and its exit status; then nothing is left.
    pub async fn finish(self) -> (String, u32) {
        let text = self.screen.text().await;
        let status = self.shim.wait("c", &self.exec).await.unwrap().exit_status;
        if !self.exec.is_empty() {
            self.shim.delete("c", &self.exec).await.unwrap();
        }
        self.shim.remove("c").await;
        self.shim.end().await;
        (text, status)
    }
}

/// FIFOs for a terminal: it has no stderr.
pub fn terminal_fifos(shim: &Shim, name: &str) -> Fifos {
    Fifos {
        stderr: String::new(),
        ..shim.fifos(name, true)
    }
}

/// Creates container `id`, whose bundle exists, with a terminal.
pub async fn create(shim: &Shim, id: &str, fifos: &Fifos) -> Result<()> {
    let request = CreateTaskRequest {
        terminal: true,
        stdin: fifos.stdin.clone(),
        stdout: fifos.stdout.clone(),
        ..shim.create_request(id)
    };
    shim.tasks.create(&request).await.map(drop)
}

/// Registers an exec of a script in `c` with a terminal; its spec says that it has none.
pub async fn register(shim: &Shim, exec: &str, script: &str, fifos: &Fifos) -> Result<()> {
    let request = ExecProcessRequest {
        terminal: true,
        stdin: fifos.stdin.clone(),
        stdout: fifos.stdout.clone(),
        ..shim.exec_request("c", exec, &["sh", "-c", script])
    };
    shim.tasks.exec(&request).await.map(drop)
}

/// ResizePty in `c`.
pub async fn resize(shim: &Shim, exec: &str, width: u32, height: u32) -> Result<()> {
    let request = ResizePtyRequest {
        id: "c".into(),
        exec_id: exec.into(),
        width,
        height,
        ..Default::default()
    };
    shim.tasks.resize_pty(&request).await.map(drop)
}

/// What a terminal shows.
pub struct Screen(pipe::Receiver);

impl Screen {
    /// Opens the FIFO, also before the shim has.
    pub fn open(path: &str) -> Self {
        Self(pipe::OpenOptions::new().open_receiver(path).unwrap())
    }

    /// The next bytes, `max` at most; none at the end.
    pub async fn some(&mut self, max: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(max);
        let read = async {
            // Before the shim has opened the FIFO, a read would see an end.
            self.0.readable().await?;
            (&mut self.0).take(max as u64).read_buf(&mut bytes).await
        };
        timeout(LIMIT, read)
            .await
            .expect("bytes or the end")
            .unwrap();
        bytes
    }

    /// Checks that this is what comes next.
    #[track_caller]
    pub fn expect(&mut self, expected: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let mut got = Vec::new();
            while got.len() < expected.len() {
                let more = self.some(expected.len() - got.len()).await;
                assert!(
                    !more.is_empty(),
                    "the end after {:?} at {caller}",
                    String::from_utf8_lossy(&got)
                );
                got.extend(more);
            }
            assert_eq!(String::from_utf8_lossy(&got), expected, "at {caller}");
        }
    }

    /// All that comes until the end, as text.
    pub async fn text(mut self) -> String {
        let mut all = Vec::new();
        loop {
            let more = self.some(1 << 16).await;
            if more.is_empty() {
                return String::from_utf8(all).unwrap();
            }
            all.extend(more);
        }
    }

    /// The next `len` bytes' SHA-256 in hexadecimal.
    pub async fn digest(&mut self, len: usize) -> String {
        let (mut hash, mut left) = (Sha256::new(), len);
        while left > 0 {
            let more = self.some(left.min(1 << 16)).await;
            assert!(!more.is_empty(), "the end {left} of {len} bytes too early");
            left -= more.len();
            hash.update(&more);
        }
        hex(hash)
    }
}

/// A digest as `sha256sum` prints it.
pub fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// What types into a terminal; dropping it closes the client's end.
pub struct Keyboard(pipe::Sender);

impl Keyboard {
    /// Opens it; the shim must have the FIFO open.
    pub fn open(path: &str) -> Self {
        Self(pipe::OpenOptions::new().open_sender(path).unwrap())
    }

    /// Types everything.
    pub async fn write(&mut self, bytes: &[u8]) {
        let written = timeout(LIMIT, self.0.write_all(bytes)).await;
        written.expect("room").unwrap();
    }

    /// Types until nobody reads any more.
    pub async fn until_broken(mut self) {
        let broken = async { while self.0.write_all(&[b'.'; 4096]).await.is_ok() {} };
        timeout(LIMIT, broken).await.expect("a broken pipe");
    }

    /// Types until there has been no room for a while; returns how much went.
    pub async fn until_full(&mut self) -> usize {
        let mut typed = 0;
        while timeout(QUIET, self.0.writable()).await.is_ok() {
            typed += self.0.try_write(&[b'.'; 4096]).unwrap_or(0);
        }
        typed
    }
}

/// Long enough that what must not happen would have, by far; no verdict but that one rests on it.
pub const QUIET: Duration = Duration::from_millis(600);
