//! Pause and Resume, one after the other.

use cotter::error::{Code, Result};
use cotter::manager::client::{Tasks, gone};
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::proto::task::{KillRequest, Status, UpdateTaskRequest, WaitRequest};

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{LIMIT, signal};
use crate::{cgroup, is_delete, pause, resources, resume, status, topics};

/// Wait, as a client that asked before the test goes on.
fn waiting(shim: &Shim, id: &str) -> tokio::task::JoinHandle<u32> {
    let (tasks, request) = (
        shim.tasks.clone(),
        WaitRequest {
            id: id.into(),
            ..Default::default()
        },
    );
    tokio::spawn(async move { tasks.wait(&request).await.unwrap().exit_status })
}

fn refused(result: Result<()>, message: &str) {
    let error = result.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (Code::Unknown, message)
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one container's life, step by step")]
fn a_paused_container_is_frozen_and_runs_on() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            let pid = shim.create("c").await.unwrap();
            refused(
                pause(&shim, "c").await,
                "cannot pause task in created state",
            );
            refused(
                resume(&shim, "c").await,
                "cannot resume task in created state",
            );
            shim.start_process("c", "").await.unwrap();
            refused(resume(&shim, "c").await, "cannot resume a running process");
            shim.exec("c", "x", &["sleep", "1000"]).await.unwrap();
            shim.tasks
                .exec(&shim.exec_request("c", "later", &["true"]))
                .await
                .unwrap();
            let wait = waiting(&shim, "c");

            pause(&shim, "c").await.unwrap();
            assert_eq!(cgroup(pid).is_frozen(), Some(true), "{runtime}");
            for exec in ["", "x"] {
                assert_eq!(status(&shim, "c", exec).await, Status::PAUSED);
            }
            assert_eq!(status(&shim, "c", "later").await, Status::CREATED);
            refused(pause(&shim, "c").await, "cannot pause a paused container");
            refused(
                shim.delete("c", "").await.map(drop),
                "cannot delete a paused process",
            );
            refused(
                shim.start_process("c", "").await.map(drop),
                "cannot start a paused process",
            );
            let exec = shim.exec_request("c", "y", &["true"]);
            refused(
                shim.tasks.exec(&exec).await.map(drop),
                "cannot exec in a paused state",
            );
            // The runtimes have words of their own for this.
            let error = shim.start_process("c", "later").await.unwrap_err();
            assert!(
                error.message.starts_with("OCI runtime exec failed: "),
                "{error}"
            );
            assert!(error.message.contains("paused"), "{error}");
            assert_eq!(status(&shim, "c", "later").await, Status::CREATED);
            assert!(!wait.is_finished(), "Wait waits on");

            resume(&shim, "c").await.unwrap();
            assert_eq!(cgroup(pid).is_frozen(), Some(false), "{runtime}");
            assert_eq!(status(&shim, "c", "").await, Status::RUNNING);
            assert_eq!(status(&shim, "c", "x").await, Status::RUNNING);
            refused(resume(&shim, "c").await, "cannot resume a running process");
            shim.start_process("c", "later").await.unwrap();
            assert_eq!(shim.wait("c", "later").await.unwrap().exit_status, 0);

            shim.kill("c", "", 9).await.unwrap();
            assert_eq!(wait.await.unwrap(), 137);
            refused(pause(&shim, "c").await, "cannot pause a stopped container");
            refused(
                resume(&shim, "c").await,
                "cannot resume a stopped container",
            );
            shim.remove("c").await;
            let told = shim.events_until(is_delete).await;
            assert_eq!(
                topics(&told),
                [
                    "/tasks/create",
                    "/tasks/start",
                    "/tasks/exec-added",
                    "/tasks/exec-started",
                    "/tasks/exec-added",
                    "/tasks/paused",
                    "/tasks/resumed",
                    "/tasks/exec-started",
                    "/tasks/exit",
                    "/tasks/exit",
                    "/tasks/exit",
                    "/tasks/delete"
                ]
            );
            for event in &told {
                match &event.event {
                    Event::Paused(event) => assert_eq!(event.container_id, "c"),
                    Event::Resumed(event) => assert_eq!(event.container_id, "c"),
                    _ => {}
                }
            }
            let error = pause(&shim, "c").await.unwrap_err();
            assert_eq!(error.message, "container not created: not found");
            shim.end().await;
        });
    }
}

