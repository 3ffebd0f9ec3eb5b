//! A process on the machine that holds up whoever reads its arguments, environment or memory map: one of
//! its threads waits for a dead disk with the lock of the map in its hands. It is nobody's business here.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use cotter::kin::Stat;
use cotter::manager::client::{Tasks, gone};

use crate::common::shim::{RUNTIMES, run};
use crate::common::{LIMIT, eventually, signal};
use crate::disk::Disk;
use crate::gone::{delete, nothing_left};
use crate::world::{alive, bundle, later, until, world};

/// Names, in the process that is to be held, the file on the disk.
const FILE: &str = "COTTER_TEST_LOCKED";

/// A process that holds its readers up, as long as it is there.
struct Locked {
    disk: Disk,
    process: Child,
    _streams: (ChildStdin, Lines<BufReader<ChildStdout>>),
}

impl Locked {
    fn new() -> Self {
        let disk = Disk::holding(&[7; 4096]);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "locked::the_held_process", "--nocapture"])
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
    fn reader(&self) -> thread::JoinHandle<()> {
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

/// Not a test but the process that is held, when it is asked to be.
#[test]
fn the_held_process() {
    let Some(file) = std::env::var_os(FILE) else {
        return;
    };
    let cached = File::open(&file).unwrap();
    let mut direct = fs::OpenOptions::new();
    let direct = direct.read(true).custom_flags(libc::O_DIRECT);
    let direct = direct.open(&file).unwrap();
    writeln!(std::io::stdout(), "open").unwrap();
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

/// `delete` of a container whose shim died in the middle of a call: it has to find that call.
#[test]
fn holds_up_no_delete() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            let good = shim.state(crate::world::GOOD, "").await.unwrap().pid;
            let request = bundle(&mut shim, &faulty, "c");
            faulty.set("create", "slow-before");
            let create = later(&shim.tasks, |tasks: Tasks| async move {
                tasks.create(&request).await.map(drop)
            });
            faulty.arrived("create").await;
            signal(shim.pid(), "KILL");
            create.await.unwrap().unwrap_err();
            gone(&shim.endpoint, LIMIT).await.unwrap();
            let script = faulty.binary().to_string_lossy().into_owned();
            let call = shim.owner().processes().into_iter();
            let call = call.filter(|process| process.argv.contains(&script));
            let call: Vec<u32> = call.map(|process| process.pid).collect();
            assert_eq!(call.len(), 1);

            let locked = Locked::new();
            let reader = locked.reader();
            // Within the time that managers give it.
            let deleted = delete(&shim, "c").await;
            assert!(!reader.is_finished(), "its reader waits");
            assert!(alive(good));
            let left = alive(call[0]);
            drop(locked);
            reader.join().unwrap();
            assert_eq!((deleted.warnings.as_str(), left), ("", false));
            assert_eq!(delete(&shim, crate::world::GOOD).await.warnings, "");
            until("its init is dead", || !alive(good)).await;
            nothing_left(&shim).await;
        });
    }
}
