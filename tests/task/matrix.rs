//! The matrix of contract A.1: one container from before its Create to after its Delete, and what
//! every call says on the way. Where the Go shim's answer is a bug, the one a client would expect.

use cotter::error::Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unknown};
use cotter::error::Result;
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::proto::Any;
use cotter::proto::task::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, CreateTaskRequest, KillRequest,
    ResizePtyRequest, ShutdownRequest, Status,
};

use crate::client::{NO_TIME, SLEEP, create, lines, pids, refused, with_each_runtime};
use crate::common::shim::Shim;

with_each_runtime! { over_v3, over_v2, over_v2_of_1_6, }

async fn over_v3(runtime: &'static str) {
    in_sequence(Dialect::Proto23, 3, runtime).await;
}

async fn over_v2(runtime: &'static str) {
    in_sequence(Dialect::Json17, 2, runtime).await;
}

async fn over_v2_of_1_6(runtime: &'static str) {
    in_sequence(Dialect::Plain16, 2, runtime).await;
}

/// Matches for both runtimes what moby and others look for in a message.
fn no_such_program(result: Result<u32>, operation: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.code, Unknown, "{error:?}");
    let reason = error.message.strip_prefix(operation);
    let reason = reason.unwrap_or_else(|| panic!("no {operation:?} in front: {error:?}"));
    let known = ["no such file or directory", "executable file"];
    let lower = reason.to_lowercase();
    assert!(
        known.iter().any(|phrase| lower.contains(phrase)),
        "{error:?}"
    );
    assert!(
        reason.contains("/no/such"),
        "the program is named: {error:?}"
    );
}

async fn in_sequence(dialect: Dialect, version: i32, runtime: &'static str) {
    let mut shim = Shim::start_as(dialect, runtime, Spec::new("c", SLEEP), "c").await;
    assert_eq!(shim.tasks.version(), version);
    before_create(&shim).await;
    shim.create("c").await.unwrap();
    created(&shim).await;
    shim.start_process("c", "").await.unwrap();
    running(&shim).await;
    shim.kill("c", "", 9).await.unwrap();
    assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
    stopped(&shim).await;
    let deleted = shim.delete("c", "").await.unwrap();
    assert_eq!(deleted.exit_status, 137);
    refused(
        shim.delete("c", "").await,
        NotFound,
        "container not created: not found",
    );

    let told = shim
        .events_until(|e| matches!(e, cotter::manager::events::Event::Delete(_)))
        .await;
    assert_eq!(
        lines(&told),
        [
            "/tasks/create c",
            "/tasks/exec-added x0",
            "/tasks/start c",
            "/tasks/exec-added x1",
            "/tasks/exec-added x2",
            "/tasks/exec-started x2",
            "/tasks/exit x2 3",
            "/tasks/exec-added late",
            "/tasks/exit c 137",
            "/tasks/delete c 137",
        ]
    );
    assert!(told.iter().all(|told| told.namespace == shim.namespace));
    assert_eq!(shim.end().await, []);
}

async fn before_create(shim: &Shim) {
    let request = ConnectRequest {
        id: "c".into(),
        ..Default::default()
    };
    let connected = shim.tasks.connect_task(&request).await.unwrap();
    assert_eq!((connected.shim_pid, connected.task_pid), (shim.pid(), 0));
    refused(
        shim.state("c", "").await,
        NotFound,
        "container not created: not found",
    );
    refused(
        pids(shim, "c").await,
        NotFound,
        "container not created: not found",
    );
    let request = shim.create_request("c");
    let missing = CreateTaskRequest {
        bundle: "/nonexistent".into(),
        ..request.clone()
    };
    refused(
        create(shim, &missing).await,
        NotFound,
        "/nonexistent/config.json: no such file",
    );
    let pipe = CreateTaskRequest {
        stdout: "npipe://".into(),
        ..request.clone()
    };
    let words = "failed to create init process I/O: unknown STDIO scheme npipe";
    refused(create(shim, &pipe).await, Unknown, words);
    let options = Any {
        type_url: "nope.Foo".into(),
        value: vec![8, 1],
        ..Default::default()
    };
    let unknown = CreateTaskRequest {
        options: Some(options).into(),
        ..request
    };
    refused(
        create(shim, &unknown).await,
        Unknown,
        "type with url nope.Foo: not found",
    );
}

