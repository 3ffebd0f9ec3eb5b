//! Has the stub do it.
//!
//! Invariant: the program runs if and only if the stub's process said that it is next, and nothing failed after
//! that. Whoever has not said so when this ends never will: what it would be told on is closed, and its next
//! step is to end. Which process that is, is the kernel's word (`SCM_CREDENTIALS`), not the stub's.

use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, UnixCredentials,
    recv, recvmsg, setsockopt, shutdown, socketpair, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use super::calls::{BORN, INIT, MADE, ORDERS, READY, TOLD};
use super::orders::{FAILED, Failure};
use super::sheet::Orders;
use super::{Reason, stub};
use crate::blocking::{Job, in_steps};
use crate::monitor::{Child, Monitor, Pid};
use crate::program::Program;
use crate::runtime::{Fds, clean_environment};

/// How an attempt came out.
#[derive(Debug)]
pub enum Outcome {
    /// The program runs, or has run.
    Runs(Pid),
    /// It never did. These may still be there, and are nobody's.
    Not(Reason, Vec<Pid>),
}

/// What the stub and its process have said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    pids: Vec<Pid>,
    ready: Option<Pid>,
    /// The order, and the error.
    failed: Option<(usize, i32)>,
}

impl Heard {
    /// Takes a message, from whom the kernel says.
    fn take(&mut self, message: &[u8], from: Pid) {
        let word = |at: usize| {
            let bytes = message.get(at * size_of::<usize>()..(at + 1) * size_of::<usize>())?;
            Some(usize::from_ne_bytes(bytes.try_into().ok()?))
        };
        let mut pid = None;
        match message {
            [BORN] => pid = Some(from),
            [READY] => {
                pid = Some(from);
                self.ready = Some(from);
            }
            _ if word(0) == Some(MADE) => pid = word(1).and_then(|pid| Pid::try_from(pid).ok()),
            _ if word(0) == Some(FAILED) && message.len() == size_of::<Failure>() => {
                let error = word(2).and_then(|error| i32::try_from(error).ok());
                self.failed = word(1).zip(error);
            }
            _ => {}
        }
        self.pids
            .extend(pid.filter(|pid| *pid > 0 && !self.pids.contains(pid)));
    }
}

/// What a stub is given beside its orders.
#[derive(Debug, Default)]
pub struct Given {
    /// Its standard streams.
    pub fds: Fds,
    /// The init of the container to join.
    pub init: Option<OwnedFd>,
}

/// Carries orders out, with these streams, in the container of this init. Whether it may is asked on the
/// thread that starts the stub, where a disk may be asked.
pub async fn run(
    monitor: &Monitor,
    what: String,
    orders: Orders,
    given: Given,
    may: impl FnOnce() -> Result<(), Reason> + Send + 'static,
    limit: Duration,
) -> Outcome {
    let Orders { bytes, steps } = orders;
    let mut heard = Heard::default();
    let take = |message: &[u8], from| heard.take(message, from);
    let whole = match converse(monitor, what, (bytes, given), may, limit, take).await {
        Ok(whole) => whole,
        Err(reason) => return Outcome::Not(reason, Vec::new()),
    };
    match (heard.ready, heard.failed) {
        (Some(pid), None) => Outcome::Runs(pid),
        (_, Some((order, error))) => {
            let step = steps.get(order).copied().unwrap_or_default();
            log::debug!("direct exec: {step}: {}", Errno::from_raw(error));
            Outcome::Not(super::reason_of(step), heard.pids)
        }
        (None, None) if whole => Outcome::Not("the stub was ended", heard.pids),
        (None, None) => Outcome::Not("the stub did not end in time", heard.pids),
    }
}

/// Has orders carried out that answer with one message.
pub async fn ask(
    monitor: &Monitor,
    what: String,
    orders: Orders,
    limit: Duration,
) -> Result<Vec<u8>, Reason> {
    let mut answer = Vec::new();
    let take = |message: &[u8], _| answer = message.to_vec();
    let given = Given::default();
    converse(monitor, what, (orders.bytes, given), || Ok(()), limit, take).await?;
    Ok(answer)
}

