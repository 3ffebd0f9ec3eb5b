//! Work that may hang for ever, for a caller that is to end: it is done in a process of its own.
//!
//! Invariant: at the limit the caller goes on, and nothing that hangs keeps it from ending or holds
//! what its own caller waits for. That process has none of its standard streams, and whatever it has
//! started is in its group and killed with it; what not even SIGKILL ends is left behind, and
//! does nothing more once it is let go. If the caller is killed, all that ends likewise: a manager that
//! kills an action at its limit may do the same work itself by then. Pinned by `tests/apart.rs`.
//!
//! For the actions, which live for milliseconds; the server has [`crate::blocking`]. A thread would
//! not do for them: a process ends with the last of its threads, one that waits for a dead disk does
//! not (state D: the disk has taken the request), and until then a manager waits for the process and
//! for the end of its output.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, killpg, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, getpgrp, getpid, getppid, pipe2,
    setpgid,
};

use crate::error::{Code, Error, Result};
use crate::pidfd;
use crate::times::since;

/// How such a process is called. Not as the shim: to people who count shims it is none.
const NAME: &std::ffi::CStr = c"cotter-apart";

/// How long a process may take to be gone that has answered, or been killed; of a short limit, a quarter.
const GONE: Duration = Duration::from_millis(250);

/// The first byte of an answer that is no error's code.
const DONE: u8 = 0;

/// Does `work`, which is `what` to people, in a process of its own, and waits for its answer.
///
/// # Errors
/// The work's own, as it was; `DeadlineExceeded` naming what hangs and since when, and the process if
/// one is left; `Internal` when the work panics, or this process has other threads, of which the copy
/// would know nothing but the locks they hold.
pub fn apart(
    what: &str,
    limit: Duration,
    work: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let deadline = Instant::now() + limit;
    let begun = SystemTime::now();
    let failed = |why: &io::Error| Error::io(format!("{what}: make a process for it"), why);
    if !alone().map_err(|e| failed(&e))? {
        let message = format!("{what}: not in a process that has other threads");
        return Err(Error::new(Code::Internal, message));
    }
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|e| failed(&e))?;
    let (answer, tell) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed(&e.into()))?;
    let caller = getpid();
    // Needed because only a copy of this process can do the work of a closure.
    // SAFETY: this is the process's only thread, as just seen, so the copy is whole.
    let child = match unsafe { fork() }.map_err(|e| failed(&e.into()))? {
        ForkResult::Child => there(caller, &null, tell, work),
        ForkResult::Parent { child } => child,
    };
    drop(tell);
    // Here as well as there: whoever is first.
    let _ = setpgid(child, child);
    let bytes = read(answer, deadline);
    let patience = GONE.min(limit / 4);
    if matches!(&bytes, Ok(Some(_))) && gone(child, patience) {
        return answered(what, &bytes.ok().flatten().unwrap_or_default());
    }
    // Not waited for yet, so the number is still the group's.
    let _ = killpg(child, Signal::SIGKILL);
    let left = !gone(child, patience);
    match bytes {
        Ok(Some(bytes)) => answered(what, &bytes),
        Ok(None) => {
            let left = match left {
                true => format!("; process {child} is left behind"),
                false => String::new(),
            };
            let since = since(begun);
            Err(Error::deadline_exceeded(format!(
                "{what} hangs since {since}{left}"
            )))
        }
        Err(e) => Err(Error::io(format!("{what}: read the answer"), &e)),
    }
}

/// Whether this is the process's only thread.
fn alone() -> io::Result<bool> {
    Ok(std::fs::read_dir("/proc/self/task")?.count() == 1)
}

/// The life of the process that does the work.
fn there(caller: Pid, null: &File, tell: OwnedFd, work: impl FnOnce() -> Result<Vec<u8>>) -> ! {
    let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    let _ = prctl::set_name(NAME);
    let ready = end_with(caller)
        .and_then(|()| dup2_stdin(null))
        .and_then(|()| dup2_stdout(null))
        .and_then(|()| dup2_stderr(null));
    let done = match ready {
        Ok(()) => catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            let message = "the process that did it panicked";
            Err(Error::new(Code::Internal, message))
        }),
        Err(e) => Err(Error::io("let go of the caller and its streams", &e.into())),
    };
    let mut tell = File::from(tell);
    // If nobody listens any more there is nobody to complain to.
    let _ = tell.write_all(&answer(done));
    drop(tell);
    // Needed because the caller's own end, with its handlers and buffers, is not this process's to come to.
    // SAFETY: it takes a number and does not return.
    unsafe { libc::_exit(0) }
}

