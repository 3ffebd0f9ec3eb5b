//! A user namespace that exists for its map only: it tells an id-mapped mount whose files are whose.
//!
//! Invariant: nothing but the returned descriptor is left. The namespace is made with a child that
//! holds none of our descriptors but a pipe, and ends when that is closed: by us, or by the kernel
//! should this process end first.

use std::fs::{self, File};
use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::idmap::IdMap;
use crate::errno::Words;
use crate::pidfd;

/// Makes a user namespace with this map.
pub(super) fn with_map(map: &IdMap) -> Result<OwnedFd, String> {
    let say = |what: &str, why: &io::Error| {
        format!("make a user namespace: {what}: {why}", why = why.words())
    };
    let child = Child::start().map_err(|why| say("clone", &why))?;
    let file = |name: &str| format!("/proc/{}/{name}", child.pid);
    let write = |name: &str, map: &str| {
        fs::write(file(name), map).map_err(|why| say(&format!("write {name}"), &why))
    };
    write("uid_map", &map.uids.to_string())?;
    write("gid_map", &map.gids.to_string())?;
    let namespace = File::open(file("ns/user")).map_err(|why| say("open ns/user", &why))?;
    // Until it is seen to be alive, what was opened could be another process's.
    if pidfd::has_ended(&child.process) {
        return Err(say("child", &Errno::ESRCH.into()));
    }
    Ok(namespace.into())
}

struct Child {
    pid: u32,
    process: pidfd::Process,
    /// The child ends when this is closed.
    hold: Option<PipeWriter>,
}

impl Child {
    fn start() -> io::Result<Self> {
        let (held, hold) = io::pipe()?;
        let mut process: libc::c_int = -1;
        // SAFETY: all zeroes is what the fields not set below are to be.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        // No exit signal: the monitor need not wake up for it. Default signal handlers: ours would
        // write to the pipes of this process.
        let flags = libc::CLONE_NEWUSER | libc::CLONE_PIDFD;
        arguments.flags = u64::from(flags.cast_unsigned()) | CLONE_CLEAR_SIGHAND;
        arguments.pidfd = (&raw mut process).addr() as u64;
        // SAFETY: without CLONE_VM this is fork(2): the child runs on a copy of this stack. The
        // other threads do not exist in it and their locks may be held, so that it makes system
        // calls only and never returns.
        let pid = unsafe {
            let size = size_of::<libc::clone_args>();
            match libc::syscall(libc::SYS_clone3, &raw mut arguments, size) {
                0 => wait_for_the_end(held.as_raw_fd()),
                pid => Errno::result(pid)?,
            }
        };
        // SAFETY: the kernel has just stored a new descriptor there.
        let process = unsafe { OwnedFd::from_raw_fd(process) };
        // A pid always fits: the kernel's limit is 2^22.
        let pid = u32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?;
        Ok(Self {
            pid,
            process: pidfd::Process::made(pid, process),
            hold: Some(hold),
        })
    }
}

impl Drop for Child {
    /// Waits for it by its descriptor, since the monitor may have reaped it already (ECHILD) and its pid be
    /// another child's.
    fn drop(&mut self) {
        self.hold = None;
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::__WALL;
        let Some(fd) = self.process.pollable() else {
            return;
        };
        while waitid(Id::PIDFd(fd), flags) == Err(Errno::EINTR) {}
    }
}

/// From clone3(2); the libc crate's is too narrow for it.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// The whole life of the child.
///
/// # Safety
/// Only for a process that shares no memory.
unsafe fn wait_for_the_end(held: libc::c_int) -> ! {
    let mut byte = 0_u8;
    // SAFETY: plain system calls on numbers and on a live local. Descriptors are this process's own
    // copies.
    unsafe {
        libc::dup2(held, 0);
        libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0);
        libc::read(0, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}
