//! A directory with FIFOs, containers that are plain children, and clients that never hang a test.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio as To};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use cotter::runtime::Fds;
use cotter::stdio::{Buffering, Io, Output, Plan};
use nix::fcntl::{FcntlArg, fcntl};
use tokio::sync::{RwLock, RwLockReadGuard, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// Far beyond what anything here takes.
pub const LONG: Duration = Duration::from_secs(30);
/// Long enough to see that nothing happens.
pub const SHORT: Duration = Duration::from_millis(50);
/// Writes whole pages, so that a FIFO takes exactly 16 of them.
pub const PAGES: &str = "dd if=/dev/zero bs=4096 2>/dev/null";
pub const BULK: u64 = 64 << 20;

/// Held shared by every desk, and alone by tests that count descriptors of the whole process.
pub static FDS: RwLock<()> = RwLock::const_new(());

/// A directory with the FIFOs `in`, `out` and `err`, gone at the end.
pub struct Desk {
    dir: PathBuf,
    _shared: Option<RwLockReadGuard<'static, ()>>,
}

impl Desk {
    pub async fn new() -> Self {
        Self::with(Some(FDS.read().await))
    }

    /// For a test that holds [`FDS`] itself.
    pub fn alone() -> Self {
        Self::with(None)
    }

    fn with(shared: Option<RwLockReadGuard<'static, ()>>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("cotter-stdio-{}-{n}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let desk = Self {
            dir,
            _shared: shared,
        };
        for name in ["in", "out", "err"] {
            desk.fifo(name);
        }
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn fifo(&self, name: &str) -> PathBuf {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::unistd::mkfifo(&self.path(name), mode).unwrap();
        self.path(name)
    }

    /// A plan with the named streams; an empty name is none.
    pub fn plan(&self, stdin: &str, stdout: &str, stderr: &str) -> Plan {
        let path = |name: &str| (!name.is_empty()).then(|| self.path(name));
        Plan::Pipes {
            stdin: path(stdin),
            stdout: path(stdout).map(Output::Path),
            stderr: path(stderr).map(Output::Path),
        }
    }

    /// Opens the named streams and starts a container that runs a script.
    pub fn run(&self, stdin: &str, stdout: &str, stderr: &str, script: &str) -> (Io, Child) {
        let (io, fds) = open(&self.plan(stdin, stdout, stderr));
        let child = self.sh(fds, script);
        io.start();
        (io, child)
    }

    /// A container that runs a script in the desk's directory.
    pub fn sh(&self, fds: Fds, script: &str) -> Child {
        Command::new("busybox")
            .args(["sh", "-c", script])
            .current_dir(&self.dir)
            .stdin(fds.stdin.map_or_else(To::null, To::from))
            .stdout(fds.stdout.map_or_else(To::null, To::from))
            .stderr(fds.stderr.map_or_else(To::null, To::from))
            .spawn()
            .expect("busybox is needed")
    }

    /// What a script of the client's prints first, such as a hash.
    pub async fn client(&self, script: &str) -> String {
        let mut command = Command::new("busybox");
        command.args(["sh", "-c", script]).current_dir(&self.dir);
        let output = off(move || command.output().unwrap()).await;
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    /// Opens a FIFO to read: at once, as a relay has its other end.
    pub fn reader(&self, name: &str) -> File {
        File::open(self.path(name)).unwrap()
    }

    /// A reader without a relay: open for both directions, it waits for nobody.
    pub fn reader_of_both(&self, name: &str) -> File {
        let mut both = OpenOptions::new();
        both.read(true).write(true).open(self.path(name)).unwrap()
    }

    pub fn writer(&self, name: &str) -> File {
        OpenOptions::new()
            .write(true)
            .open(self.path(name))
            .unwrap()
    }

    /// The file `bulk`: no two pages are alike. Returns its hash.
    pub async fn bulk(&self) -> String {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < BULK {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_ne_bytes());
        }
        fs::write(self.path("bulk"), bytes).unwrap();
        self.client("sha256sum bulk").await
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// As [`Desk::run`], with a buffer, and with `out` alone.
pub fn run(desk: &Desk, buffering: Buffering, script: &str) -> (Io, Child) {
    let (io, fds) = open_with(&desk.plan("", "out", ""), buffering);
    let child = desk.sh(fds, script);
    io.start();
    (io, child)
}

/// How much a pipe holds.
pub fn size(reader: &File) -> i32 {
    fcntl(reader.as_fd(), FcntlArg::F_GETPIPE_SZ).unwrap()
}

/// Lets a script go on that says `read x < ctl`.
pub fn control(desk: &Desk) -> impl FnMut() {
    let fifo = desk.fifo("ctl");
    let mut fifo = File::options().read(true).write(true).open(fifo).unwrap();
    move || fifo.write_all(b"go\n").unwrap()
}

/// Without a buffer, so that it is seen what the pipes hold.
pub fn open(plan: &Plan) -> (Io, Fds) {
    open_with(plan, Buffering::NONE)
}

pub fn open_with(plan: &Plan, buffering: Buffering) -> (Io, Fds) {
    let (uid, gid) = owner();
    Io::open(plan, uid, gid, buffering).unwrap()
}

/// Ids that this process may give a pipe to, and that differ from its own if possible.
pub fn owner() -> (u32, u32) {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if uid.is_root() {
        (1234, 5678)
    } else {
        (uid.as_raw(), gid.as_raw())
    }
}

/// Off the runtime's thread, which has relays to run, and not for ever: a thread of its own, as the
/// end of a test's runtime would wait for one of its pool.
pub async fn off<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = oneshot::channel();
    thread::spawn(move || done.send(work()));
    let result = timeout(LONG, result).await;
    result.expect("hangs").expect("panics")
}

pub async fn ended(mut child: Child) -> ExitStatus {
    off(move || child.wait().unwrap()).await
}

/// Reads to the end of the stream.
pub async fn all(mut reader: File) -> Vec<u8> {
    off(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    })
    .await
}

/// Reads so much and hands the reader back.
pub async fn exactly(mut reader: File, len: usize) -> (File, Vec<u8>) {
    off(move || {
        let mut bytes = vec![0; len];
        reader.read_exact(&mut bytes).unwrap();
        (reader, bytes)
    })
    .await
}

/// Writes and hands the writer back.
pub async fn say(mut writer: File, text: &'static str) -> File {
    off(move || {
        writer.write_all(text.as_bytes()).unwrap();
        writer
    })
    .await
}

/// Waits for a condition that has no event of its own.
pub async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < LONG, "never: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}
