//! A client that leaves, or whose time is up, in the middle of an operation: it comes to its end
//! all the same, and the next client finds it done.

use std::time::Duration;

use cotter::error::{Code, Result};
use cotter::manager::client::Tasks;
use cotter::manager::events::Event;
use cotter::proto::task::{CreateTaskRequest, DeleteRequest, StartRequest, Status, WaitRequest};

use crate::common::descriptors;
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::runtime::Faulty;
use crate::world::{GOOD, bundle, good_works, later, says, until, world};

/// How a client goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaves {
    /// Its connection ends.
    Connection,
    /// It does not wait longer.
    Deadline,
}

/// Makes a request on a connection of its own and leaves when the runtime has been called.
async fn leave<F>(
    shim: &Shim,
    faulty: &Faulty,
    operation: &str,
    how: Leaves,
    request: impl FnOnce(Tasks) -> F,
) where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let tasks = Tasks::connect(&shim.endpoint).await.unwrap();
    match how {
        Leaves::Connection => {
            let held = later(&tasks, request);
            faulty.arrived(operation).await;
            held.abort();
            drop(tasks);
            assert!(held.await.unwrap_err().is_cancelled());
        }
        Leaves::Deadline => {
            let limited = tasks.within(Duration::from_millis(700));
            later(&limited, request).await.unwrap().unwrap_err();
            faulty.arrived(operation).await;
        }
    }
}

fn fds(shim: &Shim) -> usize {
    descriptors(shim.pid()).len()
}

#[test]
fn operations_end_without_their_client() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            for (how, fault) in [
                (Leaves::Connection, "slow-before"),
                (Leaves::Connection, "slow-after"),
                (Leaves::Deadline, "slow-before"),
            ] {
                let request = bundle(&mut shim, &faulty, "c");
                whole_life(&mut shim, &faulty, how, fault, request).await;
            }
            good_works(&shim).await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

async fn whole_life(
    shim: &mut Shim,
    faulty: &Faulty,
    how: Leaves,
    fault: &str,
    create: CreateTaskRequest,
) {
    faulty.set("create", fault);
    let request = create.clone();
    leave(
        shim,
        faulty,
        "create",
        how,
        move |tasks: Tasks| async move { tasks.create(&request).await.map(drop) },
    )
    .await;
    let again = shim.tasks.create(&create).await.unwrap_err();
    says(
        &again,
        Code::AlreadyExists,
        &["container with given ID already exists"],
    );
    faulty.release(fault);
    shim.events_until(|e| matches!(e, Event::Create(c) if c.container_id == "c"))
        .await;
    until_status(shim, "", Status::CREATED).await;
    let again = shim.tasks.create(&create).await.unwrap_err();
    assert_eq!(again.code, Code::AlreadyExists);

    faulty.set("start", fault);
    leave(shim, faulty, "start", how, |tasks| start(tasks, "")).await;
    faulty.release(fault);
    shim.events_until(|e| matches!(e, Event::Start(s) if s.container_id == "c"))
        .await;
    let again = shim.start_process("c", "").await.unwrap_err();
    says(&again, Code::Unknown, &["cannot start a running process"]);
    until_status(shim, "", Status::RUNNING).await;

    faulty.set("exec", fault);
    shim.tasks
        .exec(&shim.exec_request("c", "x", &["sleep", "1000"]))
        .await
        .unwrap();
    leave(shim, faulty, "exec", how, |tasks| start(tasks, "x")).await;
    faulty.release(fault);
    shim.events_until(|e| matches!(e, Event::ExecStarted(s) if s.exec_id == "x"))
        .await;
    let again = shim.start_process("c", "x").await.unwrap_err();
    says(&again, Code::Unknown, &["cannot start a running process"]);
    until_status(shim, "x", Status::RUNNING).await;
    shim.kill("c", "x", 9).await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 137);
    shim.delete("c", "x").await.unwrap();

    shim.kill("c", "", 9).await.unwrap();
    shim.wait("c", "").await.unwrap();
    faulty.set("delete", fault);
    leave(
        shim,
        faulty,
        "delete",
        how,
        move |tasks: Tasks| async move {
            let request = DeleteRequest {
                id: "c".into(),
                ..Default::default()
            };
            tasks.delete(&request).await.map(drop)
        },
    )
    .await;
    until_status(shim, "", Status::STOPPED).await;
    faulty.release(fault);
    shim.events_until(|e| matches!(e, Event::Delete(d) if d.container_id == "c"))
        .await;
    assert_eq!(shim.delete("c", "").await.unwrap_err().code, Code::NotFound);
    for operation in ["create", "start", "exec", "delete"] {
        faulty.clear(operation);
    }
}

async fn start(tasks: Tasks, exec: &str) -> Result<()> {
    let (id, exec_id) = ("c".into(), exec.into());
    let request = StartRequest {
        id,
        exec_id,
        ..Default::default()
    };
    tasks.start(&request).await.map(drop)
}

async fn until_status(shim: &Shim, exec: &str, expected: Status) {
    let state = shim.state("c", exec).await.unwrap();
    assert_eq!(state.status.enum_value().unwrap(), expected);
}

/// Waits of clients that are gone are gone too, and hold nothing.
#[test]
fn waits_end_with_their_connection() {
    for runtime in RUNTIMES {
        run(async {
            let (shim, _) = world(runtime, &[]).await;
            let idle = fds(&shim);
            let mut clients = Vec::new();
            for _ in 0..10 {
                let tasks = Tasks::connect(&shim.endpoint).await.unwrap();
                let wait = |tasks: Tasks| async move {
                    let request = WaitRequest {
                        id: GOOD.into(),
                        ..Default::default()
                    };
                    tasks.wait(&request).await.map(drop)
                };
                clients.extend((0..5).map(|_| later(&tasks, wait)));
                // Answered after the Waits before it have arrived.
                tasks.connect_task(&Default::default()).await.unwrap();
            }
            assert_eq!(fds(&shim), idle + 10);
            for client in &clients {
                client.abort();
            }
            for client in clients {
                assert!(client.await.unwrap_err().is_cancelled());
            }
            until("the connections are closed", || fds(&shim) == idle).await;
            good_works(&shim).await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}
