//! The service as such: what it does not know, empty and broken messages, unknown ids, Shutdown.

use cotter::error::Code::{InvalidArgument, NotFound, Unimplemented, Unknown};
use cotter::error::{Code, Error, Result};
use cotter::manager::dialect::Dialect;
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::proto::task::*;
use ttrpc::r#async::Client;

use crate::client::{SLEEP, create, refused, with_each_runtime, works};
use crate::common::shim::{METHODS, Shim};

with_each_runtime! {
    unknown_services_and_methods, broken_messages, empty_messages, unknown_ids,
    shutdown_waits_for_the_last_container, events_go_where_the_request_says,
}

const V3: &str = "containerd.task.v3.Task";
const V2: &str = "containerd.task.v2.Task";

/// A call as bytes.
async fn call(client: &Client, service: &str, method: &str, payload: &[u8]) -> Result<Vec<u8>> {
    let mut request = ttrpc::Request::new();
    request.set_service(service.into());
    request.set_method(method.into());
    request.set_timeout_nano(30_000_000_000);
    request.set_payload(payload.to_vec());
    match client.request(request).await {
        Ok(response) => Ok(response.payload),
        Err(ttrpc::Error::RpcStatus(status)) => {
            let code = match status.code() {
                ttrpc::Code::INVALID_ARGUMENT => InvalidArgument,
                ttrpc::Code::NOT_FOUND => NotFound,
                ttrpc::Code::UNIMPLEMENTED => Unimplemented,
                ttrpc::Code::UNKNOWN => Unknown,
                other => panic!("{method}: {other:?} {}", status.message),
            };
            Err(Error::new(code, status.message))
        }
        Err(other) => panic!("{method}: {other}"),
    }
}

async fn running(runtime: &str) -> (Shim, Client) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    let client = Client::connect(&shim.endpoint.address).await.unwrap();
    (shim, client)
}

async fn end(shim: Shim) {
    works(&shim, "c").await;
    shim.remove("c").await;
    shim.end().await;
}

async fn unknown_services_and_methods(runtime: &'static str) {
    let (shim, client) = running(runtime).await;
    for (service, method) in [(V3, "Teleport"), (V2, "Teleport"), (V3, ""), (V3, "state")] {
        refused(
            call(&client, service, method, b"").await,
            Unimplemented,
            method,
        );
    }
    // Whatever it is called, and whatever else is under way on the connection.
    let long = format!("containerd.{}.Task", "x".repeat(300));
    for _ in 0..3 {
        for service in [
            "",
            "x",
            "containerd.task.v1.Task",
            "containerd.task.v4.Task",
            "containerd.runtime.sandbox.v1.Sandbox",
            &long,
        ] {
            let unknown = call(&client, service, "State", b"");
            let known = call(&client, V3, "State", b"\x0a\x01c");
            let (unknown, known) = tokio::join!(unknown, known);
            refused(unknown, Unimplemented, service);
            known.unwrap();
        }
    }
    end(shim).await;
}

async fn broken_messages(runtime: &'static str) {
    let (shim, client) = running(runtime).await;
    for service in [V3, V2] {
        for method in METHODS {
            // Not a tag; a length beyond the end; an id that is no UTF-8.
            for payload in [&[0xff_u8; 16][..], b"\x0a\x7fc", b"\x0a\x02\xc3\x28"] {
                // Connect and Shutdown may come to an answer only by refusing, too.
                refused(call(&client, service, method, payload).await, Unknown, "");
            }
        }
    }
    end(shim).await;
}

/// No id, no field: nothing is found, and nothing happens.
async fn empty_messages(runtime: &'static str) {
    let (shim, client) = running(runtime).await;
    for service in [V3, V2] {
        for method in METHODS {
            let answer = call(&client, service, method, b"").await;
            match method {
                "Connect" | "Shutdown" => drop(answer.unwrap()),
                "Create" => refused(answer, InvalidArgument, "container id is empty"),
                _ => refused(answer, NotFound, "container not created: not found"),
            }
        }
    }
    end(shim).await;
}

