//! What the integration tests share: the tools they run, waiting with a deadline, commands with a
//! time limit, real managers and the census that shows what a test left behind.
//!
//! Each test file takes what it needs, so unused items are expected in every one of them.
#![allow(dead_code, clippy::print_stderr)]

pub mod census;
pub mod containerd;
pub mod cotter;
pub mod dumper;
pub mod events;
pub mod logger;
pub mod peek;
pub mod random;
pub mod resources;
pub mod results;
pub mod script;
pub mod shim;
pub mod terminal;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The longest any single command or condition may take. Far above what a loaded machine needs:
/// reaching it is a hang.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `cond` holds and panics with `what` when it does not within [`LIMIT`].
#[track_caller]
pub fn eventually(what: &str, mut cond: impl FnMut() -> bool) {
    eventually_some(what, || cond().then_some(()));
}

/// Waits until `probe` yields something and returns it; panics with `what` after [`LIMIT`].
#[track_caller]
pub fn eventually_some<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "still not so after {LIMIT:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How a finished command ended and what it wrote.
#[derive(Debug)]
pub struct Done {
    /// The exit code; 128 + the number when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Done {
    /// Standard output, after checking that the command succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }
}

/// Runs `command` with `input` on its standard input; panics when it takes longer than [`LIMIT`].
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Done {
    let input = input.to_vec();
    finish(command, move |mut stdin, _| {
        // A command that ends without reading its input is no fault of the caller.
        let _ = stdin.write_all(&input);
    })
}

/// Runs `command` with a standard input on which nothing comes, and which does not end before the
/// command does.
#[track_caller]
pub fn run_with_silent_input(command: &mut Command) -> Done {
    finish(command, |stdin, ended| {
        // Fails when the command has ended, which is what is waited for.
        let _ = ended.recv();
        drop(stdin);
    })
}

#[track_caller]
fn finish(
    command: &mut Command,
    input: impl FnOnce(ChildStdin, mpsc::Receiver<()>) + Send + 'static,
) -> Done {
    let what = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("spawn {what}: {e}"));
    let pid = child.id();
    let stdin = child.stdin.take().unwrap();
    let (done, wait) = mpsc::channel();
    let (_running, ended) = mpsc::channel();
    std::thread::spawn(move || input(stdin, ended));
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let output = match wait.recv_timeout(LIMIT) {
        Ok(output) => output.unwrap_or_else(|e| panic!("wait for {what}: {e}")),
        Err(_) => {
            signal(pid, "KILL");
            panic!("still running after {LIMIT:?}: {what}");
        }
    };
    use std::os::unix::process::ExitStatusExt;
    Done {
        code: output
            .status
            .code()
            .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs `command` without input.
#[track_caller]
pub fn run(command: &mut Command) -> Done {
    run_with_input(command, b"")
}

/// Makes a program of a text. A child writes it: what any thread of this process has open for writing, a child
/// of another thread may have too for a moment, and then it cannot be run.
#[track_caller]
pub fn write_program(path: impl AsRef<Path>, text: impl AsRef<[u8]>) {
    let mut write = Command::new("/bin/sh");
    write.args(["-c", "cat >\"$0\" && chmod 755 \"$0\""]);
    run_with_input(write.arg(path.as_ref()), text.as_ref()).ok();
}

/// Sends a signal, named as in `kill -l`; a process that is already gone is no error.
pub fn signal(pid: u32, name: &str) {
    let number: nix::sys::signal::Signal = format!("SIG{name}").parse().unwrap();
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), number);
}

/// The path that `tests/setup/tools` wrote down under `name` (ROOTFS, RUNC, CRUN, CONTAINERD_1_6, …).
/// With `COTTER_TEST_RUNTIMES=newest` the newest runtimes stand for the machine's own.
#[track_caller]
pub fn tool(name: &str) -> PathBuf {
    let newest = std::env::var_os("COTTER_TEST_RUNTIMES").is_some_and(|which| which == "newest");
    let name = match name {
        "RUNC" if newest => "RUNC_1_3",
        "CRUN" if newest => "CRUN_1_28",
        name => name,
    };
    let dir = std::env::var_os("COTTER_TOOLS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"),
        PathBuf::from,
    );
    let list = dir.join("env");
    let text = std::fs::read_to_string(&list)
        .unwrap_or_else(|e| panic!("{}: {e}; run tests/setup/tools first", list.display()));
    text.lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix('='))
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{} names no {name}; run tests/setup/tools", list.display()))
}

/// A name no other test of this or another run uses at the same time.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{n}", std::process::id())
}

/// A directory of the test's own, with a path short enough for sockets, removed when dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes a new, empty directory.
    pub fn new(prefix: &str) -> Self {
        let dir = std::env::temp_dir().join(unique(prefix));
        std::fs::create_dir(&dir).unwrap_or_else(|e| panic!("mkdir {}: {e}", dir.display()));
        Self(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How many containers a test of many has: fewer on a machine on which each takes seconds.
pub fn containers(wanted: usize) -> usize {
    let most = std::env::var("COTTER_TEST_CONTAINERS").ok();
    let most = most.and_then(|most| most.parse().ok());
    wanted.min(most.unwrap_or(usize::MAX))
}

/// What descriptors a process has, sorted, without the numbers of sockets and pipes. The kernel's log does
/// not count: a shim opens it when it has to ask it, and keeps it for as long as it has containers.
pub fn descriptors(pid: u32) -> Vec<String> {
    let kind = |fd: std::fs::DirEntry| {
        let to = std::fs::read_link(fd.path()).ok()?;
        let to = to.to_string_lossy().into_owned();
        Some(to.split([':', '[']).next().unwrap_or_default().to_owned())
    };
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut all: Vec<String> = fds.filter_map(|fd| kind(fd.unwrap())).collect();
    all.sort();
    // Open from when somebody may have been killed until nobody is left who could be.
    all.retain(|to| to != "/dev/kmsg");
    all
}

/// Limits a process's descriptors, as the unit of its manager may; answers what the limit was.
pub fn limit_descriptors(pid: u32, limit: u64) -> u64 {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let pid = pid.cast_signed();
    let none = std::ptr::null_mut();
    // SAFETY: both calls read or write one limit that outlives them.
    let (done, before) = unsafe {
        let asked = libc::prlimit(pid, libc::RLIMIT_NOFILE, none, &mut limits);
        let before = std::mem::replace(&mut limits.rlim_cur, limit);
        let set = libc::prlimit(pid, libc::RLIMIT_NOFILE, &limits, none);
        (asked == 0 && set == 0, before)
    };
    assert!(done, "{}", std::io::Error::last_os_error());
    before
}

/// Whether a process is a shell that catches a signal; before that the signal is lost on an init, or ends it. The
/// runtime's own program, which it was before, catches many.
pub fn has_trap(pid: u32, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let caught = field("SigCgt:").map(|mask| u64::from_str_radix(mask.trim(), 16).unwrap());
    field("Name:").is_some_and(|name| name.trim() == "sh")
        && caught.is_some_and(|caught| caught & 1 << (signal - 1) != 0)
}
