//! Pauses that fail, that take long, and what happens meanwhile.

use cotter::error::Code;
use cotter::proto::task::{StatsRequest, Status};

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::gate::Gated;
use crate::{cgroup, is_delete, pause, resume, status, topics};

#[test]
fn a_failed_pause_changes_nothing() {
    for runtime in RUNTIMES {
        run(async {
            let gated = Gated::new(runtime, "pause", "echo no such luck >&2; exit 1");
            let mut shim = Shim::start(&gated.path(), "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let error = pause(&shim, "c").await.unwrap_err();
            assert_eq!(error.code, Code::Unknown);
            assert!(
                error.message.starts_with("OCI runtime pause failed: "),
                "{error}"
            );
            assert!(error.message.contains("no such luck"), "{error}");
            assert_eq!(status(&shim, "c", "").await, Status::RUNNING);
            shim.remove("c").await;
            let told = shim.events_until(is_delete).await;
            assert_eq!(topics(&told)[2..], ["/tasks/exit", "/tasks/delete"]);
            shim.end().await;
        });
    }
}

#[test]
fn a_failed_resume_changes_nothing() {
    for runtime in RUNTIMES {
        run(async {
            let gated = Gated::new(
                runtime,
                "resume",
                "[ -e $dir/well ] && { real \"$@\"; exit; }; echo no such luck >&2; exit 1",
            );
            let mut shim = Shim::start(&gated.path(), "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            pause(&shim, "c").await.unwrap();
            let error = resume(&shim, "c").await.unwrap_err();
            assert!(error.message.contains("no such luck"), "{error}");
            assert_eq!(status(&shim, "c", "").await, Status::PAUSED);
            std::fs::write(gated.file("well"), "").unwrap();
            resume(&shim, "c").await.unwrap();
            shim.remove("c").await;
            let told = shim.events_until(is_delete).await;
            assert_eq!(
                topics(&told)[2..],
                [
                    "/tasks/paused",
                    "/tasks/resumed",
                    "/tasks/exit",
                    "/tasks/delete"
                ]
            );
            shim.end().await;
        });
    }
}

/// The runtime is killed after it has frozen the container: told to have failed, it must not last.
#[test]
fn a_pause_cut_off_leaves_nothing_frozen() {
    for runtime in RUNTIMES {
        run(async {
            let gated = Gated::new(runtime, "pause", "real \"$@\"; kill -9 $$");
            let mut shim = Shim::start(&gated.path(), "c", &["sleep", "1000"]).await;
            let pid = shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            pause(&shim, "c").await.unwrap_err();
            assert_eq!(cgroup(pid).is_frozen(), Some(false));
            assert_eq!(status(&shim, "c", "").await, Status::RUNNING);
            shim.remove("c").await;
            let told = shim.events_until(is_delete).await;
            assert_eq!(topics(&told)[2..], ["/tasks/exit", "/tasks/delete"]);
            shim.end().await;
        });
    }
}

/// The container is frozen, the runtime is not done: questions are answered, and SIGKILL works.
#[test]
fn while_the_pause_takes_long() {
    for runtime in RUNTIMES {
        run(async {
            let gated = Gated::new(runtime, "pause", "real \"$@\"; gate");
            let mut shim = Shim::start(&gated.path(), "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            shim.exec("c", "x", &["sleep", "1000"]).await.unwrap();
            let (pausing, meanwhile) = (pause(&shim, "c"), async {
                gated.reached().await;
                for exec in ["", "x"] {
                    assert_eq!(status(&shim, "c", exec).await, Status::PAUSING);
                }
                let stats = StatsRequest {
                    id: "c".into(),
                    ..Default::default()
                };
                shim.tasks.stats(&stats).await.unwrap();
                shim.kill("c", "", 9).await.unwrap();
                gated.open().await;
            });
            // Whichever was first: either the container was paused, or it had ended.
            let (paused, ()) = tokio::join!(pausing, meanwhile);
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
            assert_eq!(status(&shim, "c", "").await, Status::STOPPED);
            shim.delete("c", "").await.unwrap();
            let told = shim.events_until(is_delete).await;
            let mut expected = vec!["/tasks/exit", "/tasks/exit", "/tasks/delete"];
            if paused.is_ok() {
                expected.insert(0, "/tasks/paused");
            }
            assert_eq!(topics(&told)[4..], expected, "{runtime}: {paused:?}");
            shim.end().await;
        });
    }
}

/// It ends before it is frozen.
#[test]
fn an_exit_while_pausing() {
    for runtime in RUNTIMES {
        run(async {
            let gated = Gated::new(runtime, "pause", "gate; real \"$@\"");
            let mut shim = Shim::start(&gated.path(), "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let (paused, ()) = tokio::join!(pause(&shim, "c"), async {
                gated.reached().await;
                shim.kill("c", "", 9).await.unwrap();
                assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
                assert_eq!(status(&shim, "c", "").await, Status::STOPPED);
                gated.open().await;
            });
            paused.unwrap_err();
            assert_eq!(status(&shim, "c", "").await, Status::STOPPED);
            shim.delete("c", "").await.unwrap();
            let told = shim.events_until(is_delete).await;
            assert_eq!(topics(&told)[2..], ["/tasks/exit", "/tasks/delete"]);
            shim.end().await;
        });
    }
}
