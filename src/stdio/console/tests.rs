//! Runtimes that send something else than a terminal, or nothing.

use std::io::IoSlice;
use std::os::unix::net::UnixStream as StdStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::socket::{ControlMessage, sendmsg};

use super::*;
use crate::error::Code;

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(30);

/// A runtime that sends these, one message each, and goes.
fn send(socket: &ConsoleSocket, messages: &[&[&OwnedFd]]) {
    let runtime = StdStream::connect(socket.path()).unwrap();
    for fds in messages {
        let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights };
        let name = [IoSlice::new(b"/dev/ptmx")];
        sendmsg::<()>(runtime.as_raw_fd(), &name, control, MsgFlags::empty(), None).unwrap();
    }
}

/// What comes when a runtime sends these, one message each.
async fn sent(messages: &[&[&OwnedFd]]) -> Result<OwnedFd> {
    let socket = ConsoleSocket::listen().unwrap();
    let directory = socket.path().parent().unwrap().to_owned();
    let mode = fs::metadata(&directory).unwrap().permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o700
    );
    send(&socket, messages);
    let received = socket.receive(LONG).await;
    assert!(!directory.exists());
    received
}

#[tokio::test]
async fn a_terminal() {
    let pty = openpty(None, None).unwrap();
    let master = sent(&[&[&pty.master]]).await.unwrap();
    assert_eq!(number(&master), number(&pty.master));
    let flags = OFlag::from_bits_retain(fcntl(&master, FcntlArg::F_GETFL).unwrap());
    assert!(flags.contains(OFlag::O_NONBLOCK));
    let flags = fcntl(&master, FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, libc::FD_CLOEXEC);
}

#[tokio::test]
async fn what_is_no_terminal() {
    let pty = openpty(None, None).unwrap();
    let file = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    for (messages, phrase) in [
        (&[][..], "not exactly one descriptor"),
        (&[&[][..]], "not exactly one descriptor"),
        (&[&[&pty.master, &pty.master]], "not exactly one descriptor"),
        (&[&[&pty.master; 20]], "not exactly one descriptor"),
        (&[&[&pty.slave]], "not a terminal's master end"),
        (&[&[&file]], "not a terminal's master end"),
    ] {
        let error = sent(messages).await.unwrap_err();
        assert_eq!(error.code, Code::Unknown, "{error}");
        assert!(error.message.contains(phrase), "{error}");
    }
    // The slave is hung up once no master end is left.
    drop(pty.master);
    let mut slave = [PollFd::new(pty.slave.as_fd(), PollFlags::empty())];
    assert_eq!(poll(&mut slave, PollTimeout::ZERO), Ok(1));
    assert_eq!(
        slave[0].revents(),
        Some(PollFlags::POLLHUP | PollFlags::POLLERR)
    );
}

fn nobody() -> Context<'static> {
    Context::from_waker(std::task::Waker::noop())
}

/// Looks as often as it takes.
async fn shown(socket: &mut ConsoleSocket, bytes: usize) -> OwnedFd {
    let looks = async {
        loop {
            if let Some(master) = socket.shows(bytes, &mut nobody()) {
                return master;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, looks).await.unwrap()
}

#[tokio::test]
async fn one_that_much_is_written_to_is_taken_early() {
    let pty = openpty(None, None).unwrap();
    let mut socket = ConsoleSocket::listen().unwrap();
    assert!(socket.shows(0, &mut nobody()).is_none());
    send(&socket, &[&[&pty.master]]);
    nix::unistd::write(&pty.slave, b"some").unwrap();
    // It has come, and is kept for who waits for it.
    until_come(&mut socket).await;
    assert!(socket.shows(5, &mut nobody()).is_none());
    let master = shown(&mut socket, 4).await;
    assert_eq!(number(&master), number(&pty.master));
}

#[tokio::test]
async fn one_that_came_early_is_received() {
    let pty = openpty(None, None).unwrap();
    let mut socket = ConsoleSocket::listen().unwrap();
    send(&socket, &[&[&pty.master]]);
    until_come(&mut socket).await;
    let master = socket.receive(SHORT).await.unwrap();
    assert_eq!(number(&master), number(&pty.master));

    let mut socket = ConsoleSocket::listen().unwrap();
    send(&socket, &[&[]]);
    until_come(&mut socket).await;
    let error = socket.receive(SHORT).await.unwrap_err();
    assert!(error.message.contains("not exactly one"), "{error}");
}

async fn until_come(socket: &mut ConsoleSocket) {
    let looks = async {
        while !matches!(socket.early, Early::Came(_)) {
            assert!(socket.shows(usize::MAX, &mut nobody()).is_none());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, looks).await.unwrap();
}

/// What a call that failed has sent is not taken for the next one's.
#[tokio::test]
async fn an_earlier_one_is_forgotten() {
    let [old, new] = [(); 2].map(|()| openpty(None, None).unwrap());
    let mut socket = ConsoleSocket::listen().unwrap();
    for seen in [true, false] {
        send(&socket, &[&[&old.master]]);
        if seen {
            until_come(&mut socket).await;
        } else {
            // For the reactor, which only then has seen it.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        socket.forget(&mut nobody());
        assert!(matches!(socket.early, Early::Nothing));
    }
    send(&socket, &[&[&new.master]]);
    let master = socket.receive(LONG).await.unwrap();
    assert_eq!(number(&master), number(&new.master));
}

#[tokio::test]
async fn nothing_comes() {
    for connects in [false, true] {
        let socket = ConsoleSocket::listen().unwrap();
        let path = socket.path();
        let _runtime = connects.then(|| StdStream::connect(&path).unwrap());
        let error = socket.receive(SHORT).await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded, "{error}");
        assert!(error.message.contains("50ms"), "{error}");
        assert!(!path.parent().unwrap().exists());
    }
}

#[tokio::test]
async fn a_place_that_can_be_used_is_found() {
    let long = PathBuf::from(format!("/tmp/{}", "x".repeat(100)));
    let missing = PathBuf::from("/no/such/place");
    let tmp = PathBuf::from("/tmp");
    let socket = ConsoleSocket::listen_in([long.clone(), missing.clone(), tmp].into_iter());
    assert!(socket.unwrap().path().starts_with("/tmp/"));
    let error = ConsoleSocket::listen_in([long, missing].into_iter()).unwrap_err();
    assert!(error.message.contains("/no/such/place"), "{error}");
}

#[test]
fn sizes() {
    let max = u32::from(u16::MAX);
    for (width, height) in [(0, 0), (80, 25), (max, max)] {
        let size = Size::new(width, height).unwrap();
        assert_eq!(
            (u32::from(size.width), u32::from(size.height)),
            (width, height)
        );
    }
    for (width, height) in [(max + 1, 1), (1, max + 1), (u32::MAX, u32::MAX)] {
        assert_eq!(
            Size::new(width, height).unwrap_err().code,
            Code::InvalidArgument
        );
    }
}
