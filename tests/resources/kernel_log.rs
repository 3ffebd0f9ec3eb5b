//! Who writes to the kernel's log costs no shim anything, and hides no refused fork.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use tokio::time::sleep;

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::pids::{BOMB, limited, next};

/// Writes one line. Anew each time: of a descriptor the kernel takes a few lines a second only.
fn write_line(text: &str) {
    let mut log = OpenOptions::new().write(true).open("/dev/kmsg").unwrap();
    log.write_all(text.as_bytes()).unwrap();
}

/// How often the shim has waited for something, all its threads together.
fn waits(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |dir: fs::DirEntry| -> u64 {
        let status = fs::read_to_string(dir.path().join("status")).unwrap();
        let line = status
            .lines()
            .find(|l| l.starts_with("voluntary_ctxt_switches"));
        line.unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    };
    tasks.map(|task| of_task(task.unwrap())).sum()
}

/// Until a second has passed in which nothing happened.
async fn comes_to_rest(pid: u32) {
    let mut last = waits(pid);
    loop {
        sleep(Duration::from_millis(1200)).await;
        let before = std::mem::replace(&mut last, waits(pid));
        if before == last {
            return;
        }
    }
}

/// Of fifty lines in a second none wakes an idle shim, whose container has a limit; what little is counted
/// is its own look at that limit.
#[test]
fn lines_of_the_kernels_log_wake_nobody() {
    for runtime in RUNTIMES {
        run(async {
            let spec = limited("c", 20, "exec sleep 1000");
            let shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let pid = shim.pid();
            comes_to_rest(pid).await;
            let before = waits(pid);
            for n in 0..50 {
                write_line(&format!("cotter test: line {n}\n"));
                sleep(Duration::from_millis(20)).await;
            }
            let woken = waits(pid) - before;
            assert!(woken <= 3, "{woken} wake-ups");
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// Writes line after line until it is dropped.
struct Flood {
    stop: &'static AtomicBool,
    writer: Option<JoinHandle<u64>>,
}

impl Flood {
    fn begin() -> Self {
        let stop: &'static AtomicBool = Box::leak(Box::default());
        let writer = thread::spawn(move || {
            let mut lines = 0;
            while !stop.load(Ordering::Relaxed) {
                write_line("cotter test: fork rejected, says nobody\n");
                lines += 1;
                // Some thousands a second are enough.
                thread::sleep(Duration::from_micros(300));
            }
            lines
        });
        Self {
            stop,
            writer: Some(writer),
        }
    }

    fn end(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.writer
            .take()
            .map_or(0, |writer| writer.join().unwrap())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end();
    }
}

/// A refused fork is told of while another floods the log, and a container beside it works.
#[test]
fn a_refused_fork_is_told_beside_a_flood() {
    for runtime in RUNTIMES {
        run(async {
            let mut good = Spec::new("good", ["sleep", "1000"]);
            good.pids_limit = Some(50);
            let mut shim = Shim::start_as(Dialect::Proto23, runtime, good, "good").await;
            shim.create("good").await.unwrap();
            shim.start_process("good", "").await.unwrap();
            let mut flood = Flood::begin();
            shim.bundle("c", limited("c", 20, BOMB));
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let told = next(&mut shim).await;
            assert_eq!((&*told.container_id, told.limit), ("c", 20));
            assert!(told.hits > 0 && told.total == told.hits, "{told:?}");
            shim.exec("good", "x", &["sh", "-c", "exit 7"])
                .await
                .unwrap();
            assert_eq!(shim.wait("good", "x").await.unwrap().exit_status, 7);
            assert!(flood.end() > 20);
            for id in ["c", "good"] {
                shim.remove(id).await;
            }
            shim.end().await;
        });
    }
}
