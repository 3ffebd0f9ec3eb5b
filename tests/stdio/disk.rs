//! Files that are made, on disks that are full or do not answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cotter::runtime::Fds;
use cotter::stdio::{Buffering, Drain, Io, Output, Plan, Stream};

use crate::desk::{Desk, LONG, SHORT, all, ended, off, open};

/// A file system of its own below a desk, unmounted at the end, thawed before.
struct Disk(PathBuf);

impl Disk {
    fn tmpfs(desk: &Desk, size: &str) -> Self {
        let disk = Self::at(desk);
        let options = format!("size={size}");
        disk.mount(&["-t", "tmpfs", "-o", &options, "tmpfs"]);
        disk
    }

    /// On a real block device, which can be frozen.
    fn ext4(desk: &Desk) -> Self {
        let disk = Self::at(desk);
        let image = desk.path("image");
        let file = fs::File::create(&image).unwrap();
        file.set_len(8 << 20).unwrap();
        command("mke2fs", &["-q", "-t", "ext4", &image.to_string_lossy()]);
        disk.mount(&["-o", "loop", &image.to_string_lossy()]);
        disk
    }

    fn at(desk: &Desk) -> Self {
        let path = desk.path("disk");
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn mount(&self, args: &[&str]) {
        let path = self.0.to_string_lossy();
        command("mount", &[args, &[&path]].concat());
    }

    fn freeze(&self, how: &str) {
        command("fsfreeze", &[how, &self.0.to_string_lossy()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path = &self.0;
        // Not frozen any more: an error, which is as good.
        let thaw = Command::new("fsfreeze").arg("-u").arg(path).output();
        let _ = thaw;
        let _ = Command::new("umount").arg("-l").arg(path).output();
    }
}

fn command(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output();
    let done = done.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(done.status.success(), "{program} {args:?}: {done:?}");
}

fn to_files(stdout: &Path, stderr: Output) -> (Io, Fds) {
    open(&Plan::Pipes {
        stdin: None,
        stdout: Some(Output::File(stdout.to_owned())),
        stderr: Some(stderr),
    })
}

#[tokio::test]
async fn a_disk_that_is_full_stops_no_container() {
    let desk = Desk::new().await;
    let disk = Disk::tmpfs(&desk, "64k");
    let log = disk.0.join("deep/log");
    let (io, fds) = to_files(&log, Output::File(log.clone()));
    let child = desk.sh(fds, "head -c 500000 /dev/zero; echo e >&2");
    io.start();
    assert!(ended(child).await.success());
    assert_eq!(io.drained(LONG).await, Drain::Done);
    let counters = io.counters();
    assert!(counters.lost > 400_000, "{counters:?}");
    assert_eq!(counters.stdout + counters.stderr + counters.lost, 500_002);
    let len = fs::metadata(&log).unwrap().len();
    assert_eq!(len, counters.stdout + counters.stderr);
}

#[tokio::test]
async fn a_disk_that_does_not_answer_stops_no_other_stream() {
    let desk = Desk::new().await;
    let disk = Disk::ext4(&desk);
    let log = disk.0.join("log");
    let (io, fds) = to_files(&log, desk.path("err").into());
    disk.freeze("-f");
    let reader = desk.reader("err");
    let child = desk.sh(fds, "echo stuck; seq 1 20000 >&2");
    io.start();
    // All of this on the one thread of the shim.
    let expected: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    assert!(all(reader).await == expected.as_bytes());
    assert!(ended(child).await.success());
    assert_eq!(io.drained(SHORT).await, Drain::TimedOut(Stream::Stdout));
    let thaw = disk.0.clone();
    off(move || command("fsfreeze", &["-u", &thaw.to_string_lossy()])).await;
    assert_eq!(io.drained(LONG).await, Drain::Done);
    assert_eq!(fs::read_to_string(&log).unwrap(), "stuck\n");
    assert_eq!(io.counters().lost, 0);
    drop((io, disk));
}

#[tokio::test]
async fn what_is_no_file_is_refused() {
    let desk = Desk::new().await;
    fs::create_dir(desk.path("dir")).unwrap();
    fs::write(desk.path("file"), "").unwrap();
    for (name, phrase) in [("dir", "is a directory"), ("file/log", "file")] {
        let plan = Plan::Pipes {
            stdin: None,
            stdout: Some(Output::File(desk.path(name))),
            stderr: None,
        };
        let refused = Io::open(&plan, 0, 0, Buffering::NONE)
            .map(drop)
            .expect_err(name);
        assert!(refused.message.contains("stdout"), "{refused}");
        assert!(refused.message.contains(phrase), "{refused}");
    }
    let reader = desk.reader_of_both("out");
    let plan = Plan::Pipes {
        stdin: None,
        stdout: Some(Output::File(desk.path("out"))),
        stderr: None,
    };
    let refused = Io::open(&plan, 0, 0, Buffering::NONE)
        .map(drop)
        .expect_err("a FIFO");
    assert!(refused.message.contains("is not a file"), "{refused}");
    drop(reader);
}
