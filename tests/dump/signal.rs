//! SIGUSR1.

use std::fs;

use cotter::dump::Dump;

use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::common::signal;
use crate::disk::Disk;
use crate::{ask, file, row, rows, state, taken, tidy};

#[test]
fn any_number_of_signals_leave_one_whole_file_each_time() {
    run(async {
        let shim = Shim::start(RUNTIMES[0], "c", &["sleep", "1000"]).await;
        let (pid, bundle) = (shim.pid(), shim.bundle_path("c"));
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        let mut last = None;
        for _ in 0..5 {
            signal(pid, "USR1");
            signal(pid, "USR1");
            // Reading it panics when it is not whole.
            until("a newer file", || taken(&bundle) > last).await;
            last = taken(&bundle);
        }
        let seen = file(&bundle).unwrap();
        assert_eq!(row(&seen, "containers", &[("id", "c")])["state"], "running");
        // The threads that wrote are gone, and nothing is left of them.
        until("one thread", || {
            fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() == 1
        })
        .await;
        assert_eq!(state(&shim).await.section("shim").unwrap()["threads"], 1);
        tidy(&shim.endpoint, bundle).await;
        shim.remove("c").await;
        shim.end().await;
    });
}

#[test]
fn a_bundle_that_takes_no_file_is_told_and_the_next_one_is_written() {
    run(async {
        let shim = Shim::start(RUNTIMES[1], "c", &["sleep", "1000"]).await;
        let bundle = shim.bundle_path("c");
        // No rename replaces a directory by a file.
        let taker = bundle.join(cotter::dump::FILE);
        fs::create_dir(&taker).unwrap();
        signal(shim.pid(), "USR1");
        until("the failure is told", || {
            let told = "not written to any bundle";
            shim.log().iter().any(|line| line.contains(told))
        })
        .await;
        fs::remove_dir(&taker).unwrap();
        signal(shim.pid(), "USR1");
        until("the next one is written", || taken(&bundle).is_some()).await;
        tidy(&shim.endpoint, bundle).await;
        shim.end().await;
    });
}

#[test]
fn a_bundle_whose_disk_hangs_holds_one_thread_and_nothing_else() {
    run(async {
        let shim = Shim::start(RUNTIMES[1], "c", &["sleep", "1000"]).await;
        let bundle = shim.bundle_path("c");
        let dead = Disk::dead_over(&bundle);
        for _ in 0..3 {
            signal(shim.pid(), "USR1");
            ask(&shim.endpoint, false).await;
        }
        // One thread, which the dump itself names.
        let writers = |dump: &Dump| -> Vec<serde_json::Value> {
            let mut threads = rows(dump, "threads").to_vec();
            threads.retain(|thread| thread["name"] == "write-dump");
            threads
        };
        let mut seen = state(&shim).await;
        while !writers(&seen)
            .iter()
            .any(|thread| thread["wchan"].is_string())
        {
            tokio::task::yield_now().await;
            seen = state(&shim).await;
        }
        assert_eq!(writers(&seen).len(), 1, "{}", seen.to_json());
        drop(dead);
        // What waited has got an error; the bundle is back for the next.
        tidy(&shim.endpoint, bundle).await;
        shim.end().await;
    });
}
