//! A shim that can have no thread and no process: it says so, and signals are sent all the same.

use std::fs;
use std::path::{Path, PathBuf};

use cotter::cgroup::Version;
use cotter::error::Code;
use cotter::manager::spec::Spec;

use crate::common::resources::cgroup;
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{has_trap, unique};
use crate::runtime::Faulty;
use crate::world::{GOOD, alive, answers, good_works, process_with, until, world};

/// A cgroup of the shim's own, without room for a thread.
struct Full {
    dir: PathBuf,
    pid: u32,
}

impl Full {
    fn of(pid: u32) -> Self {
        let root = match cgroup(pid).version() {
            Version::V1 => "/sys/fs/cgroup/pids",
            Version::V2 => "/sys/fs/cgroup",
        };
        let dir = Path::new(root).join(unique("cotter-full"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("cgroup.procs"), pid.to_string()).unwrap();
        let full = Self { dir, pid };
        fs::write(full.dir.join("pids.max"), "1").unwrap();
        full
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = fs::write(self.dir.join("pids.max"), "max");
        let above = self.dir.parent().unwrap().join("cgroup.procs");
        let _ = fs::write(above, self.pid.to_string());
        let _ = fs::remove_dir(&self.dir);
    }
}

async fn young(shim: &mut Shim, faulty: Option<&Faulty>, id: &str, script: &str, host_pids: bool) {
    let mut spec = Spec::new(id, ["sh", "-c", script]);
    spec.host_pids = host_pids;
    shim.bundle(id, spec);
    let request = match faulty {
        Some(faulty) => faulty.create_request(shim, id),
        None => shim.create_request(id),
    };
    shim.tasks.create(&request).await.unwrap();
    shim.start_process(id, "").await.unwrap();
}

#[test]
fn a_signal_needs_none_and_what_needs_one_says_so() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            let sleep = "exec sleep 1000";
            // The last ones are younger than a second.
            young(&mut shim, None, "first", sleep, false).await;
            shim.tasks
                .exec(&shim.exec_request(GOOD, "x", &["sleep", "1000"]))
                .await
                .unwrap();
            let script = "trap 'exit 5' TERM; while :; do sleep 0.05; done";
            young(&mut shim, None, "term", script, false).await;
            let pid = shim.state("term", "").await.unwrap().pid;
            until("it has its trap", || has_trap(pid, 15)).await;
            young(
                &mut shim,
                None,
                "host",
                "sleep 3000 & exec sleep 1000",
                true,
            )
            .await;
            let child = process_with(&shim, "sleep 3000").await;
            young(&mut shim, Some(&faulty), "other", sleep, false).await;
            young(&mut shim, None, "young", sleep, false).await;

            let full = Full::of(shim.pid());
            shim.kill("young", "", 9).await.unwrap();
            for (id, signal, status) in [
                ("young", 9, 137),
                ("term", 15, 5),
                ("host", 9, 137),
                ("other", 9, 137),
                ("first", 9, 137),
            ] {
                if id != "young" {
                    shim.kill(id, "", signal).await.unwrap();
                }
                assert_eq!(shim.wait(id, "").await.unwrap().exit_status, status, "{id}");
            }
            until("what init left behind", || !alive(child)).await;
            let error = shim.start_process(GOOD, "x").await.unwrap_err();
            assert_eq!(error.code, Code::ResourceExhausted, "{error}");
            assert!(error.message.contains("OCI runtime exec failed"), "{error}");
            answers(&shim, GOOD).await;

            drop(full);
            shim.start_process(GOOD, "x").await.unwrap();
            shim.kill(GOOD, "x", 9).await.unwrap();
            assert_eq!(shim.wait(GOOD, "x").await.unwrap().exit_status, 137);
            shim.delete(GOOD, "x").await.unwrap();
            good_works(&shim).await;
            for id in ["young", "term", "host", "other", "first"] {
                shim.delete(id, "").await.unwrap();
            }
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}
