//! Kill: who gets the signal, in which state of a container, and who does not.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use cotter::error::Code::{NotFound, Unknown};
use cotter::error::Result;
use cotter::manager::dialect::Dialect;
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::proto::task::{KillRequest, Status};

use crate::client::{
    SLEEP, lines, pids, refused, until, until_catches, until_runs, with_each_runtime, works,
};
use crate::common::shim::Shim;
use crate::common::tool;

with_each_runtime! {
    of_an_init, of_a_created_container, all_of_a_container, all_with_the_hosts_pids,
    all_is_not_for_execs, one_exec_of_many, after_the_end, without_the_runtime, frozen_by_hand,
}

async fn kill_all(shim: &Shim, exec: &str, signal: u32) -> Result<()> {
    let (id, exec_id) = ("c".into(), exec.into());
    let request = KillRequest {
        id,
        exec_id,
        signal,
        all: true,
        ..Default::default()
    };
    shim.tasks.kill(&request).await.map(drop)
}

/// A signal that it handles; signal 0, and those that are none, change nothing.
async fn of_an_init(runtime: &'static str) {
    let args = [
        "sh",
        "-c",
        "trap 'exit 7' TERM; while :; do sleep 0.01; done",
    ];
    let mut shim = Shim::start(runtime, "c", &args).await;
    let pid = shim.run("c", &args).await;
    until_catches(pid, 15).await;
    for _ in 0..2 {
        shim.kill("c", "", 0).await.unwrap();
        for signal in [65, 999, 1 << 20, i32::MAX as u32, 1 << 31, u32::MAX] {
            refused(
                shim.kill("c", "", signal).await,
                Unknown,
                "unknown error after kill: ",
            );
        }
    }
    works(&shim, "c").await;
    shim.kill("c", "", 15).await.unwrap();
    assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 7);
    shim.delete("c", "").await.unwrap();
    shim.end().await;
}

/// It never ran, but it is killed, exits and is deleted like any other.
async fn of_a_created_container(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.create("c").await.unwrap();
    shim.kill("c", "", 0).await.unwrap();
    refused(
        shim.kill("c", "", 999).await,
        Unknown,
        "unknown error after kill: ",
    );
    assert_eq!(
        shim.state("c", "").await.unwrap().status.unwrap(),
        Status::CREATED
    );
    shim.kill("c", "", 9).await.unwrap();
    assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
    assert_eq!(
        shim.state("c", "").await.unwrap().status.unwrap(),
        Status::STOPPED
    );
    refused(
        shim.start_process("c", "").await,
        Unknown,
        "cannot start a stopped process",
    );
    refused(
        shim.kill("c", "", 9).await,
        NotFound,
        "process already finished: not found",
    );
    shim.delete("c", "").await.unwrap();
    let told = shim
        .events_until(|event| matches!(event, Event::Delete(_)))
        .await;
    assert_eq!(
        lines(&told),
        [
            "/tasks/create c",
            "/tasks/exit c 137",
            "/tasks/delete c 137"
        ]
    );
    shim.end().await;
}

/// Init, execs and their children; each exec has its own exit, before the init's.
async fn all_of_a_container(runtime: &'static str) {
    let shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    ends_with_all(shim).await;
}

/// Nobody but the runtime finds them all there.
async fn all_with_the_hosts_pids(runtime: &'static str) {
    let spec = Spec {
        host_pids: true,
        ..Spec::new("c", SLEEP)
    };
    let shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    ends_with_all(shim).await;
}

async fn ends_with_all(mut shim: Shim) {
    for exec in ["x", "y"] {
        shim.exec("c", exec, &["sh", "-c", "sleep 1000 & wait"])
            .await
            .unwrap();
    }
    until("both have a child", async || {
        pids(&shim, "c").await.unwrap().processes.len() == 5
    })
    .await;
    kill_all(&shim, "", 0).await.unwrap();
    assert_eq!(pids(&shim, "c").await.unwrap().processes.len(), 5);
    kill_all(&shim, "", 9).await.unwrap();
    for process in ["x", "y", ""] {
        assert_eq!(shim.wait("c", process).await.unwrap().exit_status, 137);
    }
    // Of what has ended, init is named.
    let init = shim.state("c", "").await.unwrap().pid;
    until("none is left", async || {
        let left = pids(&shim, "c").await.unwrap().processes;
        left.len() == 1 && left[0].pid == init
    })
    .await;
    shim.delete("c", "").await.unwrap();
    let told = shim
        .events_until(|event| matches!(event, Event::Delete(_)))
        .await;
    let told = lines(&told);
    let mut exits = told[6..8].to_vec();
    exits.sort();
    assert_eq!(exits, ["/tasks/exit x 137", "/tasks/exit y 137"]);
    assert_eq!(told[8..], ["/tasks/exit c 137", "/tasks/delete c 137"]);
    shim.end().await;
}

