//! What cannot be reached from outside: the fallback for a pipe that splice refuses, and what the
//! kernel tells about a FIFO.

use std::fs::{self, File};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::stat::Mode;
use tokio::task::spawn_blocking;

use super::Stream;
use super::relay::{Relay, Standing, Tally};
use super::sys::{self, End};

struct Fifo(PathBuf);

impl Fifo {
    fn new(name: &str) -> Self {
        let name = format!("cotter-stdio-unit-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        Self(path)
    }

    fn open(&self) -> OwnedFd {
        sys::open_fifo(Stream::Stdout, &self.0).unwrap()
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn container_pipe() -> (OwnedFd, File) {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let pipe = sys::pipe(Stream::Stdout, End::Read, uid.as_raw(), gid.as_raw());
    let (ours, theirs) = pipe.unwrap();
    (ours, File::from(theirs))
}

/// No pipe is refused by the kernels we know (O_APPEND is looked at for files only), but a seccomp
/// filter may refuse the call: such a FIFO is served through a buffer, and waited for when full.
#[tokio::test]
async fn where_splice_is_refused_bytes_are_copied() {
    let fifo = Fifo::new("append");
    let (ours, mut theirs) = container_pipe();
    let target = fifo.open();
    let relay = Relay::to_fifo(Stream::Stdout, ours, target).unwrap();
    let mut relay = relay.copying();

    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let expected = bytes.clone();
    let container = spawn_blocking(move || theirs.write_all(&bytes));
    let mut tally = Tally::default();
    let mut turns = 0_u64;
    let path = fifo.0.clone();
    // The reader comes when the FIFO has been found full, so that this wait is taken.
    let mut reader = None;
    poll_fn(|cx| {
        turns += 1;
        let polled = relay.poll(cx, &mut tally);
        if tally.moved >= 65536 && reader.is_none() {
            let mut file = File::open(&path).unwrap();
            reader = Some(spawn_blocking(move || {
                let mut got = Vec::new();
                file.read_to_end(&mut got).map(|_| got)
            }));
        }
        polled
    })
    .await;
    drop(relay);
    container.await.unwrap().unwrap();
    let got = reader.expect("the FIFO was full").await.unwrap().unwrap();
    assert!(got == expected);
    assert_eq!(tally.moved, expected.len() as u64);
    assert_eq!(tally.lost, 0);
    assert!(turns < 5000, "woken {turns} times");
}

#[test]
fn a_write_end_knows_its_reader_and_what_is_unread() {
    let fifo = Fifo::new("reader");
    let both = fifo.open();
    fs::remove_file(&fifo.0).unwrap();
    let write_end = sys::reopen(both.as_fd(), End::Write).unwrap();
    let read_end = sys::reopen(both.as_fd(), End::Read).unwrap();
    drop(both);
    nix::unistd::write(&write_end, b"four").unwrap();
    assert!(sys::has_reader(write_end.as_fd()));
    assert_eq!(sys::unread(&write_end), 4);
    drop(read_end);
    assert!(!sys::has_reader(write_end.as_fd()));
    assert_eq!(sys::unread(&write_end), 4, "kept by the write end alone");
}

#[tokio::test]
async fn a_relay_that_has_not_started_is_moving() {
    let fifo = Fifo::new("standing");
    let (ours, theirs) = container_pipe();
    let relay = Relay::to_fifo(Stream::Stdout, ours, fifo.open()).unwrap();
    drop(theirs);
    assert_eq!(relay.standing(), Standing::Moving);
}