async fn created(shim: &Shim) {
    let again = shim.create("c").await;
    refused(
        again,
        AlreadyExists,
        "OCI runtime create failed: container with given ID already exists",
    );
    let state = shim.state("c", "").await.unwrap();
    assert_eq!(state.status.unwrap(), Status::CREATED);
    assert_eq!(state.exited_at.seconds, NO_TIME);
    refused(
        shim.state("c", "nope").await,
        NotFound,
        "process does not exist nope: not found",
    );
    no_checkpoint(shim, "cannot checkpoint a task in created state").await;

    let request = shim.exec_request("c", "x0", &["true"]);
    shim.tasks.exec(&request).await.unwrap();
    refused(
        shim.tasks.exec(&request).await,
        AlreadyExists,
        "id x0: already exists",
    );
    let mut bad = shim.exec_request("c", "bad", &["true"]);
    bad.spec.mut_or_insert_default().value.truncate(10);
    refused(
        shim.tasks.exec(&bad).await,
        Unknown,
        "unexpected end of JSON input",
    );
    refused(
        shim.kill("c", "x0", 9).await,
        FailedPrecondition,
        "process not created: failed precondition",
    );
    resize(shim, "x0").await.unwrap();
    close_io(shim, "x0").await.unwrap();
    refused(
        close_io(shim, "nope").await,
        NotFound,
        "process does not exist nope: not found",
    );
    let deleted = shim.delete("c", "x0").await.unwrap();
    assert_eq!(
        (deleted.pid, deleted.exit_status, deleted.exited_at.seconds),
        (0, 0, NO_TIME)
    );
}

async fn running(shim: &Shim) {
    refused(
        shim.start_process("c", "").await,
        Unknown,
        "cannot start a running process",
    );
    refused(
        shim.start_process("c", "nope").await,
        NotFound,
        "process does not exist nope: not found",
    );
    refused(
        shim.delete("c", "").await,
        Unknown,
        "cannot delete a running process",
    );
    shim.kill("c", "", 0).await.unwrap();
    refused(
        shim.kill("c", "", 999).await,
        Unknown,
        "unknown error after kill: ",
    );
    refused(
        shim.kill("c", "nope", 9).await,
        NotFound,
        "process does not exist nope: not found",
    );

    no_such_program(
        shim.exec("c", "x1", &["/no/such"]).await,
        "OCI runtime exec failed: ",
    );
    assert_eq!(
        shim.state("c", "x1").await.unwrap().status.unwrap(),
        Status::CREATED
    );
    let waited = shim.wait("c", "x1").await.unwrap();
    assert_eq!((waited.exit_status, waited.exited_at.seconds), (0, NO_TIME));
    shim.delete("c", "x1").await.unwrap();

    shim.exec("c", "x2", &["sh", "-c", "exit 3"]).await.unwrap();
    assert_eq!(shim.wait("c", "x2").await.unwrap().exit_status, 3);
    refused(
        shim.kill("c", "x2", 9).await,
        NotFound,
        "process already finished: not found",
    );
    refused(
        shim.start_process("c", "x2").await,
        Unknown,
        "cannot start a stopped process",
    );
    refused(
        resize(shim, "x2").await,
        Unknown,
        "cannot resize a stopped container",
    );
    shim.delete("c", "x2").await.unwrap();
    refused(
        shim.delete("c", "x2").await,
        NotFound,
        "process does not exist x2: not found",
    );
    shim.tasks
        .shutdown(&ShutdownRequest::default())
        .await
        .unwrap();
    shim.tasks
        .exec(&shim.exec_request("c", "late", &["true"]))
        .await
        .unwrap();
}

async fn stopped(shim: &Shim) {
    assert_eq!(
        shim.state("c", "").await.unwrap().status.unwrap(),
        Status::STOPPED
    );
    refused(
        shim.kill("c", "", 9).await,
        NotFound,
        "process already finished: not found",
    );
    let all = KillRequest {
        id: "c".into(),
        signal: 9,
        all: true,
        ..Default::default()
    };
    shim.tasks.kill(&all).await.unwrap();
    let exec = shim.exec_request("c", "x", &["true"]);
    refused(
        shim.tasks.exec(&exec).await,
        Unknown,
        "cannot exec in a stopped state",
    );
    let words = "container c init process is not running: failed precondition";
    refused(
        shim.start_process("c", "late").await,
        FailedPrecondition,
        words,
    );
    refused(
        shim.start_process("c", "").await,
        Unknown,
        "cannot start a stopped process",
    );
    let left = pids(shim, "c").await.unwrap().processes;
    let init = shim.state("c", "").await.unwrap().pid;
    assert_eq!(left.iter().map(|p| p.pid).collect::<Vec<_>>(), [init]);
    no_checkpoint(shim, "cannot checkpoint a stopped container").await;
    let none = shim.exec_request("c", "", &["true"]);
    refused(
        shim.tasks.exec(&none).await,
        InvalidArgument,
        "exec id is empty",
    );
}

async fn no_checkpoint(shim: &Shim, words: &str) {
    let checkpoint = CheckpointTaskRequest {
        id: "c".into(),
        ..Default::default()
    };
    refused(shim.tasks.checkpoint(&checkpoint).await, Unknown, words);
}

async fn resize(shim: &Shim, exec: &str) -> Result<()> {
    let (id, exec_id) = ("c".into(), exec.into());
    let request = ResizePtyRequest {
        id,
        exec_id,
        width: 80,
        height: 25,
        ..Default::default()
    };
    shim.tasks.resize_pty(&request).await.map(drop)
}

async fn close_io(shim: &Shim, exec: &str) -> Result<()> {
    let (id, exec_id) = ("c".into(), exec.into());
    let request = CloseIORequest {
        id,
        exec_id,
        stdin: true,
        ..Default::default()
    };
    shim.tasks.close_io(&request).await.map(drop)
}