/// `all` with an exec means that exec, as in the Go shim.
async fn all_is_not_for_execs(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    for exec in ["x", "y"] {
        shim.exec("c", exec, &SLEEP).await.unwrap();
    }
    kill_all(&shim, "x", 9).await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 137);
    assert_eq!(
        shim.state("c", "y").await.unwrap().status.unwrap(),
        Status::RUNNING
    );
    works(&shim, "c").await;
    shim.remove("c").await;
    shim.end().await;
}

/// The one that is meant, out of many alike, in an order of our choice.
async fn one_exec_of_many(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    let names: Vec<String> = (0..8).map(|n| format!("x{n}")).collect();
    for name in &names {
        let pid = shim.exec("c", name, &SLEEP).await.unwrap();
        until_runs(pid, "sleep").await;
    }
    let mut left = names;
    while !left.is_empty() {
        let name = left.swap_remove(left.len() / 2);
        shim.kill("c", &name, 15).await.unwrap();
        assert_eq!(shim.wait("c", &name).await.unwrap().exit_status, 143);
        for other in &left {
            let status = shim.state("c", other).await.unwrap().status.unwrap();
            assert_eq!(status, Status::RUNNING, "{other} after {name}");
        }
        let seen = pids(&shim, "c").await.unwrap().processes.len();
        assert_eq!(seen, left.len() + 1);
    }
    shim.remove("c").await;
    shim.end().await;
}

/// A running container is sent signals though its runtime is gone; what the runtime alone can do, or
/// can say, it is asked for.
async fn without_the_runtime(runtime: &'static str) {
    let args = [
        "sh",
        "-c",
        "trap 'exit 7' TERM; while :; do sleep 0.01; done",
    ];
    let mut shim = Shim::start(runtime, "c", &args).await;
    let bin = shim.dir().join("bin");
    let binary = bin.join(runtime.to_lowercase());
    fs::create_dir(&bin).unwrap();
    symlink(tool(runtime), &binary).unwrap();
    shim.options.binary_name = binary.to_string_lossy().into_owned();
    let pid = shim.run("c", &args).await;
    until_catches(pid, 15).await;

    fs::remove_file(&binary).unwrap();
    until("it is not young any more", async || {
        shim.kill("c", "", 0).await.is_ok()
    })
    .await;
    kill_all(&shim, "", 15).await.unwrap_err();
    shim.kill("c", "", 65).await.unwrap_err();
    assert_eq!(
        shim.state("c", "").await.unwrap().status.unwrap(),
        Status::RUNNING
    );
    shim.kill("c", "", 15).await.unwrap();
    assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 7);

    symlink(tool(runtime), &binary).unwrap();
    shim.delete("c", "").await.unwrap();
    shim.end().await;
}

/// On cgroup v1 the frozen do not die, and runc lets one go that somebody else froze; crun does not.
async fn frozen_by_hand(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    let by_hand = |verb: &str| {
        let mut command = std::process::Command::new(tool(runtime));
        let state = shim.state_dir();
        command.arg("--root").arg(state).args([verb, "c"]).status()
    };
    assert!(by_hand("pause").unwrap().success());
    // Old enough to be signalled without the runtime, were it not frozen.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    shim.kill("c", "", 9).await.unwrap();
    if runtime == "CRUN" {
        // It may be gone by now.
        by_hand("resume").unwrap();
    }
    assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
    shim.delete("c", "").await.unwrap();
    shim.end().await;
}

/// Whatever the signal: it has finished. With `all` that is no error (contract A.1).
async fn after_the_end(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    shim.exec("c", "x", &["true"]).await.unwrap();
    shim.wait("c", "x").await.unwrap();
    for signal in [0, 9, 15, 64] {
        refused(
            shim.kill("c", "x", signal).await,
            NotFound,
            "process already finished: not found",
        );
        refused(
            kill_all(&shim, "x", signal).await,
            NotFound,
            "process already finished: not found",
        );
    }
    shim.kill("c", "", 9).await.unwrap();
    shim.wait("c", "").await.unwrap();
    for signal in [0, 9, 15, 64] {
        refused(
            shim.kill("c", "", signal).await,
            NotFound,
            "process already finished: not found",
        );
    }
    kill_all(&shim, "", 9).await.unwrap();
    shim.delete("c", "").await.unwrap();
    refused(
        shim.kill("c", "", 9).await,
        NotFound,
        "container not created: not found",
    );
    shim.end().await;
}
