//! What works goes on beside execs whose start fails: other execs of the same container, and what its
//! programs leave behind.

use std::fs;

use cotter::manager::client::Tasks;
use cotter::manager::request;
use cotter::manager::spec::Spec;
use cotter::proto::task::{ExecProcessRequest, PidsRequest};

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::world::{GOOD, alive, good_works, world};

/// Execs of each client.
const MANY: usize = 20;

async fn container(shim: &mut Shim, host_pids: bool) {
    let mut spec = Spec::new("c", ["sleep", "1000"]);
    spec.host_pids = host_pids;
    shim.bundle("c", spec);
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
}

/// Execs that cannot be started, one after the other: of a program that is missing, or with streams
/// that cannot be opened, so that no runtime is called.
fn failing(shim: &Shim, name: &str, program: &str, stdout: &str) -> tokio::task::JoinHandle<()> {
    let request = ExecProcessRequest {
        stdout: stdout.into(),
        ..shim.exec_request("c", name, &[program])
    };
    let tasks = shim.tasks.clone();
    tokio::spawn(async move {
        for _ in 0..MANY {
            tasks.exec(&request).await.unwrap();
            let start = request::start("c", &request.exec_id);
            tasks.start(&start).await.unwrap_err();
            let delete = request::delete("c", &request.exec_id);
            tasks.delete(&delete).await.unwrap();
        }
    })
}

/// Both kinds of them.
fn all_failing(shim: &Shim) -> [tokio::task::JoinHandle<()>; 2] {
    [
        failing(shim, "missing", "/no/such/program", ""),
        failing(shim, "streams", "true", "/nonexistent/x"),
    ]
}

/// Execs that end with 7, one after the other.
async fn good(tasks: Tasks, request: ExecProcessRequest) {
    let (id, exec) = ("c", request.exec_id.as_str());
    for n in 0..MANY {
        tasks.exec(&request).await.unwrap();
        let started = tasks.start(&request::start(id, exec)).await;
        started.unwrap_or_else(|e| panic!("{exec}, {n}: {e}"));
        let exit = tasks.wait(&request::wait(id, exec)).await.unwrap();
        assert_eq!(exit.exit_status, 7, "{exec}, {n}");
        tasks.delete(&request::delete(id, exec)).await.unwrap();
    }
}

#[test]
fn good_execs_end_as_they_should() {
    for runtime in RUNTIMES {
        for host_pids in [false, true] {
            run(async {
                let (mut shim, _) = world(runtime, &[]).await;
                container(&mut shim, host_pids).await;
                let failing = all_failing(&shim);
                let good = ["a", "b", "d"].map(|exec| {
                    let args = ["sh", "-c", "sleep .02; exit 7"];
                    let request = shim.exec_request("c", exec, &args);
                    tokio::spawn(good(shim.tasks.clone(), request))
                });
                for client in good.into_iter().chain(failing) {
                    client.await.unwrap();
                }
                shim.remove("c").await;
                shim.remove(GOOD).await;
                shim.end().await;
            });
        }
    }
}

/// With the host's pids daemons come to the shim, in sessions of their own.
#[test]
fn daemons_live() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, _) = world(runtime, &[]).await;
            container(&mut shim, true).await;
            let [missing, streams] = all_failing(&shim);
            let makes = format!(
                "i=0; while [ $i -lt {MANY} ]; do (setsid sleep 3000 &); i=$((i+1)); sleep .02; done"
            );
            shim.exec("c", "maker", &["sh", "-c", &makes])
                .await
                .unwrap();
            let made = shim.wait("c", "maker").await.unwrap();
            assert_eq!(made.exit_status, 0);
            missing.await.unwrap();
            streams.await.unwrap();
            let request = PidsRequest {
                id: "c".into(),
                ..Default::default()
            };
            let pids = shim.tasks.pids(&request).await.unwrap().processes;
            let init = shim.state("c", "").await.unwrap().pid;
            let sleeps = |pid: &u32| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm"));
                name.is_ok_and(|name| name == "sleep\n") && alive(*pid)
            };
            let pids = pids.iter().map(|process| process.pid);
            let daemons = pids.filter(|pid| *pid != init).filter(sleeps).count();
            assert_eq!(daemons, MANY);
            good_works(&shim).await;
            shim.remove("c").await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// Read calls and bytes of the shim so far.
fn reads(shim: u32) -> [u64; 2] {
    let text = fs::read_to_string(format!("/proc/{shim}/io")).unwrap();
    ["rchar: ", "syscr: "].map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().parse().unwrap()
    })
}

/// The least that the shim reads for one exec, of some.
async fn cost_of_an_exec(shim: &Shim, pid: u32) -> [u64; 2] {
    let mut least = [u64::MAX; 2];
    for _ in 0..5 {
        let before = reads(pid);
        shim.exec("c", "x", &["sh", "-c", "exit 7"]).await.unwrap();
        assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 7);
        let after = reads(pid);
        shim.delete("c", "x").await.unwrap();
        for (least, (before, after)) in least.iter_mut().zip(before.into_iter().zip(after)) {
            *least = (*least).min(after - before);
        }
    }
    least
}

/// An exec costs the same beside any number of strangers whose parent is the shim.
#[test]
fn strangers_cost_an_exec_nothing() {
    const STRANGERS: u64 = 1000;
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, _) = world(runtime, &[]).await;
            container(&mut shim, true).await;
            let pid = shim.pid();
            let [bytes, calls] = cost_of_an_exec(&shim, pid).await;
            let makes =
                format!("i=0; while [ $i -lt {STRANGERS} ]; do (sleep 3000 &); i=$((i+1)); done");
            shim.exec("c", "maker", &["sh", "-c", &makes])
                .await
                .unwrap();
            shim.wait("c", "maker").await.unwrap();
            let [more_bytes, more_calls] = cost_of_an_exec(&shim, pid).await;
            // Not a call for ten of them, nor a line for one. Where the machine takes long to walk over them, who
            // reaps reads the list of their pids instead, a few bytes each (`src/monitor/strangers.rs`).
            assert!(more_calls < calls + STRANGERS / 10, "{calls}, {more_calls}");
            assert!(more_bytes < bytes + 24 * STRANGERS, "{bytes}, {more_bytes}");
            shim.remove("c").await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}
