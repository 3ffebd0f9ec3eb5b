//! A runtime that never ends, with a child that holds its streams, before and after the work: the
//! limit ends it, and what the limit left of it. The limit is the operator's, by the environment.

use cotter::error::{Code, Error};
use cotter::manager::spec::Spec;
use cotter::proto::task::{CreateTaskRequest, StartRequest, Status};

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::runtime::Faulty;
use crate::world::{GOOD, answers, bundle, census, good_works, nothing_new, says, world};

/// Well above what a call takes that does not hang, on a loaded machine.
const LIMITS: [(&str, &str); 2] = [
    ("COTTER_LIMIT_RUNTIME_CALL", "5s"),
    ("COTTER_LIMIT_IO_DRAIN", "soon"),
];

/// A container of its own runtime.
async fn container(shim: &mut Shim, id: &str, started: bool) -> Faulty {
    let faulty = Faulty::new(shim, id);
    shim.bundle(id, Spec::new(id, ["sleep", "1000"]));
    shim.tasks
        .create(&faulty.create_request(shim, id))
        .await
        .unwrap();
    if started {
        shim.start_process(id, "").await.unwrap();
    }
    faulty
}

fn ended_by_limit(error: &Error, operation: &str, id: &str) {
    let what = format!("OCI runtime {operation} failed: ");
    let why = format!("{operation} of \"{id}\" did not end within 5s and was killed");
    says(error, Code::DeadlineExceeded, &[&what, &why]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn hanging_calls_end_at_their_limit() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, _) = world(runtime, &LIMITS).await;
            let garbage = "COTTER_LIMIT_IO_DRAIN=";
            assert!(
                shim.log().iter().any(|line| line.contains(garbage)),
                "{:#?}",
                shim.log()
            );

            let start = container(&mut shim, "start", false).await;
            let start_after = container(&mut shim, "start2", false).await;
            let exec = container(&mut shim, "exec", true).await;
            let exec_after = container(&mut shim, "exec2", true).await;
            let kill = container(&mut shim, "kill", true).await;
            let delete = container(&mut shim, "delete", true).await;
            shim.kill("delete", "", 9).await.unwrap();
            shim.wait("delete", "").await.unwrap();
            for id in ["exec", "exec2"] {
                shim.tasks
                    .exec(&shim.exec_request(id, "x", &["sleep", "1000"]))
                    .await
                    .unwrap();
            }
            let (create, create_after) =
                (Faulty::new(&shim, "create"), Faulty::new(&shim, "create2"));
            let requests: [CreateTaskRequest; 2] = [
                bundle(&mut shim, &create, "create"),
                bundle(&mut shim, &create_after, "create2"),
            ];
            let before = census(&shim);

            create.set("create", "hang");
            create_after.set("create", "hang-after");
            start.set("start", "hang");
            start_after.set("start", "hang-after");
            exec.set("exec", "hang");
            exec_after.set("exec", "hang-after");
            kill.set("kill", "hang");
            delete.set("delete", "hang");
            // Longer than the limit even with the clean-up behind it.
            let tasks = shim.tasks.within(None);
            let started = |id: &str, exec: &str| {
                let request = StartRequest {
                    id: id.into(),
                    exec_id: exec.into(),
                    ..Default::default()
                };
                let tasks = &tasks;
                async move { tasks.start(&request).await.unwrap_err() }
            };
            let meanwhile = async {
                for faulty in [&start, &start_after] {
                    faulty.arrived("start").await;
                }
                for id in ["start", "start2", "exec", "exec2", "kill"] {
                    answers(&shim, id).await;
                }
                good_works(&shim).await;
            };
            let (a, b, c, e, f, g, h, (), ()) = tokio::join!(
                async { tasks.create(&requests[0]).await.unwrap_err() },
                async { tasks.create(&requests[1]).await.unwrap_err() },
                started("start", ""),
                started("exec", "x"),
                started("exec2", "x"),
                async { shim.kill("kill", "", 15).await.unwrap_err() },
                async { shim.delete("delete", "").await.unwrap_err() },
                meanwhile,
                // Its program runs.
                async {
                    let id = "start2".into();
                    let request = StartRequest {
                        id,
                        ..Default::default()
                    };
                    tasks.start(&request).await.unwrap();
                },
            );
            for (error, operation, id) in [
                (a, "create", "create"),
                (b, "create", "create2"),
                (c, "start", "start"),
                (e, "exec", "exec"),
                (f, "exec", "exec2"),
                (g, "kill", "kill"),
                (h, "delete", "delete"),
            ] {
                ended_by_limit(&error, operation, id);
            }
            // No container, no process, no mount: neither of the runtime nor made by it.
            nothing_new(&shim, &before, "after the limits").await;
            for id in ["create", "create2"] {
                assert_eq!(shim.state(id, "").await.unwrap_err().code, Code::NotFound);
            }

            // All of it can be done again.
            for (faulty, operation) in [
                (&create, "create"),
                (&create_after, "create"),
                (&start, "start"),
                (&start_after, "start"),
                (&exec, "exec"),
                (&exec_after, "exec"),
                (&kill, "kill"),
                (&delete, "delete"),
            ] {
                faulty.clear(operation);
            }
            for request in &requests {
                shim.tasks.create(request).await.unwrap();
            }
            shim.start_process("start", "").await.unwrap();
            assert_eq!(state(&shim, "start2", "").await, Status::RUNNING);
            for id in ["exec", "exec2"] {
                assert_eq!(state(&shim, id, "x").await, Status::CREATED);
                shim.start_process(id, "x").await.unwrap();
            }
            assert_eq!(state(&shim, "kill", "").await, Status::RUNNING);
            assert_eq!(state(&shim, "delete", "").await, Status::STOPPED);
            shim.delete("delete", "").await.unwrap();
            for id in [
                "create", "create2", "start", "start2", "exec", "exec2", "kill", GOOD,
            ] {
                shim.remove(id).await;
            }
            shim.end().await;
        });
    }
}

async fn state(shim: &Shim, id: &str, exec: &str) -> Status {
    shim.state(id, exec)
        .await
        .unwrap()
        .status
        .enum_value()
        .unwrap()
}
