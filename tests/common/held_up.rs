//! A process that holds up whoever reads its arguments, environment or memory map: one of its threads waits for
//! a dead disk with the lock of the map in its hands.
//!
//! It is this very program, run again with [`FILE`] set: who uses it calls [`held`] then.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use cotter::kin::Stat;

use crate::common::eventually;
use crate::disk::Disk;

/// Names, in the process that is to be held, the file on the disk.
pub const FILE: &str = "COTTER_TEST_LOCKED";

/// A process that holds its readers up, as long as it is there.
pub struct Locked {
    disk: Disk,
    process: Child,
    _streams: (ChildStdin, Lines<BufReader<ChildStdout>>),
}

impl Locked {
    /// `args` lead the program to [`held`].
    pub fn new(args: &[&str]) -> Self {
        let disk = Disk::holding(&[7; 4096]);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(args)
            .env(FILE, disk.path().join("file"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = process.stdin.take().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("open")));
        disk.dies();
        stdin.write_all(b"r").unwrap();
        eventually("it reads", || disk.waiting() > 0);
        stdin.write_all(b"m").unwrap();
        let tasks = format!("/proc/{}/task", process.id());
        let stuck = |task: &fs::DirEntry| {
            let tid = task.file_name().to_str()?.parse().ok()?;
            Some(Stat::of(tid)?.state == 'D')
        };
        // The other one could be killed.
        eventually("a thread waits for the page", || {
            let mut tasks = fs::read_dir(&tasks).unwrap().flatten();
            tasks.any(|task| stuck(&task) == Some(true))
        });
        Self {
            disk,
            process,
            _streams: (stdin, lines),
        }
    }

    /// A reader of its arguments, who waits.
    pub fn reader(&self) -> thread::JoinHandle<()> {
        let held = self.process.id();
        thread::spawn(move || drop(fs::read(format!("/proc/{held}/cmdline"))))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.process.kill();
        self.disk.is_back();
        let _ = self.process.wait();
    }
}

/// What the held process does; `file` is on the disk.
pub fn held(file: &OsStr) {
    let cached = File::open(file).unwrap();
    let mut direct = fs::OpenOptions::new();
    let direct = direct.read(true).custom_flags(libc::O_DIRECT);
    let direct = direct.open(file).unwrap();
    std::io::stdout().write_all(b"open\n").unwrap();
    let mut go = std::io::stdin().lock().bytes();
    go.next().unwrap().unwrap();
    // Its page of the file is locked until the disk answers.
    let reads = thread::spawn(move || drop((&cached).read(&mut [0])));
    go.next().unwrap().unwrap();
    // To map the file past the page cache, that page has to go; the map's lock is held meanwhile.
    // SAFETY: nix has it behind a feature of its own. A new mapping of an open file at an address of the
    // kernel's choice, which nobody looks at.
    let mapped = unsafe {
        let (none, fd) = (std::ptr::null_mut(), direct.as_raw_fd());
        libc::mmap(none, 4096, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0)
    };
    assert_ne!(mapped, libc::MAP_FAILED);
    reads.join().unwrap();
}
