//! What streams cost: descriptors, and time where nothing moves.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cotter::stdio::{Buffering, Drain, Io, Stream};
use tokio::time::sleep;

use crate::desk::{Desk, FDS, LONG, PAGES, SHORT, all, ended, exactly, off, open, until};

/// The open pipes and FIFOs of this process: where each leads, and its flags. Only those: the
/// runtimes of tests that come and go have descriptors of other kinds.
pub fn pipes() -> Vec<(String, i32)> {
    let look = |fd: &Path| {
        let to = fs::read_link(fd).ok()?.to_string_lossy().into_owned();
        let of_ours = to.starts_with("pipe:") || to.contains("/cotter-stdio-");
        let info = Path::new("/proc/self/fdinfo").join(fd.file_name()?);
        let info = fs::read_to_string(info).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        of_ours.then(|| (to, i32::from_str_radix(flags.trim(), 8).unwrap()))
    };
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let mut pipes: Vec<_> = open.filter_map(|fd| look(&fd.unwrap().path())).collect();
    pipes.sort();
    pipes
}

#[tokio::test]
async fn two_descriptors_for_a_stream_and_none_after_it() {
    let _alone = FDS.write().await;
    let desk = Desk::alone();
    let base = pipes();
    let new = |what: &str| {
        let now: Vec<_> = pipes()
            .into_iter()
            .filter(|fd| !base.contains(fd))
            .collect();
        for (path, flags) in &now {
            assert!(
                flags & nix::libc::O_CLOEXEC != 0,
                "{what}: {path} is inherited"
            );
        }
        now.len()
    };

    // Closed by hand, and dropped, before and after the start.
    for start in [false, true] {
        let (io, fds) = open(&desk.plan("in", "out", "err"));
        assert_eq!(new("opened"), 6 + 3);
        if start {
            io.start();
        }
        drop(fds);
        assert_eq!(new("the container's ends closed"), 6);
        io.close();
        assert_eq!(new("closed"), 0);
        drop(open(&desk.plan("in", "out", "err")));
        assert_eq!(new("dropped"), 0);
    }

    // A refused third stream takes the first two with it.
    for _ in 0..3 {
        assert!(Io::open(&desk.plan("in", "out", "missing"), 0, 0, Buffering::NONE).is_err());
        assert_eq!(new("refused"), 0);
    }

    // Full FIFOs cost no more; streams that end by themselves leave nothing behind.
    let (io, child) = desk.run("in", "out", "err", &format!("{PAGES} count=50; cat"));
    until("the FIFO is full", || io.counters().stdout == 65536).await;
    assert_eq!(new("full"), 6);
    let reader = all(desk.reader("out"));
    io.close_stdin();
    assert_eq!(reader.await.len(), 50 * 4096);
    drop(desk.reader("err"));
    assert!(ended(child).await.success());
    // Nobody reads stderr: its write end waits for somebody.
    until("only stderr is left", || new("ended") == 1).await;
    io.close();
    assert_eq!(new("closed after the end"), 0);
    assert_eq!(pipes(), base);
}

/// Nanoseconds this thread has run.
fn ran() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// Nothing moves: after what is still under way, relays are woken `most` times at most in a while,
/// and the thread does not run otherwise either.
async fn idle(what: &str, io: &Io, most: u64) {
    let mut seen = Vec::new();
    for _ in 0..20 {
        let (turns, began) = (io.counters().turns, ran());
        sleep(6 * SHORT).await;
        let (turns, used) = (io.counters().turns - turns, ran() - began);
        if turns <= most && used < SHORT / 2 {
            return;
        }
        seen.push((turns, used));
    }
    panic!(
        "{what}: no rest, but woken and running {seen:?} in {:?} each",
        6 * SHORT
    );
}

#[tokio::test]
async fn waiting_costs_nothing() {
    let desk = Desk::new().await;
    let control = desk.fifo("ctl");
    let open_control = || fs::OpenOptions::new().read(true).write(true).open(&control);
    let control_held = open_control().unwrap();
    // The shell stays, and with it stderr's writer, as `dd` is not its last command.
    let script = format!("echo hello; read x < ctl; {PAGES} count=100; :");
    let (io, child) = desk.run("in", "out", "err", &script);
    let go = |mut control: &fs::File| std::io::Write::write_all(&mut control, b"go\n").unwrap();

    idle("no client, no reader, nothing to say", &io, 0).await;
    let client = desk.writer("in");
    let reader = desk.reader("out");
    idle("client and reader, nothing to say", &io, 0).await;
    drop((client, reader));
    idle("client and reader gone", &io, 0).await;
    go(&control_held);
    until("the FIFO is full", || io.counters().stdout == 15 * 4096 + 6).await;
    idle("full, no reader", &io, 0).await;
    let reader = desk.reader("out");
    idle("full, a reader that does not read", &io, 0).await;
    let (reader, _) = exactly(reader, 20 * 4096).await;
    idle("full again", &io, 0).await;
    assert_eq!(all(reader).await.len(), 80 * 4096 + 6);
    assert!(ended(child).await.success());
    // The FIFO of stderr, whose stream ended without a reader, is looked at ever less often.
    idle("ended, no reader", &io, 10).await;
    assert_eq!(io.drained(LONG).await, Drain::Done);
}

#[tokio::test]
async fn a_container_that_does_not_read_costs_nothing() {
    let desk = Desk::new().await;
    let control = desk.fifo("ctl");
    let control = fs::OpenOptions::new().read(true).write(true).open(control);
    let (io, child) = desk.run("in", "out", "", "read x < ctl; wc -c");
    let mut client = desk.writer("in");
    let writing = off(move || {
        std::io::Write::write_all(&mut client, &[0; 300_000]).unwrap();
    });
    let watching = async {
        until("the pipe is full", || io.counters().stdin == 65536).await;
        idle("the container does not read", &io, 0).await;
        assert_eq!(io.drained(SHORT).await, Drain::TimedOut(Stream::Stdout));
        std::io::Write::write_all(&mut control.unwrap(), b"go\n").unwrap();
    };
    tokio::join!(writing, watching);
    io.close_stdin();
    assert_eq!(all(desk.reader("out")).await, b"300000\n");
    assert!(ended(child).await.success());
}
