//! A process's streams on real FIFOs, real pipes and real children: every byte arrives, whatever
//! the reader does, and nothing is spent or kept where nothing moves.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod cost;
mod desk;
mod disk;
mod flow;
#[path = "../common/gaps.rs"]
mod gaps;
mod stalled;
mod targets;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};

use cotter::stdio::{Drain, Stream};
use tokio::time::timeout;

use desk::{BULK, Desk, LONG, PAGES, SHORT, all, ended, exactly, off, open, say, until};

#[tokio::test]
async fn bulk_output_is_byte_exact() {
    let desk = Desk::new().await;
    let expected = desk.bulk().await;
    for hash in ["sha256sum", "dd bs=1000 2>/dev/null | sha256sum"] {
        let (io, child) = desk.run("", "out", "err", "cat bulk & cat bulk >&2; wait");
        let (hash_out, hash_err) = (format!("{hash} < out"), format!("{hash} < err"));
        let (out, err) = (desk.client(&hash_out), desk.client(&hash_err));
        let (out, err, status) = tokio::join!(out, err, ended(child));
        assert!(status.success());
        assert_eq!((&out, &err), (&expected, &expected), "{hash}");
        assert_eq!(io.drained(LONG).await, Drain::Done);
        let counters = io.counters();
        assert_eq!((counters.stdout, counters.stderr), (BULK, BULK));
    }
}

#[tokio::test]
async fn bulk_input_is_byte_exact() {
    let desk = Desk::new().await;
    let expected = desk.bulk().await;
    for hash in ["sha256sum", "dd bs=1000 2>/dev/null | sha256sum"] {
        let (io, child) = desk.run("in", "out", "", hash);
        let reader = desk.reader("out");
        desk.client("cat bulk > in").await;
        io.close_stdin();
        let got = String::from_utf8(all(reader).await).unwrap();
        assert_eq!(got.split_whitespace().next(), Some(expected.as_str()));
        assert!(ended(child).await.success());
        assert_eq!(io.counters().stdin, BULK);
    }
}

#[tokio::test]
async fn a_slow_reader_gets_the_tail() {
    let desk = Desk::new().await;
    let (io, child) = desk.run("", "out", "", &format!("{PAGES} count=24"));
    let reader = desk.reader("out");
    assert!(ended(child).await.success());
    assert_eq!(
        io.drained(SHORT).await,
        Drain::TimedOut(Stream::Stdout),
        "more than a FIFO holds"
    );
    let (drained, bytes) = tokio::join!(io.drained(LONG), all(reader));
    assert_eq!((drained, bytes.len()), (Drain::Done, 24 * 4096));
}

#[tokio::test]
async fn a_reader_that_comes_after_the_end_gets_everything() {
    let desk = Desk::new().await;
    let (io, child) = desk.run("", "out", "err", "echo tail");
    assert!(ended(child).await.success());
    let drain = timeout(LONG, io.drained(10 * LONG)).await;
    assert_eq!(
        drain.expect("an unread tail does not use up the limit"),
        Drain::Unread(Stream::Stdout)
    );
    assert_eq!(all(desk.reader("out")).await, b"tail\n");
    assert_eq!(all(desk.reader("err")).await, b"");
    assert_eq!(io.drained(LONG).await, Drain::Done);
}

#[tokio::test]
async fn a_stream_that_fills_its_fifo_exactly_ends() {
    let desk = Desk::new().await;
    let (io, child) = desk.run("", "out", "", &format!("{PAGES} count=16"));
    assert!(ended(child).await.success());
    assert_eq!(io.drained(LONG).await, Drain::Unread(Stream::Stdout));
    assert_eq!(all(desk.reader("out")).await.len(), 16 * 4096);
    assert_eq!(io.drained(LONG).await, Drain::Done);
}

#[tokio::test]
async fn a_restarted_reader_goes_on_where_the_first_stopped() {
    let desk = Desk::new().await;
    let (io, child) = desk.run("", "out", "", "seq 1 100000");
    let (first, mut got) = exactly(desk.reader("out"), 100_001).await;
    drop(first);
    assert_eq!(
        io.drained(SHORT).await,
        Drain::TimedOut(Stream::Stdout),
        "the rest piles up unread"
    );
    got.extend(all(desk.reader("out")).await);
    assert!(ended(child).await.success(), "SIGPIPE would have killed it");
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(got == expected.as_bytes());
}

#[tokio::test]
async fn without_a_reader_a_container_can_write_what_a_pipe_holds() {
    let desk = Desk::new().await;
    // Each small write takes a page in the FIFO; what does not fit stays in the pipe.
    let script = "i=0; while [ $i -lt 6000 ]; do echo 123456789; i=$((i+1)); done";
    let (io, child) = desk.run("", "out", "", script);
    assert!(ended(child).await.success());
    assert_eq!(all(desk.reader("out")).await.len(), 60_000);
    assert_eq!(io.drained(LONG).await, Drain::Done);
}

