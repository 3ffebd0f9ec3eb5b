//! Readers that are away or slow: what is buffered, what is dropped, and what is left of it afterwards.

use std::fs;
use std::io::Read;

use cotter::runtime::Fds;
use cotter::stdio::{Buffering, Drain, Io, Overflow, Stream};
use tokio::time::{sleep, timeout};

use crate::cost::pipes;
use crate::desk::{
    Desk, FDS, LONG, PAGES, SHORT, all, control, ended, exactly, off, open_with, run, size, until,
};
use crate::gaps::with_gaps;

const MIB: u64 = 1 << 20;

const DROP: Buffering = Buffering {
    size: MIB,
    overflow: Overflow::Drop,
};

fn lines(to: u32) -> String {
    (1..=to).map(|n| format!("{n}\n")).collect()
}

/// Memory files of this process.
fn memory_files() -> usize {
    let fds = fs::read_dir("/proc/self/fd").unwrap();
    fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter(|to| to.to_string_lossy().contains("cotter-output"))
        .count()
}

#[tokio::test]
async fn what_nobody_reads_is_buffered_and_arrives_in_order() {
    let desk = Desk::new().await;
    let (io, child) = run(&desk, Buffering::default(), "seq 1 250000; echo end");
    assert!(ended(child).await.success(), "it waits for nobody");
    let drain = timeout(LONG, io.drained(10 * LONG)).await;
    assert_eq!(
        drain.expect("unread does not use up the limit"),
        Drain::Unread(Stream::Stdout)
    );
    assert!(io.counters().buffered > 0, "{:?}", io.counters());
    let reader = desk.reader("out");
    assert_eq!(size(&reader), 1 << 20, "grown to what the system allows");
    let text = String::from_utf8(all(reader).await).unwrap();
    assert!(text == lines(250_000) + "end\n", "{} bytes", text.len());
    assert_eq!(io.drained(LONG).await, Drain::Done);
    assert_eq!(io.counters().stdout, text.len() as u64);
    assert_eq!((io.counters().buffered, io.counters().lost), (0, 0));
}

#[tokio::test]
async fn a_full_buffer_blocks_the_container_at_no_cost_and_loses_nothing() {
    let desk = Desk::new().await;
    let (io, child) = run(&desk, Buffering::default(), &format!("{PAGES} count=25600"));
    let held = || io.counters().stdout + io.counters().buffered;
    until("the buffer is full", || held() == 2 * MIB).await;
    for _ in 0..100 {
        let turns = io.counters().turns;
        sleep(6 * SHORT).await;
        if io.counters().turns == turns {
            break;
        }
    }
    let turns = io.counters().turns;
    sleep(6 * SHORT).await;
    assert_eq!(io.counters().turns, turns, "woken while it is blocked");
    assert_eq!(held(), 2 * MIB);
    assert_eq!(io.drained(SHORT).await, Drain::TimedOut(Stream::Stdout));
    assert_eq!(all(desk.reader("out")).await.len(), 25600 * 4096);
    assert!(ended(child).await.success());
    assert_eq!(io.counters().lost, 0);
}

#[tokio::test]
async fn without_a_reader_a_hundred_megabytes_are_dropped_and_counted() {
    let desk = Desk::new().await;
    let (io, child) = run(&desk, DROP, "seq 1 12000000");
    let written = lines(12_000_000);
    assert!(written.len() > 90_000_000);
    assert!(ended(child).await.success());
    until("all is taken from the pipe", || {
        let now = io.counters();
        now.stdout + now.buffered + now.lost == written.len() as u64
    })
    .await;
    let lost = io.counters().lost;
    let text = String::from_utf8(all(desk.reader("out")).await).unwrap();
    let (arrived, missing, gaps) = with_gaps(&text, &written);
    assert_eq!((arrived + missing, missing), (written.len() as u64, lost));
    assert_eq!(gaps, 1);
    assert!(
        text.ends_with("\n11999999\n12000000\n"),
        "the newest is kept"
    );
    assert_eq!(io.counters().stdout, arrived);
}

#[tokio::test]
async fn readers_that_come_and_go_see_every_gap() {
    let desk = Desk::new().await;
    let script = "seq 1 1000000; read x < ctl; seq 1000001 2000000; read x < ctl; echo 2000001";
    let mut go = control(&desk);
    let (io, child) = run(&desk, DROP, script);
    let seen = |written: usize| {
        let now = io.counters();
        now.stdout + now.buffered + now.lost == written as u64
    };
    let [first, second] = [1_000_000, 2_000_000].map(|to| lines(to).len());
    let written = lines(2_000_001);
    until("the first part", || seen(first)).await;
    let (reader, mut got) = exactly(desk.reader("out"), 1_500_000).await;
    drop(reader);
    go();
    until("the second part", || seen(second)).await;
    go();
    got.extend(all(desk.reader("out")).await);
    assert!(ended(child).await.success());
    let text = String::from_utf8(got).unwrap();
    let (arrived, missing, gaps) = with_gaps(&text, &written);
    assert_eq!(arrived + missing, written.len() as u64);
    assert_eq!((missing, gaps), (io.counters().lost, 2));
}

