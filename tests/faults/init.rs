//! Start, Kill and Delete of a container with a runtime that fails: the error says what failed, the
//! container is in a state from which the operation can be repeated or the container be removed.

use cotter::error::{Code, Error};
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::proto::task::Status;

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::runtime::Faulty;
use crate::world::{GOOD, census, good_works, in_bundle, nothing_new, says, world};

/// Nothing was done.
const IDLE: [&str; 4] = ["said", "silent", "garbage", "killed-before"];
/// It was done, and the call failed all the same.
const DONE: [&str; 2] = ["killed-after", "after"];

/// What the error of `operation` says after this fault.
fn check(error: &Error, operation: &str, fault: &str) {
    let why = match (operation, fault) {
        // The phrase that clients know, and the runtime's output.
        ("kill", "said" | "garbage" | "after") => "exit status 1",
        (_, "said") => "it broke on purpose",
        (_, "after") => "it broke after the work",
        (_, "silent") => "exit status 7",
        (_, "garbage") => "exit status 1",
        _ => "signal 9",
    };
    let what = match (operation, fault) {
        ("kill", "said" | "garbage" | "after" | "silent") => "unknown error after kill",
        ("delete", _) => "failed to delete task: OCI runtime delete failed",
        ("kill", _) => "OCI runtime kill failed",
        _ => "OCI runtime start failed",
    };
    says(error, Code::Unknown, &[what, why]);
}

async fn create(shim: &mut Shim, faulty: &Faulty) {
    shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
    shim.tasks
        .create(&faulty.create_request(shim, "c"))
        .await
        .unwrap();
}

async fn status(shim: &Shim) -> Status {
    shim.state("c", "")
        .await
        .unwrap()
        .status
        .enum_value()
        .unwrap()
}

#[test]
fn start() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            create(&mut shim, &faulty).await;
            for fault in IDLE {
                faulty.set("start", fault);
                check(
                    &shim.start_process("c", "").await.unwrap_err(),
                    "start",
                    fault,
                );
                assert_eq!(status(&shim).await, Status::CREATED, "{fault}");
            }
            faulty.clear("start");
            shim.start_process("c", "").await.unwrap();
            assert_eq!(status(&shim).await, Status::RUNNING);
            shim.remove("c").await;

            // Its program runs: it is started, and everybody is told so.
            for fault in DONE {
                create(&mut shim, &faulty).await;
                faulty.set("start", fault);
                let pid = shim.start_process("c", "").await.unwrap();
                assert_eq!(status(&shim).await, Status::RUNNING, "{fault}");
                let is = |e: &Event| matches!(e, Event::Start(s) if s.pid == pid);
                shim.events_until(is).await;
                let counts = |line: &String| line.contains("counts as started");
                assert!(shim.log().iter().any(counts), "{:#?}", shim.log());
                faulty.clear("start");
                let again = shim.start_process("c", "").await.unwrap_err();
                says(&again, Code::Unknown, &["cannot start a running process"]);
                assert_eq!(shim.remove("c").await.exit_status, 137, "{fault}");
                let ended = |e: &Event| matches!(e, Event::Exit(x) if x.pid == pid);
                shim.events_until(ended).await;
            }

            // Said to run, and still waiting to be started.
            create(&mut shim, &faulty).await;
            faulty.set("start", "nothing");
            shim.start_process("c", "").await.unwrap();
            assert_eq!(shim.remove("c").await.exit_status, 137);
            good_works(&shim).await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

#[test]
fn kill() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            for done in DONE {
                create(&mut shim, &faulty).await;
                shim.start_process("c", "").await.unwrap();
                for fault in IDLE {
                    faulty.set("kill", fault);
                    // Where the runtime has said nothing a SIGKILL is sent without it (`killing`).
                    let signal = if fault == "killed-before" { 15 } else { 9 };
                    let error = shim.kill("c", "", signal).await.unwrap_err();
                    check(&error, "kill", fault);
                    assert_eq!(status(&shim).await, Status::RUNNING, "{fault}");
                }
                faulty.set("kill", "nothing");
                shim.kill("c", "", 9).await.unwrap();
                assert_eq!(status(&shim).await, Status::RUNNING);
                faulty.set("kill", done);
                match shim.kill("c", "", 9).await {
                    Err(error) => check(&error, "kill", done),
                    Ok(()) => assert_eq!(done, "killed-after"),
                }
                assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137, "{done}");
                let late = shim.kill("c", "", 9).await.unwrap_err();
                says(&late, Code::NotFound, &["process already finished"]);
                shim.delete("c", "").await.unwrap();
                faulty.clear("kill");
            }
            good_works(&shim).await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

#[test]
fn delete() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
            let before = census(&shim);
            for ended in [true, false] {
                for done in DONE {
                    create(&mut shim, &faulty).await;
                    if ended {
                        shim.start_process("c", "").await.unwrap();
                        shim.kill("c", "", 9).await.unwrap();
                        shim.wait("c", "").await.unwrap();
                    }
                    let state = status(&shim).await;
                    for fault in IDLE {
                        faulty.set("delete", fault);
                        check(&shim.delete("c", "").await.unwrap_err(), "delete", fault);
                        assert_eq!(status(&shim).await, state, "{fault}");
                    }
                    faulty.set("delete", "nothing");
                    let error = shim.delete("c", "").await.unwrap_err();
                    says(
                        &error,
                        Code::Unknown,
                        &["failed to delete task", "still there"],
                    );
                    assert_eq!(status(&shim).await, state);
                    faulty.set("delete", done);
                    check(&shim.delete("c", "").await.unwrap_err(), "delete", done);
                    shim.state("c", "").await.unwrap();

                    faulty.clear("delete");
                    assert_eq!(shim.delete("c", "").await.unwrap().exit_status, 137);
                    assert_eq!(in_bundle(&shim, "c"), ["exitstatus.json"]);
                    nothing_new(&shim, &before, done).await;
                }
            }
            good_works(&shim).await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}
