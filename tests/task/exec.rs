//! Exec: ids, the states of the container in which one is registered and started, failed starts,
//! and a process spec that reaches the runtime as it was written.

use std::fs;

use cotter::error::Code::{AlreadyExists, FailedPrecondition, NotFound, Unknown};
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::proto::Any;
use cotter::proto::task::{ExecProcessRequest, Status};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{
    NO_TIME, SLEEP, contents, lines, pids, refused, until, until_catches, until_runs,
    with_each_runtime, works,
};
use crate::common::shim::Shim;
use crate::common::tool;

with_each_runtime! {
    an_id_names_one_process, of_many_at_once_one_wins, an_exec_called_init,
    an_exec_called_as_the_container, in_a_created_container, in_a_stopped_container,
    a_failed_start_can_be_tried_again, deleted_before_start, unknown_fields_survive,
    many_starts_of_one,
}

async fn running(runtime: &str) -> Shim {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    shim
}

async fn register(shim: &Shim, exec: &str, args: &[&str]) {
    shim.tasks
        .exec(&shim.exec_request("c", exec, args))
        .await
        .unwrap();
}

/// Deletes the container and ends the shim; answers all events that nobody has taken, as lines.
async fn end(mut shim: Shim) -> Vec<String> {
    shim.remove("c").await;
    let told = shim
        .events_until(|event| matches!(event, Event::Delete(_)))
        .await;
    assert_eq!(shim.end().await, []);
    lines(&told)
}

/// Taken from Exec to Delete, in every state between; then free for another process.
async fn an_id_names_one_process(runtime: &'static str) {
    let shim = running(runtime).await;
    let again = shim.exec_request("c", "x", &["false"]);
    for status in [3, 4] {
        register(
            &shim,
            "x",
            &[
                "sh",
                "-c",
                &format!("trap 'exit {status}' TERM; while :; do sleep 0.01; done"),
            ],
        )
        .await;
        refused(
            shim.tasks.exec(&again).await,
            AlreadyExists,
            "id x: already exists",
        );
        let pid = shim.start_process("c", "x").await.unwrap();
        refused(
            shim.tasks.exec(&again).await,
            AlreadyExists,
            "id x: already exists",
        );
        refused(
            shim.delete("c", "x").await,
            Unknown,
            "cannot delete a running process",
        );
        until_catches(pid, 15).await;
        shim.kill("c", "x", 15).await.unwrap();
        assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, status);
        refused(
            shim.tasks.exec(&again).await,
            AlreadyExists,
            "id x: already exists",
        );
        assert_eq!(shim.delete("c", "x").await.unwrap().pid, pid);
    }
    let added = ["/tasks/exec-added x", "/tasks/exec-started x"];
    let told = end(shim).await;
    assert_eq!(told[2..5], [added[0], added[1], "/tasks/exit x 3"]);
    assert_eq!(told[5..8], [added[0], added[1], "/tasks/exit x 4"]);
    assert_eq!(told.len(), 10);
}

async fn of_many_at_once_one_wins(runtime: &'static str) {
    let shim = running(runtime).await;
    let mut set = JoinSet::new();
    for _ in 0..16 {
        let (tasks, request) = (shim.tasks.clone(), shim.exec_request("c", "x", &["true"]));
        set.spawn(async move { tasks.exec(&request).await });
    }
    let answers = set.join_all().await;
    assert_eq!(
        answers.iter().filter(|answer| answer.is_ok()).count(),
        1,
        "{answers:?}"
    );
    shim.start_process("c", "x").await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 0);
    let told = end(shim).await;
    assert_eq!(
        told.iter()
            .filter(|line| line.contains("exec-added"))
            .count(),
        1
    );
}

/// Starts of one exec at the same time: one starts it, and it exits once.
async fn many_starts_of_one(runtime: &'static str) {
    let shim = running(runtime).await;
    register(&shim, "x", &SLEEP).await;
    let mut set = JoinSet::new();
    for _ in 0..8 {
        let (tasks, exec_id) = (shim.tasks.clone(), "x".to_owned());
        let request = cotter::proto::task::StartRequest {
            id: "c".into(),
            exec_id,
            ..Default::default()
        };
        set.spawn(async move { tasks.start(&request).await });
    }
    let (started, other): (Vec<_>, Vec<_>) = set
        .join_all()
        .await
        .into_iter()
        .partition(|answer| answer.is_ok());
    assert_eq!(started.len(), 1, "{other:?}");
    for answer in other {
        refused(answer, Unknown, "cannot start a running process");
    }
    shim.kill("c", "x", 9).await.unwrap();
    shim.wait("c", "x").await.unwrap();
    works(&shim, "c").await;
    let told = end(shim).await;
    assert_eq!(
        told.iter()
            .filter(|line| line.ends_with("/tasks/exit x 137"))
            .count(),
        1
    );
}

