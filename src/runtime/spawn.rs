//! Programs are started where that may take for ever without holding anything else up.
//!
//! The caller of execve(2) is told of its success only when the kernel has read the program's
//! beginning, and has let the child run: under many execs on few processors that alone takes
//! milliseconds. So a thread of its own reads that beginning, then starts the program, and ends
//! ([`spawn`]). Reading comes first because it can be given up: a dead disk under the program is an
//! error and no more, and no process is left that would run it once the disk is back.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::record;
use crate::blocking::{Job, in_steps, within};
use crate::error::Result;
use crate::monitor::{Child, Monitor};
use crate::program::{self, Program};

/// Reads the beginning of a program, as exec would find it. One that is missing is no error: its
/// start will say so.
///
/// # Errors
/// `DeadlineExceeded` naming the program, when that takes longer than `limit`.
pub(crate) async fn reach(program: &Path, limit: Duration) -> Result<()> {
    let candidates = candidates(program);
    within(job(program, limit), move || read_first(&candidates)).await
}

/// Starts `command`, whose program is `program` and which leads a process group of its own; to
/// people it is `what`. The descriptors that it passes on are closed here when it runs. Who it is is
/// written into `record`, on the same thread: as soon as can be, and the event loop waits for no disk.
///
/// # Errors
/// As [`reach`]; what may still be started then is killed. Within: that of the start.
pub(super) async fn spawn(
    monitor: &Monitor,
    program: &Path,
    command: Program,
    what: String,
    limit: Duration,
    record: Option<PathBuf>,
) -> Result<io::Result<Child>> {
    let candidates = candidates(program);
    let monitor = monitor.clone();
    let unwanted = record.clone();
    let work = move |wanted: &dyn Fn() -> bool| {
        read_first(&candidates);
        if wanted() {
            let child = monitor.spawn_by(what, || command.start())?;
            if let Some(record) = &record {
                record::write(record, child.pid());
            }
            Ok(child)
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    };
    let undo = |started: io::Result<Child>| {
        // ESRCH: it has ended by itself.
        let _ = started.map(|child| child.kill_group(Signal::SIGKILL));
        let _ = unwanted.map(|record| record::remove(&record));
    };
    in_steps(job(program, limit), work, undo).await
}

fn job(program: &Path, limit: Duration) -> Job<'static> {
    Job {
        name: "start-program",
        what: format!("start program {}", program.display()),
        limit,
    }
}

/// Reads the beginning of the first that there is.
fn read_first(candidates: &[PathBuf]) {
    candidates.iter().any(|path| touch(path));
}

/// Where execvp(3) looks, in its order.
fn candidates(program: &Path) -> Vec<PathBuf> {
    program::candidates(program, &std::env::var_os("PATH").unwrap_or_default())
}

/// Whether it is there.
fn touch(path: &Path) -> bool {
    // What is no file is not run; and a device may act on being opened.
    if !path.metadata().is_ok_and(|kind| kind.is_file()) {
        return false;
    }
    let mut options = OpenOptions::new();
    // A FIFO in its place must not hang.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    // As much as the kernel looks at first; of a directory or a FIFO there is nothing to read.
    let mut beginning = [0; 256];
    options
        .open(path)
        .and_then(|mut file| file.read(&mut beginning))
        .is_ok_and(|read| read > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there() {
        assert!(touch("/proc/self/exe".as_ref()));
        for path in ["/proc", "/nonexistent", "/dev/null"] {
            assert!(!touch(path.as_ref()), "{path}");
        }
    }
}