/// Every method, for a container that is not there and for an exec that is not there.
async fn unknown_ids(runtime: &'static str) {
    let (shim, _client) = running(runtime).await;
    let tasks = &shim.tasks;
    macro_rules! unknown {
        ($($method:ident($request:ident $(, $exec:ident)?);)*) => {$(
            let mut request = $request { id: "nobody".into(), ..Default::default() };
            let answer = tasks.$method(&request).await;
            refused(answer, NotFound, "container not created: not found");
            request.id = "../c".into();
            refused(tasks.$method(&request).await, NotFound, "container not created: not found");
            $(
                request.id = "c".into();
                request.$exec = "nothing".into();
                let answer = tasks.$method(&request).await;
                refused(answer, NotFound, "process does not exist nothing: not found");
                request.$exec = "../init".into();
                let answer = tasks.$method(&request).await;
                refused(answer, NotFound, "process does not exist ../init: not found");
            )?
        )*};
    }
    unknown! {
        state(StateRequest, exec_id);
        start(StartRequest, exec_id);
        delete(DeleteRequest, exec_id);
        kill(KillRequest, exec_id);
        resize_pty(ResizePtyRequest, exec_id);
        close_io(CloseIORequest, exec_id);
        wait(WaitRequest, exec_id);
        exec(ExecProcessRequest);
        pids(PidsRequest);
        pause(PauseRequest);
        resume(ResumeRequest);
        checkpoint(CheckpointTaskRequest);
        update(UpdateTaskRequest);
        stats(StatsRequest);
    }
    let connect = ConnectRequest {
        id: "nobody".into(),
        ..Default::default()
    };
    assert_eq!(tasks.connect_task(&connect).await.unwrap().task_pid, 0);
    end(shim).await;
}

/// Asked to end while it has a container in whatever state, it stays; with none, it goes. A failed
/// Create counts for nothing (contract 10.2: Delete finds nothing, Shutdown ends the shim).
async fn shutdown_waits_for_the_last_container(runtime: &'static str) {
    let patient = [("COTTER_LIMIT_LEAVE", "10m")];
    let spec = Spec::new("c", SLEEP);
    let mut shim = Shim::start_with(Dialect::Proto23, runtime, spec, "c", &patient).await;
    let now = ShutdownRequest {
        id: "c".into(),
        now: true,
        ..Default::default()
    };
    let pid = shim.create("c").await.unwrap();
    shim.tasks.shutdown(&now).await.unwrap();
    shim.start_process("c", "").await.unwrap();
    shim.tasks.shutdown(&now).await.unwrap();
    works(&shim, "c").await;
    shim.kill("c", "", 9).await.unwrap();
    shim.wait("c", "").await.unwrap();
    shim.tasks.shutdown(&now).await.unwrap();
    assert_eq!(shim.state("c", "").await.unwrap().pid, pid);
    shim.delete("c", "").await.unwrap();

    shim.bundle("f", Spec::new("f", ["/no/such"]));
    let failed = create(&shim, &shim.create_request("f")).await.unwrap_err();
    assert_eq!(failed.code, Code::Unknown, "{failed:?}");
    refused(
        shim.delete("f", "").await,
        NotFound,
        "container not created: not found",
    );
    // Asks for the end once more, and checks that it comes.
    shim.end().await;
}

/// A manager of 2.3 says in the request of the start where its events go. What the shim inherited as
/// environment may be that of another.
async fn events_go_where_the_request_says(runtime: &'static str) {
    let elsewhere = [("TTRPC_ADDRESS", "/nonexistent/events.sock")];
    let spec = Spec::new("c", SLEEP);
    let mut shim = Shim::start_with(Dialect::Proto23, runtime, spec, "c", &elsewhere).await;
    shim.run("c", &SLEEP).await;
    shim.remove("c").await;
    let told = shim.events_until(|e| matches!(e, Event::Delete(_))).await;
    let topics: Vec<_> = told.iter().map(|told| told.topic.as_str()).collect();
    let life = ["create", "start", "exit", "delete"].map(|topic| format!("/tasks/{topic}"));
    assert_eq!(topics, life);
    shim.end().await;
}