/// Its pid file is not the init's.
async fn an_exec_called_init(runtime: &'static str) {
    let shim = running(runtime).await;
    let before = contents(&shim.bundle_path("c"));
    assert!(
        before
            .iter()
            .any(|(name, _, text)| name == "init.pid" && !text.is_empty())
    );
    let pid = shim.exec("c", "init", &SLEEP).await.unwrap();
    assert_eq!(contents(&shim.bundle_path("c")), before);
    assert_ne!(pid, shim.state("c", "").await.unwrap().pid);
    shim.kill("c", "init", 9).await.unwrap();
    assert_eq!(shim.wait("c", "init").await.unwrap().exit_status, 137);
    shim.delete("c", "init").await.unwrap();
    assert_eq!(contents(&shim.bundle_path("c")), before);
    works(&shim, "c").await;
    end(shim).await;
}

/// No call takes one for the other.
async fn an_exec_called_as_the_container(runtime: &'static str) {
    let shim = running(runtime).await;
    let init = shim.state("c", "").await.unwrap().pid;
    let exec = shim.exec("c", "c", &SLEEP).await.unwrap();
    assert_eq!(shim.state("c", "c").await.unwrap().pid, exec);
    shim.kill("c", "c", 9).await.unwrap();
    assert_eq!(shim.wait("c", "c").await.unwrap().exit_status, 137);
    shim.delete("c", "c").await.unwrap();
    let state = shim.state("c", "").await.unwrap();
    assert_eq!((state.pid, state.status.unwrap()), (init, Status::RUNNING));
    works(&shim, "c").await;
    end(shim).await;
}

/// Registered before the container runs; what its runtime makes of a start then is the runtime's.
async fn in_a_created_container(runtime: &'static str) {
    let shim = Shim::start(runtime, "c", &SLEEP).await;
    let init = shim.create("c").await.unwrap();
    register(&shim, "x", &["sh", "-c", "exit 6"]).await;
    register(&shim, "y", &["true"]).await;
    assert_eq!(
        shim.state("c", "x").await.unwrap().status.unwrap(),
        Status::CREATED
    );
    shim.delete("c", "y").await.unwrap();
    match shim.start_process("c", "x").await {
        Ok(_) => {}
        Err(refusal) => {
            refused::<()>(Err(refusal), Unknown, "OCI runtime exec failed: ");
            assert_eq!(
                shim.state("c", "").await.unwrap().status.unwrap(),
                Status::CREATED
            );
            shim.start_process("c", "").await.unwrap();
            shim.start_process("c", "x").await.unwrap();
        }
    }
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 6);
    shim.delete("c", "x").await.unwrap();
    let state = shim.state("c", "").await.unwrap();
    assert_eq!(state.pid, init);
    if state.status.unwrap() == Status::CREATED {
        shim.start_process("c", "").await.unwrap();
    }
    works(&shim, "c").await;
    end(shim).await;
}

async fn in_a_stopped_container(runtime: &'static str) {
    let shim = running(runtime).await;
    register(&shim, "x", &["true"]).await;
    register(&shim, "y", &["true"]).await;
    shim.kill("c", "", 9).await.unwrap();
    shim.wait("c", "").await.unwrap();
    let request = shim.exec_request("c", "z", &["true"]);
    refused(
        shim.tasks.exec(&request).await,
        Unknown,
        "cannot exec in a stopped state",
    );
    refused(
        shim.state("c", "z").await,
        NotFound,
        "process does not exist z",
    );
    let words = "container c init process is not running: failed precondition";
    for _ in 0..2 {
        refused(
            shim.start_process("c", "x").await,
            FailedPrecondition,
            words,
        );
        assert_eq!(
            shim.state("c", "x").await.unwrap().status.unwrap(),
            Status::CREATED
        );
    }
    let deleted = shim.delete("c", "x").await.unwrap();
    assert_eq!(
        (deleted.pid, deleted.exit_status, deleted.exited_at.seconds),
        (0, 0, NO_TIME)
    );
    let told = end(shim).await;
    let added = ["/tasks/exec-added x", "/tasks/exec-added y"];
    assert_eq!(
        told[2..],
        [
            added[0],
            added[1],
            "/tasks/exit c 137",
            "/tasks/delete c 137"
        ]
    );
}