#[tokio::test]
async fn a_removed_fifo_still_delivers() {
    let desk = Desk::new().await;
    let (io, child) = desk.run("in", "out", "", "cat");
    let (client, reader) = (desk.writer("in"), desk.reader("out"));
    fs::remove_file(desk.path("in")).unwrap();
    fs::remove_file(desk.path("out")).unwrap();
    drop(say(client, "late").await);
    io.close_stdin();
    assert_eq!(all(reader).await, b"late");
    assert!(ended(child).await.success());
}

#[tokio::test]
async fn stdin_ends_when_client_and_shim_have_closed_it() {
    // The shim's close comes: before the start, before the client's, after it.
    for order in ["first", "second", "third"] {
        let desk = Desk::new().await;
        let (io, fds) = open(&desk.plan("in", "out", ""));
        let child = desk.sh(fds, "cat");
        let (client, reader) = (desk.writer("in"), desk.reader("out"));
        if order == "first" {
            io.close_stdin();
        }
        io.start();
        let client = say(client, "one").await;
        let (reader, _) = exactly(reader, 3).await;
        if order == "second" {
            io.close_stdin();
            io.close_stdin();
        }
        drop(say(client, "two").await);
        if order == "third" {
            // A client that went may come again, as long as the shim holds its end.
            until("two arrives", || io.counters().stdin == 6).await;
            drop(say(desk.writer("in"), "six").await);
            until("six arrives", || io.counters().stdin == 9).await;
            io.close_stdin();
        }
        let rest: &[u8] = if order == "third" { b"twosix" } else { b"two" };
        assert_eq!(all(reader).await, rest, "{order}");
        assert!(ended(child).await.success(), "{order}");
    }
}

#[tokio::test]
async fn stdin_that_no_client_opened_ends_when_the_shim_closes_it() {
    let desk = Desk::new().await;
    let (io, child) = desk.run("in", "out", "", "cat; echo over");
    let reader = desk.reader("out");
    assert_eq!(io.drained(SHORT).await, Drain::TimedOut(Stream::Stdout));
    assert_eq!(io.counters().stdout, 0, "no EOF of its own accord");
    io.close_stdin();
    assert_eq!(all(reader).await, b"over\n");
    assert!(ended(child).await.success());
}

#[tokio::test]
async fn a_client_of_a_container_that_closed_its_stdin_is_not_stuck() {
    let desk = Desk::new().await;
    let control = desk.fifo("ctl");
    let (io, child) = desk.run("in", "out", "", "exec 0<&-; echo closed; read x < ctl");
    let (reader, _) = exactly(desk.reader("out"), 7).await;
    let mut client = desk.writer("in");
    let refused = off(move || {
        loop {
            if let Err(why) = client.write_all(&[0; 4096]) {
                return why;
            }
        }
    });
    assert_eq!(refused.await.kind(), std::io::ErrorKind::BrokenPipe);
    io.close_stdin();
    let control = off(move || OpenOptions::new().write(true).open(control).unwrap()).await;
    drop(say(control, "go\n").await);
    assert_eq!(all(reader).await, b"");
    assert!(ended(child).await.success());
}

#[tokio::test]
async fn a_background_child_stalls_nothing() {
    let desk = Desk::new().await;
    let control = desk.fifo("ctl");
    let script = "echo early; echo err >&2; { read x < ctl; echo late; } 2>/dev/null &";
    let (io, child) = desk.run("", "out", "err", script);
    let reader = desk.reader("out");
    assert!(ended(child).await.success());
    assert_eq!(all(desk.reader("err")).await, b"err\n");
    let (reader, early) = exactly(reader, 6).await;
    assert_eq!(early, b"early\n");
    // Cancelled, repeated, two at once: each wait has its own limit and harms no other.
    assert!(timeout(SHORT, io.drained(LONG)).await.is_err());
    let both = tokio::join!(io.drained(SHORT), io.drained(SHORT / 2));
    let held = Drain::TimedOut(Stream::Stdout);
    assert_eq!(both, (held, held));
    let control = off(move || OpenOptions::new().write(true).open(control).unwrap()).await;
    drop(say(control, "go\n").await);
    assert_eq!(all(reader).await, b"late\n");
    assert_eq!(io.drained(LONG).await, Drain::Done);
}

#[tokio::test]
async fn close_ends_everything_at_once() {
    let desk = Desk::new().await;
    let (io, child) = desk.run("in", "out", "err", "yes");
    let mut reader = desk.reader("out");
    until("bytes move", || io.counters().stdout > 0).await;
    io.close();
    io.close();
    io.close_stdin();
    // Without a turn of the runtime: what was delivered, then EOF.
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, io.counters().stdout);
    assert_eq!(io.drained(LONG).await, Drain::Done);
    assert!(!ended(child).await.success(), "EPIPE ends `yes`");
}