/// Starts a stub and takes what is said, with the pid of who says it; answers whether that was all: else it
/// took too long, and no more can be said.
async fn converse(
    monitor: &Monitor,
    what: String,
    (orders, given): (Vec<u8>, Given),
    may: impl FnOnce() -> Result<(), Reason> + Send + 'static,
    limit: Duration,
    mut take: impl FnMut(&[u8], Pid),
) -> Result<bool, Reason> {
    let deadline = Instant::now() + limit;
    let (ours, theirs) = sockets().map_err(|why| {
        log::debug!("direct exec: make a pair of sockets: {why}");
        "no socket can be had"
    })?;
    let job = Job {
        name: "start-stub",
        what: what.clone(),
        limit,
    };
    let own = monitor.clone();
    let start = move |wanted: &dyn Fn() -> bool| {
        may()?;
        let started = program(&orders, given, theirs).and_then(|(_stub, program)| match wanted() {
            true => own.spawn_by(what, || program.start()),
            false => Err(io::ErrorKind::TimedOut.into()),
        });
        started.map_err(|why| {
            log::debug!("direct exec: start the stub: {why}");
            "the stub cannot be started"
        })
    };
    // It is reaped when it ends, also when nobody waits for it.
    let end = |started: Result<Child, Reason>| drop(started.map(|stub| stub.kill(Signal::SIGKILL)));
    let stub = in_steps(job, start, end).await.map_err(|why| {
        log::debug!("direct exec: {why}");
        "the stub cannot be started in time"
    })??;
    let whole = timeout_at(deadline, listen(&ours, &mut take)).await.is_ok();
    if !whole {
        // From here on nobody can say more; what was said before is there.
        let _ = stub.kill(Signal::SIGKILL);
        let _ = shutdown(ours.as_raw_fd(), Shutdown::Both);
        while let Ok(Some((message, from))) = receive(ours.get_ref()) {
            take(&message, from);
        }
    }
    Ok(whole)
}

/// A pair of which ours is told who speaks.
fn sockets() -> io::Result<(AsyncFd<OwnedFd>, OwnedFd)> {
    let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(family, kind, None, flags)?;
    setsockopt(&ours, sockopt::PassCred, &true)?;
    nix::fcntl::fcntl(
        &ours,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )?;
    // SAFETY: an OwnedFd stays open, and nothing takes it out of the AsyncFd.
    let ours = unsafe { AsyncFd::register_with_interest(ours, Interest::READABLE) }?;
    Ok((ours, theirs))
}

/// The stub with all that it is given, and its file, which is to be kept until it runs.
fn program(orders: &[u8], given: Given, told: OwnedFd) -> io::Result<(OwnedFd, Program)> {
    let mut sheet = File::from(memfd_create("cotter-orders", MFdFlags::MFD_CLOEXEC)?);
    sheet.write_all(orders)?;
    io::Seek::rewind(&mut sheet)?;
    let (stub, path) = stub::open()?;
    let mut program = Program::new(path);
    clean_environment(&mut program);
    program.env_clear();
    program.called("cotter-stub");
    program.args([libc::SYS_read, libc::SYS_exit_group].map(|number| number.to_string()));
    let Given { fds, init } = given;
    let streams = [fds.stdin, fds.stdout, fds.stderr];
    for (number, fd) in streams.into_iter().enumerate() {
        if let Some(fd) = fd {
            program.descriptor(number, fd);
        }
    }
    let own = [
        (TOLD, Some(told)),
        (ORDERS, Some(sheet.into())),
        (INIT, init),
    ];
    for (number, fd) in own {
        if let Some(fd) = fd {
            program.descriptor(number.unsigned_abs() as usize, fd);
        }
    }
    Ok((stub, program))
}

/// Takes messages until whoever can send any has ended, or is another program.
async fn listen(ours: &AsyncFd<OwnedFd>, take: &mut impl FnMut(&[u8], Pid)) {
    loop {
        let Ok(mut ready) = ours.readable().await else {
            return;
        };
        match receive(ours.get_ref()) {
            Ok(Some((message, from))) => take(&message, from),
            Ok(None) => return,
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// One message and who has sent it; none at the end.
fn receive(fd: &OwnedFd) -> nix::Result<Option<(Vec<u8>, Pid)>> {
    // As long as the next message is.
    let length = recv(
        fd.as_raw_fd(),
        &mut [],
        MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC,
    )?;
    let mut room = vec![0; length];
    let mut control = cmsg_space!(UnixCredentials);
    let (length, from) = {
        let mut slices = [IoSliceMut::new(&mut room)];
        let got = recvmsg::<()>(
            fd.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let from = got.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
            _ => None,
        });
        (got.bytes, from)
    };
    if length == 0 {
        return Ok(None);
    }
    room.truncate(length);
    Ok(Some((room, from.unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[usize]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn what_is_said_and_by_whom() {
        let mut heard = Heard::default();
        heard.take(&words(&[MADE, 7]), 6);
        heard.take(&[BORN], 7);
        assert_eq!(
            heard,
            Heard {
                pids: vec![7],
                ..Heard::default()
            }
        );
        heard.take(&[READY], 7);
        assert_eq!((heard.ready, &heard.pids), (Some(7), &vec![7]));
        heard.take(&words(&[FAILED, 3, 2]), 7);
        assert_eq!(heard.failed, Some((3, 2)));
        let mut other = Heard::default();
        for odd in [
            &b""[..],
            b"x",
            &words(&[MADE]),
            &words(&[MADE, usize::MAX]),
            &words(&[FAILED, 1]),
        ] {
            other.take(odd, 0);
        }
        assert_eq!(other, Heard::default());
    }
}