/// A failed start is no event and no harm (the Go shim dies of the second).
async fn a_failed_start_can_be_tried_again(runtime: &'static str) {
    let shim = running(runtime).await;
    let before = contents(&shim.bundle_path("c"));
    register(&shim, "x", &["/run/late"]).await;
    register(&shim, "never", &["/no/such"]).await;
    for exec in ["x", "x", "never", "x", "never"] {
        refused(
            shim.start_process("c", exec).await,
            Unknown,
            "OCI runtime exec failed: ",
        );
        let state = shim.state("c", exec).await.unwrap();
        assert_eq!((state.pid, state.status.unwrap()), (0, Status::CREATED));
        // The runtime does not wait for the end of the process that found no program.
        let alone = async || pids(&shim, "c").await.unwrap().processes.len() == 1;
        until("init is alone", alone).await;
    }
    let refusal = shim.kill("c", "x", 9).await;
    refused(
        refusal,
        FailedPrecondition,
        "process not created: failed precondition",
    );
    assert_eq!(names(contents(&shim.bundle_path("c"))), names(before));
    let script = "printf '#!/bin/sh\\nexit 8\\n' >/run/late && chmod +x /run/late";
    shim.exec("c", "make", &["sh", "-c", script]).await.unwrap();
    assert_eq!(shim.wait("c", "make").await.unwrap().exit_status, 0);
    shim.start_process("c", "x").await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 8);
    for exec in ["x", "never", "make"] {
        shim.delete("c", exec).await.unwrap();
    }
    works(&shim, "c").await;
    let told = end(shim).await;
    let of_x: Vec<&String> = told.iter().filter(|line| line.contains(" x")).collect();
    assert_eq!(
        of_x,
        [
            "/tasks/exec-added x",
            "/tasks/exec-started x",
            "/tasks/exit x 8"
        ]
    );
    assert_eq!(
        told.iter().filter(|line| line.contains(" never")).count(),
        1
    );
}

fn names(all: Vec<(String, u64, String)>) -> Vec<String> {
    all.into_iter()
        .map(|(name, ..)| name)
        .filter(|name| name != "log.json")
        .collect()
}

async fn deleted_before_start(runtime: &'static str) {
    let shim = running(runtime).await;
    register(&shim, "x", &["true"]).await;
    let deleted = shim.delete("c", "x").await.unwrap();
    assert_eq!(
        (deleted.pid, deleted.exit_status, deleted.exited_at.seconds),
        (0, 0, NO_TIME)
    );
    refused(
        shim.delete("c", "x").await,
        NotFound,
        "process does not exist x",
    );
    refused(
        shim.start_process("c", "x").await,
        NotFound,
        "process does not exist x",
    );
    refused(
        shim.wait("c", "x").await,
        NotFound,
        "process does not exist x",
    );
    works(&shim, "c").await;
    end(shim).await;
}

/// Through a runtime that keeps what it is given: all fields arrive, known to us or not, numbers as
/// large as they were, in their order; only `terminal` is the request's.
async fn unknown_fields_survive(runtime: &'static str) {
    let dir = crate::common::TempDir::new("cotter-keep");
    let wrapper = dir.path().join("runtime");
    let script = format!(
        "#!/bin/sh\nprevious=\nfor argument; do\n\
         [ \"$previous\" = --process ] && cat \"$argument\" >{}\n\
         previous=$argument\ndone\nexec {} \"$@\"\n",
        dir.path().join("process").display(),
        tool(runtime).display(),
    );
    crate::common::write_program(&wrapper, script);
    let mut shim = Shim::start(wrapper.to_str().unwrap(), "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;

    let mut process = Spec::new("c", ["sh", "-c", "test \"$WORD\" = 'a  \"b\" ü'"]).process();
    process["env"]
        .as_array_mut()
        .unwrap()
        .push(json!("WORD=a  \"b\" ü"));
    process["terminal"] = json!(true);
    process["zebra"] = json!({"unknown": [1, 2.5, null, {"deep": "\u{1}\u{fffd}"}]});
    process["aardvark"] = json!(u64::MAX);
    process["rlimits"] = json!([{"type": "RLIMIT_CORE", "hard": u64::MAX, "soft": u64::MAX}]);
    let spec = Any {
        value: process.to_string().into_bytes(),
        ..Default::default()
    };
    let request = ExecProcessRequest {
        spec: Some(spec).into(),
        ..shim.exec_request("c", "x", &[])
    };
    shim.tasks.exec(&request).await.unwrap();
    shim.start_process("c", "x").await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 0);
    let kept: Value =
        serde_json::from_slice(&fs::read(dir.path().join("process")).unwrap()).unwrap();
    process["terminal"] = json!(false);
    // As text, so that order counts.
    assert_eq!(kept.to_string(), process.to_string());
    let pid = shim.exec("c", "y", &SLEEP).await.unwrap();
    until_runs(pid, "sleep").await;
    end(shim).await;
}
