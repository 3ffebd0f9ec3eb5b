//! What a stream can be given, and what it refuses.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;

use cotter::error::Code;
use cotter::stdio::{Buffering, Drain, Io, Plan, Stdio, Stream, plan};
use nix::fcntl::{FcntlArg, fcntl};

use crate::desk::{Desk, LONG, all, ended, open, owner, say};

#[tokio::test]
async fn any_subset_of_streams_works() {
    for mask in 0..8_u8 {
        let desk = Desk::new().await;
        let has = |stream: Stream| mask & (1 << stream as u8) != 0;
        let pick = |stream: Stream, uri: String| if has(stream) { uri } else { String::new() };
        let stdio = Stdio {
            stdin: pick(Stream::Stdin, format!("{}", desk.path("in").display())),
            stdout: pick(
                Stream::Stdout,
                format!("fifo://{}", desk.path("out").display()),
            ),
            stderr: pick(Stream::Stderr, format!("{}", desk.path("err").display())),
            terminal: false,
        };
        let (io, fds) = open(&plan(&stdio).unwrap());
        for (given, stream) in [
            (&fds.stdin, Stream::Stdin),
            (&fds.stdout, Stream::Stdout),
            (&fds.stderr, Stream::Stderr),
        ] {
            assert_eq!(given.is_some(), has(stream), "{stream} of mask {mask}");
            if let Some(fd) = given {
                let meta = File::from(fd.try_clone().unwrap()).metadata().unwrap();
                assert_eq!((meta.uid(), meta.gid()), owner(), "{stream}");
                let flags = fcntl(fd, FcntlArg::F_GETFL).unwrap();
                assert_eq!(flags & nix::libc::O_NONBLOCK, 0, "{stream} blocks");
            }
        }
        let child = desk.sh(fds, "echo out; echo err >&2; cat");
        io.start();
        let out = has(Stream::Stdout).then(|| desk.reader("out"));
        let err = has(Stream::Stderr).then(|| desk.reader("err"));
        if has(Stream::Stdin) {
            drop(say(desk.writer("in"), "in\n").await);
        }
        io.close_stdin();
        if let Some(out) = out {
            let echo = if has(Stream::Stdin) {
                "out\nin\n"
            } else {
                "out\n"
            };
            assert_eq!(all(out).await, echo.as_bytes(), "mask {mask}");
        }
        if let Some(err) = err {
            assert_eq!(all(err).await, b"err\n", "mask {mask}");
        }
        assert!(ended(child).await.success());
        assert_eq!(io.drained(LONG).await, Drain::Done);
    }
}

#[tokio::test]
async fn files_are_appended_to() {
    let desk = Desk::new().await;
    fs::write(desk.path("log"), "before\n").unwrap();
    fs::write(desk.path("input"), "given\n").unwrap();
    let script = "cat; for i in 1 2 3; do echo o; echo e >&2; done";
    let (io, child) = desk.run("input", "log", "log", script);
    assert!(ended(child).await.success());
    assert_eq!(io.drained(LONG).await, Drain::Done);
    let text = fs::read_to_string(desk.path("log")).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines[1..].sort_unstable();
    assert_eq!(lines, ["before", "e", "e", "e", "given", "o", "o", "o"]);
}

#[tokio::test]
async fn both_outputs_may_share_a_fifo() {
    let desk = Desk::new().await;
    let (io, child) = desk.run("", "out", "out", "echo o; echo e >&2");
    assert!(ended(child).await.success());
    let text = String::from_utf8(all(desk.reader("out")).await).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["e", "o"]);
    assert_eq!(io.drained(LONG).await, Drain::Done);
}

#[tokio::test]
async fn a_full_disk_does_not_stop_the_container() {
    let desk = Desk::new().await;
    let plan = Plan::Pipes {
        stdin: Some("/dev/null".into()),
        stdout: Some("/dev/full".into()),
        stderr: Some("/dev/null".into()),
    };
    let (io, fds) = open(&plan);
    let child = desk.sh(fds, "cat; head -c 300000 /dev/zero; echo err >&2");
    io.start();
    assert!(ended(child).await.success());
    assert_eq!(io.drained(LONG).await, Drain::Done);
    let got = io.counters();
    assert_eq!((got.stdout, got.stderr, got.lost), (0, 4, 300_000));
}

#[tokio::test]
async fn refusals_name_stream_and_path() {
    let desk = Desk::new().await;
    let _socket = UnixListener::bind(desk.path("socket")).unwrap();
    fs::create_dir(desk.path("dir")).unwrap();
    fs::write(desk.path("file"), "").unwrap();
    let at = std::os::unix::fs::symlink("loop", desk.path("loop"));
    at.unwrap();
    for (name, code, phrase) in [
        ("missing", Code::NotFound, "no such file"),
        ("missing/fifo", Code::NotFound, "no such file"),
        ("dir", Code::InvalidArgument, "a directory"),
        ("socket", Code::InvalidArgument, "a socket"),
        ("file/fifo", Code::Unknown, "not a directory"),
        ("loop", Code::Unknown, "symbolic link"),
    ] {
        for (stream, plan) in [
            ("stdin", desk.plan(name, "out", "err")),
            ("stdout", desk.plan("in", name, "err")),
            ("stderr", desk.plan("in", "out", name)),
        ] {
            let refused = Io::open(&plan, 0, 0, Buffering::NONE)
                .map(drop)
                .expect_err(name);
            assert_eq!(refused.code, code, "{stream} {name}: {refused}");
            let path = desk.path(name).display().to_string();
            for part in [stream, path.as_str(), phrase] {
                assert!(refused.message.contains(part), "{part} is not in {refused}");
            }
        }
    }
}