#[tokio::test]
async fn a_slow_reader_loses_nothing_where_output_may_be_dropped() {
    let desk = Desk::new().await;
    let (io, child) = run(&desk, DROP, "seq 1 1000000");
    let mut reader = desk.reader("out");
    let text = off(move || {
        let mut got = Vec::new();
        // Away for long enough that buffering begins, then slow for longer than ABSENT.
        std::thread::sleep(6 * SHORT);
        for _ in 0..40 {
            let mut some = [0; 20_000];
            reader.read_exact(&mut some).unwrap();
            got.extend(some);
            std::thread::sleep(SHORT);
        }
        reader.read_to_end(&mut got).unwrap();
        String::from_utf8(got).unwrap()
    });
    assert!(text.await == lines(1_000_000));
    assert!(ended(child).await.success());
    assert_eq!(io.counters().lost, 0);
}

#[tokio::test]
async fn when_all_has_been_read_nothing_is_left_of_it() {
    let _alone = FDS.write().await;
    let desk = Desk::alone();
    let mut go = control(&desk);
    let (io, child) = run(
        &desk,
        Buffering::default(),
        "read x < ctl; seq 1 250000; read x < ctl",
    );
    let reader = desk.reader("out");
    let (small, before) = (size(&reader), pipes());
    go();
    until("it is buffered", || io.counters().buffered > 0).await;
    assert_eq!((size(&reader), memory_files()), (1 << 20, 1));
    let all_of_it = lines(250_000);
    let (reader, got) = exactly(reader, all_of_it.len()).await;
    assert!(got == all_of_it.as_bytes());
    until("the FIFO has its size again", || size(&reader) == small).await;
    until("its memory is given back", || memory_files() == 0).await;
    assert_eq!(pipes(), before);
    go();
    assert!(all(reader).await.is_empty());
    assert!(ended(child).await.success());
}

#[tokio::test]
async fn when_all_has_been_read_bytes_flow_again() {
    let _alone = FDS.write().await;
    let desk = Desk::alone();
    let mut go = control(&desk);
    // As large as the FIFO, which so is not grown.
    let small = Buffering {
        size: 64 << 10,
        overflow: Overflow::Block,
    };
    let (io, child) = run(
        &desk,
        small,
        "seq 1 30000; for n in 1 2 3; do read x < ctl; echo $n; done",
    );
    let expected = lines(30_000);
    until("it is buffered", || io.counters().buffered > 0).await;
    let (mut reader, mut got) = exactly(desk.reader("out"), expected.len()).await;
    assert!(got == expected.as_bytes());
    for n in 1..=3 {
        go();
        (reader, got) = exactly(reader, 2).await;
        assert_eq!(got, format!("{n}\n").as_bytes());
    }
    // Without another stall.
    assert_eq!(memory_files(), 0);
    assert!(all(reader).await.is_empty());
    assert!(ended(child).await.success());
}

#[tokio::test]
async fn a_reader_that_goes_in_the_tail_leaves_the_rest_for_the_next() {
    let desk = Desk::new().await;
    let (io, child) = run(&desk, Buffering::default(), "seq 1 250000");
    assert!(ended(child).await.success());
    assert_eq!(io.drained(LONG).await, Drain::Unread(Stream::Stdout));
    let mut got = Vec::new();
    for len in [1, 100_000, 300_000] {
        let (reader, some) = exactly(desk.reader("out"), len).await;
        got.extend(some);
        drop(reader);
    }
    got.extend(all(desk.reader("out")).await);
    assert!(got == lines(250_000).as_bytes(), "{} bytes", got.len());
    assert_eq!(io.drained(LONG).await, Drain::Done);
}

#[tokio::test]
async fn two_streams_are_buffered_each_for_itself() {
    let desk = Desk::new().await;
    let (io, fds): (Io, Fds) = open_with(&desk.plan("", "out", "err"), DROP);
    let child = desk.sh(fds, "seq 1 250000; seq 1 2000000 >&2");
    io.start();
    assert!(ended(child).await.success());
    let (out, err) = tokio::join!(all(desk.reader("out")), all(desk.reader("err")));
    assert!(out == lines(250_000).as_bytes(), "{} bytes", out.len());
    let written = lines(2_000_000);
    let (arrived, missing, gaps) = with_gaps(&String::from_utf8(err).unwrap(), &written);
    assert_eq!(arrived + missing, written.len() as u64);
    assert_eq!((missing, gaps), (io.counters().lost, 1));
}
