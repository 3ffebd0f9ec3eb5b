//! Streams that flow: what the relay does so that its processes need not wait for it, or it for them.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Child;

use cotter::stdio::{Buffering, Drain};

use crate::desk::{Desk, LONG, control, ended, exactly, off, run, size, until};

const USUAL: i32 = 64 << 10;
const LARGE: i32 = 256 << 10;

/// The pipe that a container writes to, seen without keeping it.
fn pipe_of(child: &Child) -> i32 {
    let path = format!("/proc/{}/fd/1", child.id());
    let mut pipe = File::options();
    let pipe = pipe.read(true).custom_flags(nix::libc::O_NONBLOCK);
    size(&pipe.open(path).unwrap())
}

#[tokio::test]
async fn pipes_hold_more_while_bytes_flow_and_not_for_longer() {
    let desk = Desk::new().await;
    let mut go = control(&desk);
    let script = "dd if=/dev/zero bs=65536 count=4096 2>/dev/null; read x < ctl; echo end";
    let (io, child) = run(&desk, Buffering::default(), script);
    let mut reader = desk.reader("out");
    assert_eq!((pipe_of(&child), size(&reader)), (USUAL, USUAL));
    let mut largest = 0;
    for _ in 0..4096 {
        reader = exactly(reader, 65536).await.0;
        largest = largest.max(size(&reader));
    }
    assert_eq!(largest, LARGE);
    until("the usual sizes", || {
        (pipe_of(&child), size(&reader)) == (USUAL, USUAL)
    })
    .await;
    go();
    let (reader, end) = exactly(reader, 4).await;
    assert_eq!(end, b"end\n");
    assert!(ended(child).await.success());
    assert_eq!(io.drained(LONG).await, Drain::Done);
    drop(reader);
}

#[tokio::test]
async fn where_no_buffer_is_wanted_pipes_stay_as_they_are() {
    let desk = Desk::new().await;
    let script = "dd if=/dev/zero bs=65536 count=1024 2>/dev/null";
    let (_io, child) = run(&desk, Buffering::NONE, script);
    let mut reader = desk.reader("out");
    for _ in 0..1024 {
        reader = exactly(reader, 65536).await.0;
        assert_eq!(size(&reader), USUAL);
    }
    assert!(ended(child).await.success());
}

/// Whatever the reader does: keeps up, comes late, or reads little at a time.
#[tokio::test]
async fn many_lines_are_few_turns_and_none_is_lost() {
    let desk = Desk::new().await;
    desk.bulk().await;
    let bulk = std::fs::read(desk.path("bulk")).unwrap();
    // A line each: of one write, as dd makes it.
    const LINES: usize = 200_000;
    let script = format!("dd if=bulk bs=100 count={LINES} 2>/dev/null");
    for hold in [false, true] {
        let (io, child) = run(&desk, Buffering::default(), &script);
        let mut reader = desk.reader("out");
        if hold {
            until("the reader is found away", || io.counters().buffered > 0).await;
        }
        let got = off(move || {
            let mut got = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut got).map(|_| got)
        });
        assert!(got.await.unwrap() == bulk[..LINES * 100], "late: {hold}");
        assert!(ended(child).await.success());
        assert_eq!(io.drained(LONG).await, Drain::Done);
        let turns = io.counters().turns;
        assert!(turns < LINES as u64 / 4, "{turns} turns for {LINES} lines");
    }
}