/// Has this process end with its caller, and with it whatever it has started. To the kernel the caller is
/// the thread that made this process, its only one.
fn end_with(caller: Pid) -> nix::Result<()> {
    let flags = SaFlags::SA_RESTART;
    let action = SigAction::new(SigHandler::Handler(end_group), flags, SigSet::empty());
    // Needed because the kernel tells this process alone, which then has to tell its group.
    // SAFETY: the handler makes system calls that a handler may make, and touches no memory.
    unsafe { sigaction(Signal::SIGTERM, &action) }?;
    SigSet::from(Signal::SIGTERM).thread_unblock()?;
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    if getppid() != caller {
        // It ended before it could be asked for.
        end_group(0);
    }
    Ok(())
}

/// Kills the group of this process, if it leads one; itself at least.
extern "C" fn end_group(_: libc::c_int) {
    let whom = match getpgrp() == getpid() {
        true => 0,
        false => getpid().as_raw(),
    };
    // Needed because this is a handler, where only the bare call is certain to be safe.
    // SAFETY: it takes two numbers.
    unsafe { libc::kill(whom, libc::SIGKILL) };
}

/// All bytes up to the end, none at the deadline.
fn read(answer: OwnedFd, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut answer = File::from(answer);
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that time that is left is not none.
        let timeout = PollTimeout::try_from(left.as_millis() + u128::from(!left.is_zero()));
        let mut fds = [PollFd::new(answer.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(0) if left.is_zero() => return Ok(None),
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        match answer.read(&mut buffer)? {
            0 => return Ok(Some(bytes)),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Whether the process has ended, which it may take a moment to do; it is reaped then.
fn gone(child: Pid, patience: Duration) -> bool {
    let held = pidfd::open(child.as_raw().cast_unsigned());
    if let Ok(held) = &held {
        pidfd::wait(held, patience);
    }
    // ECHILD: whoever started this process has the kernel reap its children.
    waitpid(child, Some(WaitPidFlag::WNOHANG)) != Ok(WaitStatus::StillAlive)
}

/// What was done, with its length: of a process that was killed in the middle, half is no answer.
fn answer(done: Result<Vec<u8>>) -> Vec<u8> {
    let (first, rest) = match done {
        Ok(bytes) => (DONE, bytes),
        Err(e) => (e.code as u8, e.message.into_bytes()),
    };
    let mut bytes = vec![first];
    bytes.extend(rest.len().to_ne_bytes());
    bytes.extend(rest);
    bytes
}

fn answered(what: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let whole = bytes.split_first().and_then(|(first, rest)| {
        let (length, rest) = rest.split_first_chunk()?;
        (usize::from_ne_bytes(*length) == rest.len()).then_some((*first, rest))
    });
    match whole {
        Some((DONE, rest)) => Ok(rest.to_vec()),
        Some((code, rest)) => {
            let code = Code::numbered(code).unwrap_or(Code::Internal);
            Err(Error::new(code, String::from_utf8_lossy(rest)))
        }
        None => {
            let message = format!("{what}: the process that did it ended without an answer");
            Err(Error::new(Code::Internal, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_answer_is_none() {
        let none = Error::new(
            Code::Internal,
            "read: the process that did it ended without an answer",
        );
        for done in [
            Ok(Vec::new()),
            Ok(b"Root = '/r'\nSystemdCgroup = true\n".to_vec()),
            Err(Error::not_found("/x")),
        ] {
            let whole = answer(done.clone());
            assert_eq!(answered("read", &whole), done);
            for half in 0..whole.len() {
                assert_eq!(
                    answered("read", &whole[..half]),
                    Err(none.clone()),
                    "{half}"
                );
            }
        }
    }
}
