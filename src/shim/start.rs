//! The `start` action: makes a server, or finds the group's (contract 1.7, 1.8).
//!
//! Invariant: on success the only trace on the manager's side of the pipe is the address; on failure
//! there is no trace at all: no process, socket or file. What was made is undone by the drop of its
//! guard, in reverse order. tests/bootstrap.rs looks for leftovers.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::Pid;

use super::bootstrap::{self, Dialect, Environment, Request};
use super::fds;
use super::flags::Flags;
use super::memory;
use super::socket::{self, Claim, Socket};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::options::Given;
use crate::{cgroup, spec};

/// Link in the bundle to the socket directory that the manager named.
pub const SOCKET_LINK: &str = "s";

/// The shim's address, for managers before 2.0.
pub const ADDRESS_FILE: &str = "address";

/// Reads a request, makes a server or finds one, and answers with its address.
///
/// # Errors
/// Any step's; nothing is left behind then.
pub fn start(flags: &Flags, stdin: impl Read, stdout: &mut impl Write) -> Result<()> {
    // A manager that gives up ends us with SIGKILL; a stray SIGTERM should not leave half a shim.
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let ignore = signal_hook::flag::register(signal, std::sync::Arc::default());
        ignore.map_err(|e| Error::io("set a signal handler", &e))?;
    }
    let env = Environment::read();
    let mut request = bootstrap::decide(&read_all(stdin)?, flags, &env)?;
    let limit = Limits::from_env().disk;
    let read = |given: Given| given.read_within(limit);
    let options = request.options.take().map(read).transpose()?;
    let cgroup = options.unwrap_or_default().shim_cgroup;

    let link = match &request.socket_dir {
        Some(dir) => Some(link(dir)?),
        None => None,
    };
    let annotations = spec::Spec::read(Path::new("."))?.annotations;
    let group = spec::group(&annotations, &request.id)?;
    let name = socket::name(&request.grpc_address, &request.namespace, &group);
    let dir = request.socket_dir.as_deref();
    let path = dir.unwrap_or(Path::new(socket::DEFAULT_DIR)).join(name);
    let address = format!("{}{}", socket::SCHEME, path.display());

    let server = match socket::claim(&path)? {
        Claim::Taken => None,
        Claim::Ours(fd, socket) => Some(serve(&request, &cgroup, &env, fd, socket)?),
    };
    let file = match request.dialect {
        Dialect::Plain | Dialect::Json => Some(write_address(&address)?),
        Dialect::Proto => None,
    };
    let answer = bootstrap::encode(request.dialect, &address)?;
    let told = stdout.write_all(&answer).and_then(|()| stdout.flush());
    told.map_err(|e| Error::io("write the address to standard output", &e))?;

    // Told: from here on all of it is the server's.
    [link, file].into_iter().flatten().for_each(Made::keep);
    if let Some(server) = server {
        server.keep();
    }
    Ok(())
}

/// Standard input, up to the limit.
///
/// # Errors
/// When it cannot be read or is longer.
pub(super) fn read_all(input: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = input.take(bootstrap::MAX_INPUT + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::io("read standard input", &e))?;
    if bytes.len() as u64 > bootstrap::MAX_INPUT {
        return Err(Error::invalid_argument(format!(
            "standard input is longer than {} bytes",
            bootstrap::MAX_INPUT
        )));
    }
    Ok(bytes)
}