/// On cgroup v1 a frozen process does not die: somebody has to thaw it.
#[test]
fn sigkill_ends_a_paused_container() {
    for runtime in RUNTIMES {
        for all in [false, true] {
            run(async {
                let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
                shim.create("c").await.unwrap();
                shim.start_process("c", "").await.unwrap();
                shim.exec("c", "x", &["sleep", "1000"]).await.unwrap();
                pause(&shim, "c").await.unwrap();
                let kill = KillRequest {
                    id: "c".into(),
                    signal: 9,
                    all,
                    ..Default::default()
                };
                shim.tasks.kill(&kill).await.unwrap();
                assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
                assert_eq!(status(&shim, "c", "").await, Status::STOPPED);
                shim.delete("c", "").await.unwrap();
                let told = shim.events_until(is_delete).await;
                assert_eq!(
                    topics(&told)[4..],
                    [
                        "/tasks/paused",
                        "/tasks/exit",
                        "/tasks/exit",
                        "/tasks/delete"
                    ],
                    "{runtime}, all: {all}"
                );
                shim.end().await;
            });
        }
    }
}

/// With the host's pid namespace the kernel does not take the others along.
#[test]
fn sigkill_ends_a_paused_container_in_the_hosts_pid_namespace() {
    for runtime in RUNTIMES {
        run(async {
            let mut spec = Spec::new("c", ["sh", "-c", "sleep 1000 & sleep 1000"]);
            spec.host_pids = true;
            let dialect = cotter::manager::dialect::Dialect::Proto23;
            let mut shim = Shim::start_as(dialect, runtime, spec, "c").await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            shim.exec("c", "x", &["sleep", "1000"]).await.unwrap();
            pause(&shim, "c").await.unwrap();
            shim.kill("c", "", 9).await.unwrap();
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
            assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 137);
            shim.delete("c", "").await.unwrap();
            let told = shim.events_until(is_delete).await;
            let exits: Vec<&str> = told
                .iter()
                .filter_map(|told| match &told.event {
                    Event::Exit(exit) => Some(exit.id.as_str()),
                    _ => None,
                })
                .collect();
            assert_eq!(exits, ["x", "c"]);
            shim.end().await;
        });
    }
}

#[test]
fn other_signals_wait_for_the_resume() {
    for runtime in RUNTIMES {
        run(async {
            let script = "trap 'touch /run/got' TERM; touch /run/ready; \
                          until [ -e /run/got ] && [ -e /run/go ]; do sleep 0.05; done; exit 3";
            let mut shim = Shim::start(runtime, "c", &["sh", "-c", script]).await;
            let pid = shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let ready = "until [ -e /run/ready ]; do sleep 0.05; done";
            shim.exec("c", "x", &["sh", "-c", ready]).await.unwrap();
            shim.wait("c", "x").await.unwrap();
            let wait = waiting(&shim, "c");
            pause(&shim, "c").await.unwrap();
            shim.kill("c", "", 15).await.unwrap();
            assert_eq!(status(&shim, "c", "").await, Status::PAUSED);
            assert!(!wait.is_finished());
            resume(&shim, "c").await.unwrap();
            std::fs::write(format!("/proc/{pid}/root/run/go"), "").unwrap();
            assert_eq!(wait.await.unwrap(), 3);
            shim.delete("c", "").await.unwrap();
            let told = shim.events_until(is_delete).await;
            let told = topics(&told);
            assert_eq!(told[5..7], ["/tasks/paused", "/tasks/resumed"]);
            assert_eq!(told[told.len() - 2..], ["/tasks/exit", "/tasks/delete"]);
            shim.end().await;
        });
    }
}

