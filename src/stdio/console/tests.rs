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

/// What comes when a runtime sends these, one message each.
async fn sent(messages: &[&[&OwnedFd]]) -> Result<OwnedFd> {
    let socket = ConsoleSocket::listen().unwrap();
    let directory = socket.path().parent().unwrap().to_owned();
    let mode = fs::metadata(&directory).unwrap().permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o700
    );
    let runtime = StdStream::connect(socket.path()).unwrap();
    for fds in messages {
        let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights };
        let name = [IoSlice::new(b"/dev/ptmx")];
        sendmsg::<()>(runtime.as_raw_fd(), &name, control, MsgFlags::empty(), None).unwrap();
    }
    drop(runtime);
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