/// Spawns the server and puts it where it belongs; no `cgroup` means the manager's.
fn serve(
    request: &Request,
    cgroup: &str,
    env: &Environment,
    fd: OwnedFd,
    socket: Socket,
) -> Result<Server> {
    // From here the socket's file goes with the guard.
    let mut server = Server {
        socket,
        child: None,
        listener: None,
    };
    if !env.sched_core.is_empty() {
        own_core()?;
    }
    server.listener = Some(fds::place_listener(fd)?);
    let exe = std::env::current_exe().map_err(|e| Error::io("find the shim's binary", &e))?;
    let mut command = Command::new(&exe);
    command.args(["-namespace", &request.namespace, "-id", &request.id]);
    command.args(["-address", &request.grpc_address]);
    if request.debug {
        command.arg("-debug");
    }
    // The environment is inherited: the operator's PATH, TMPDIR, XDG_RUNTIME_DIR and proxies are
    // meant for the runtime. The events' address may be known from the request alone.
    command.env("TTRPC_ADDRESS", &request.ttrpc_address);
    // An operator's own settings hold.
    let (name, value) = memory::KEEP_NOTHING;
    if std::env::var_os(name).is_none() {
        command.env(name, value);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let spawned = command.spawn();
    let child = spawned.map_err(|e| Error::io(format!("start {}", exe.display()), &e))?;

    let pid = child.id();
    server.child = Some(child);
    if !cgroup.is_empty() {
        cgroup::add_process(cgroup, Pid::from_raw(pid.cast_signed()))
            .map_err(|e| e.context(format!("join cgroup {cgroup}")))?;
    }
    rank_above_manager(pid)?;
    Ok(server)
}

/// Puts this process group, and so the server's, into a core scheduling domain of its own.
fn own_core() -> Result<()> {
    // Needed because nix has no wrapper.
    // SAFETY: this form takes numbers only; 0 means ourselves.
    let done = unsafe {
        libc::prctl(
            libc::PR_SCHED_CORE,
            libc::PR_SCHED_CORE_CREATE,
            0,
            // PIDTYPE_PGID of linux/pid.h, which libc does not export.
            2,
            0,
        )
    };
    if done != 0 {
        return Err(Error::io(
            "enable core scheduling",
            &io::Error::last_os_error(),
        ));
    }
    Ok(())
}

/// Makes the kernel prefer the shim to the manager, and the containers to the shim, when memory is
/// short: one more than the manager's score.
fn rank_above_manager(pid: u32) -> Result<()> {
    let read = |path: String| {
        let text =
            std::fs::read_to_string(&path).map_err(|e| Error::io(format!("read {path}"), &e))?;
        let score = text.trim().parse::<i32>();
        score.map_err(|e| Error::unknown(format!("read {path}: {e}")))
    };
    let manager = read(format!(
        "/proc/{}/oom_score_adj",
        std::os::unix::process::parent_id()
    ))?;
    let path = format!("/proc/{pid}/oom_score_adj");
    let score = (manager + 1).clamp(-1000, 1000);
    match std::fs::write(&path, score.to_string()) {
        // Lowering takes a privilege that a manager in a user namespace need not have.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result.map_err(|e| Error::io(format!("write {score} to {path}"), &e)),
    }
}

/// A server that nobody knows of yet.
struct Server {
    socket: Socket,
    /// Open until the end: it pins the identity of the socket's file.
    listener: Option<OwnedFd>,
    child: Option<Child>,
}

impl Server {
    fn keep(mut self) {
        self.child = None;
        std::mem::forget(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.socket.remove();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A file in the bundle that goes unless it is kept.
struct Made(PathBuf);

impl Made {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn link(dir: &Path) -> Result<Made> {
    let path = PathBuf::from(SOCKET_LINK);
    let failed = |e: io::Error| Error::io(format!("link {SOCKET_LINK} to {}", dir.display()), &e);
    gone(&path).map_err(failed)?;
    std::os::unix::fs::symlink(dir, &path).map_err(failed)?;
    Ok(Made(path))
}

/// Removes what may be in a place, a link itself and not what it leads to.
fn gone(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Writes the address file in one step: a manager that restarts reads all of it or none.
fn write_address(address: &str) -> Result<Made> {
    let failed = |e: io::Error| Error::io(format!("write {ADDRESS_FILE}"), &e);
    let draft = PathBuf::from(format!(".{ADDRESS_FILE}"));
    gone(&draft).map_err(failed)?;
    // New, so never what a link leads to.
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&draft).map_err(failed)?;
    let draft = Made(draft);
    file.write_all(address.as_bytes()).map_err(failed)?;
    std::fs::rename(&draft.0, ADDRESS_FILE).map_err(failed)?;
    draft.keep();
    Ok(Made(PathBuf::from(ADDRESS_FILE)))
}