/// Some runtimes thaw a container in order to signal all of it: State says what is.
#[test]
fn state_says_what_a_signal_to_all_made_of_the_pause() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            let pid = shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            pause(&shim, "c").await.unwrap();
            let kill = KillRequest {
                id: "c".into(),
                signal: 18,
                all: true,
                ..Default::default()
            };
            shim.tasks.kill(&kill).await.unwrap();
            let frozen = cgroup(pid).is_frozen().unwrap();
            let expected = if frozen {
                Status::PAUSED
            } else {
                Status::RUNNING
            };
            assert_eq!(status(&shim, "c", "").await, expected, "{runtime}");
            shim.remove("c").await;
            let told = shim.events_until(is_delete).await;
            let resumed = told
                .iter()
                .filter(|t| matches!(t.event, Event::Resumed(_)))
                .count();
            assert_eq!(resumed, usize::from(!frozen));
            shim.end().await;
        });
    }
}

/// Thaws behind the shim's back, as `runc resume` by hand does.
fn thaw(pid: u32) {
    let cgroup = cgroup(pid);
    let dir = cgroup.dir("freezer").unwrap();
    let (file, word) = match cgroup.version() {
        cotter::cgroup::Version::V1 => ("freezer.state", "THAWED"),
        cotter::cgroup::Version::V2 => ("cgroup.freeze", "0"),
    };
    std::fs::write(dir.join(file), word).unwrap();
}

#[test]
fn resumed_by_another_hand() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            let pid = shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            // Resume finds it done.
            pause(&shim, "c").await.unwrap();
            thaw(pid);
            resume(&shim, "c").await.unwrap();
            assert_eq!(status(&shim, "c", "").await, Status::RUNNING);
            // It ends, paused to all appearances.
            pause(&shim, "c").await.unwrap();
            thaw(pid);
            signal(pid, "KILL");
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
            assert_eq!(status(&shim, "c", "").await, Status::STOPPED);
            shim.delete("c", "").await.unwrap();
            let told = shim.events_until(is_delete).await;
            assert_eq!(
                topics(&told)[2..],
                [
                    "/tasks/paused",
                    "/tasks/resumed",
                    "/tasks/paused",
                    "/tasks/exit",
                    "/tasks/delete"
                ]
            );
            shim.end().await;
        });
    }
}

/// `delete`, after a shim that died over a paused container.
#[test]
fn a_dead_shims_paused_container_is_cleaned_up() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            pause(&shim, "c").await.unwrap();
            signal(shim.pid(), "KILL");
            gone(&shim.endpoint, LIMIT).await.unwrap();
            let deleted = shim.launch.delete().await.unwrap();
            assert_eq!(
                deleted.response.exit_status, 137,
                "{runtime}: {}",
                deleted.warnings
            );
            // Another shim takes over, as if nothing had been.
            shim.endpoint = shim.launch.start().await.unwrap();
            shim.tasks = Tasks::connect(&shim.endpoint).await.unwrap();
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

#[test]
fn limits_can_be_changed_while_paused() {
    for runtime in RUNTIMES {
        run(async {
            let shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            let pid = shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            pause(&shim, "c").await.unwrap();
            let update = UpdateTaskRequest {
                id: "c".into(),
                resources: Some(resources(r#"{"pids":{"limit":31}}"#)).into(),
                ..Default::default()
            };
            shim.tasks.update(&update).await.unwrap();
            assert_eq!(crate::read(&cgroup(pid), "pids", "pids.max"), "31");
            assert_eq!(cgroup(pid).is_frozen(), Some(true), "{runtime}");
            assert_eq!(status(&shim, "c", "").await, Status::PAUSED);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}
