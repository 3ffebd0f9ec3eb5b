//! What processes do, as the kernel tells it: every fork, exec and exit on the machine with its time.
//!
//! Invariant: what is told is complete or an error; nothing that is watched is changed or slowed down
//! by a wrapper. The kernel's process connector (linux/cn_proc.h) needs root.

use std::collections::BTreeSet;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use cotter::error::{Error, Result};

/// A change in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `parent` made process `pid`; new threads are not told.
    Fork { parent: u32 },
    /// It runs another program now.
    Exec,
    /// It has ended.
    Exit,
}

/// A change, whose, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The process.
    pub pid: u32,
    /// What changed.
    pub change: Change,
    /// Nanoseconds of the monotonic clock.
    pub at: u64,
}

/// The stream of all changes.
pub struct Trace(OwnedFd);

/// linux/cn_proc.h and linux/connector.h.
const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
const PROC_CN_MCAST_LISTEN: u32 = 1;
const NETLINK_CONNECTOR: i32 = 11;
const EVENT_FORK: u32 = 1;
const EVENT_EXEC: u32 = 2;
const EVENT_EXIT: u32 = 0x8000_0000;
/// A netlink header, and a connector's behind it.
const NL_HEADER: usize = 16;
const CN_HEADER: usize = 20;

impl Trace {
    /// From now on.
    pub fn start() -> Result<Self> {
        let failed = |what: &str| {
            Error::io(
                format!("watch processes: {what}"),
                &io::Error::last_os_error(),
            )
        };
        // SAFETY: it takes three numbers.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                NETLINK_CONNECTOR,
            )
        };
        if fd < 0 {
            return Err(failed("socket"));
        }
        // SAFETY: new, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // What comes between two looks has to fit.
        let room: libc::c_int = 4 << 20;
        // SAFETY: the option's value is an int that lives through the call.
        unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const room).cast(),
                size_of::<libc::c_int>() as u32,
            )
        };
        // SAFETY: all zero is a valid address of the kernel.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = CN_IDX_PROC;
        // SAFETY: the address lives through the call and has this length.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as u32,
            )
        };
        if bound < 0 {
            return Err(failed("bind"));
        }
        let message = listen();
        // SAFETY: the bytes live through the call.
        let sent = unsafe { libc::send(fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 {
            return Err(failed("ask for them"));
        }
        Ok(Self(fd))
    }

    /// What has been told since the last look.
    pub fn take(&self) -> Result<Vec<Told>> {
        let mut all = vec![];
        let mut buffer = [0_u8; 4096];
        loop {
            // SAFETY: the buffer lives through the call and has this length.
            let got = unsafe {
                libc::recv(
                    self.0.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                )
            };
            match usize::try_from(got) {
                Ok(0) => return Ok(all),
                Ok(got) => all.extend(parse(&buffer[..got])),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    return match error.kind() {
                        io::ErrorKind::WouldBlock => Ok(all),
                        io::ErrorKind::Interrupted => continue,
                        // ENOBUFS: some are lost.
                        _ => Err(Error::io("watch processes", &error)),
                    };
                }
            }
        }
    }
}

fn listen() -> Vec<u8> {
    let payload = PROC_CN_MCAST_LISTEN.to_ne_bytes();
    let mut out = vec![];
    let length = (NL_HEADER + CN_HEADER + payload.len()) as u32;
    out.extend(length.to_ne_bytes());
    out.extend((libc::NLMSG_DONE as u16).to_ne_bytes());
    out.extend([0; 2 + 4]);
    out.extend(std::process::id().to_ne_bytes());
    out.extend(CN_IDX_PROC.to_ne_bytes());
    out.extend(CN_VAL_PROC.to_ne_bytes());
    out.extend([0; 8]);
    out.extend((payload.len() as u16).to_ne_bytes());
    out.extend([0; 2]);
    out.extend(payload);
    out
}

/// One message of the kernel; nothing for those that are of no interest here.
fn parse(message: &[u8]) -> Option<Told> {
    let body = message.get(NL_HEADER + CN_HEADER..)?;
    let word = |n: usize| {
        let bytes = body.get(4 * n..4 * n + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let at = u64::from_ne_bytes(body.get(8..16)?.try_into().ok()?);
    // what, cpu, time (8 bytes), then the event's own: pids come as thread, process.
    let told = |pid, change| Told { pid, change, at };
    match word(0)? {
        EVENT_FORK => {
            let (parent, thread, pid) = (word(5)?, word(6)?, word(7)?);
            (thread == pid).then(|| told(pid, Change::Fork { parent }))
        }
        what @ (EVENT_EXEC | EVENT_EXIT) => {
            let (thread, pid) = (word(4)?, word(5)?);
            let change = if what == EVENT_EXEC {
                Change::Exec
            } else {
                Change::Exit
            };
            (thread == pid).then(|| told(pid, change))
        }
        _ => None,
    }
}

/// The processes that descend from `root` by what was told, in the order of their birth.
pub fn descendants(told: &[Told], root: u32) -> Vec<u32> {
    let mut known = BTreeSet::from([root]);
    let mut born = vec![];
    for one in told {
        if let Change::Fork { parent } = one.change
            && known.contains(&parent)
        {
            known.insert(one.pid);
            born.push(one.pid);
        }
    }
    born
}
