//! A daemon, or its client, that goes away: what happens meanwhile is told when it is back.

use crate::common::containerd::{Containerd, Form, Version, go_shim};
use crate::common::events::Events;
use crate::common::{eventually, has_trap, signal, tool};

/// The daemon goes and comes back, once in order and once killed, while a container runs on.
pub fn restart(version: Version, form: Form, runtime: &str) {
    let mut daemon = Containerd::start(version, form, &tool(runtime));
    let before = daemon.census();
    daemon.run_detached("stays", &["sleep", "1000"]);
    let pid = daemon.pid("stays");

    daemon.restart();
    assert_eq!(daemon.status("stays").as_deref(), Some("RUNNING"));
    assert_eq!(daemon.exec("stays", &["echo", "again"]).ok(), "again\n");

    daemon.kill();
    daemon.relaunch();
    assert_eq!(daemon.status("stays").as_deref(), Some("RUNNING"));
    assert_eq!(daemon.pid("stays"), pid);
    assert_eq!(
        daemon.exec("stays", &["echo", "and again"]).ok(),
        "and again\n"
    );

    let events = Events::record(&daemon);
    daemon
        .ctr(&["tasks", "kill", "--signal", "SIGKILL", "stays"])
        .ok();
    assert_eq!(events.wait("/tasks/exit", "stays").exit_status(), 137);
    drop(events);
    let done = daemon.ctr(&["tasks", "delete", "stays"]);
    assert!(
        done.code == 0 && done.err.contains("non-zero exit code 137"),
        "{done:?}"
    );
    daemon.ctr(&["containers", "delete", "stays"]).ok();
    daemon.nothing_left_since(&before);
    daemon.passed("daemon restarted and killed");
}

/// The container ends while no daemon is there, beside one that runs on. It is found stopped, with its
/// status, whatever an operator asks of it, and again by the next daemon, until it is deleted.
pub fn exit_unseen(version: Version, form: Form, runtime: &str) {
    let mut daemon = Containerd::start(version, form, &tool(runtime));
    let before = daemon.census();
    daemon.run_detached("stays", &["sleep", "1000"]);
    let script = "trap 'exit 5' TERM; while :; do sleep 0.05; done";
    daemon.run_detached("gone", &["sh", "-c", script]);
    let pid = daemon.pid("gone").unwrap();
    eventually("the shell handles SIGTERM", || has_trap(pid, 15));

    daemon.stop();
    signal(pid, "TERM");
    eventually("the container's init is gone", || {
        daemon.owner.processes().iter().all(|p| p.pid != pid)
    });
    for _ in 0..2 {
        daemon.relaunch();
        // The Go shim names no process, and containerd 1.7 and later clear such a task away.
        let kept = !go_shim() || version == Version::V1_6;
        let found = kept.then_some("STOPPED");
        eventually("the daemon knows that the task ended", || {
            daemon.status("gone").as_deref() == found
        });
        if !go_shim() {
            let processes = daemon.ctr(&["tasks", "ps", "gone"]).ok();
            let named: Vec<_> = processes
                .lines()
                .skip(1)
                .map(str::split_whitespace)
                .collect();
            let named: Vec<_> = named
                .into_iter()
                .filter_map(|mut line| line.next())
                .collect();
            assert_eq!(named, [pid.to_string()], "{processes}");
            daemon.ctr(&["tasks", "metrics", "gone"]).ok();
            assert_ne!(daemon.exec("gone", &["true"]).code, 0);
        }
        assert_eq!(daemon.exec("stays", &["echo", "on"]).ok(), "on\n");
        daemon.stop();
    }
    daemon.relaunch();
    let done = daemon.ctr(&["tasks", "delete", "gone"]);
    if !go_shim() {
        assert!(done.err.contains("non-zero exit code 5"), "{done:?}");
    }
    assert_eq!(daemon.status("gone"), None);
    daemon.ctr(&["containers", "delete", "gone"]).ok();
    daemon.ctr(&["tasks", "delete", "--force", "stays"]);
    daemon.ctr(&["containers", "delete", "stays"]).ok();
    daemon.nothing_left_since(&before);
    daemon.passed("exit while the daemon is away");
}

/// The daemon is back, and so is who listens. What is told waits for as long as others may need, unless a
/// client has something done, through the new daemon, to the container; being listed, measured and found
/// by the daemon is nothing of the kind. Nothing is lost, and nothing told twice.
pub fn clients_back(version: Version) {
    let long = [("COTTER_LIMIT_MANAGER_SETTLING", "30m")];
    let runtime = tool("RUNC");
    let mut daemon = Containerd::start_in(version, Form::Name, &runtime, &long);
    let before = daemon.census();
    let ids = ["stays", "ends", "waits"];
    for id in ids {
        daemon.run_detached(id, &["sleep", "1000"]);
    }
    let ending = ["ends", "waits"].map(|id| daemon.pid(id).unwrap());
    daemon.kill();
    for pid in ending {
        signal(pid, "KILL");
        eventually("the container's init is gone", || {
            daemon.owner.processes().iter().all(|p| p.pid != pid)
        });
    }
    daemon.relaunch();
    let events = Events::record(&daemon);
    for id in ids {
        let state = daemon.status(id).unwrap();
        assert_eq!(state == "RUNNING", id == "stays", "{id}: {state}");
        daemon.ctr(&["tasks", "metrics", id]).ok();
        daemon.ctr(&["tasks", "ps", id]).ok();
    }

    assert_eq!(daemon.exec("stays", &["sh", "-c", "exit 3"]).code, 3);
    events.wait("/tasks/exec-started", "stays");
    let kill = |id: &str| daemon.ctr(&["tasks", "kill", "--signal", "SIGKILL", id]);
    kill("stays").ok();
    assert_eq!(events.wait("/tasks/exit", "stays").exit_status(), 137);
    let refused = kill("ends");
    assert!(refused.err.contains("not found"), "{refused:?}");
    assert_eq!(events.wait("/tasks/exit", "ends").exit_status(), 137);
    assert_eq!(events.of("waits").len(), 0);
    kill("waits");
    assert_eq!(events.wait("/tasks/exit", "waits").exit_status(), 137);

    for id in ids {
        let done = daemon.ctr(&["tasks", "delete", id]);
        assert!(done.err.contains("non-zero exit code 137"), "{done:?}");
        events.wait("/tasks/delete", id);
        let own = |e: &crate::common::events::Event| e.topic == "/tasks/exit" && e.process() == id;
        assert_eq!(events.of(id).into_iter().filter(own).count(), 1, "{id}");
        daemon.ctr(&["containers", "delete", id]).ok();
    }
    drop(events);
    daemon.nothing_left_since(&before);
    daemon.passed("a client back after its daemon");
}

#[test]
fn clients_back_1_6() {
    clients_back(Version::V1_6);
}

#[test]
fn clients_back_1_7() {
    clients_back(Version::V1_7);
}

#[test]
fn clients_back_2_1() {
    clients_back(Version::V2_1);
}

/// A client dies during Delete, which the shim carries out: nobody tells the shim to end, and the daemon
/// neither has the task nor makes it again. The shim ends by itself, and the container can be started. Its
/// exit is told once more by the daemon, but as it was; a neighbour runs on.
pub fn client_dies_during_delete(version: Version) {
    let dir = crate::common::TempDir::new("slow");
    let runtime = dir.path().join("slow");
    let at = dir.path().display();
    let held = format!("touch {at}/begun; until [ -e {at}/go ]; do sleep 0.02; done");
    let real = tool("RUNC");
    let real = real.display();
    crate::common::write_program(
        &runtime,
        format!("#!/bin/sh\ncase \"$*\" in *' delete '*one) {held} ;; esac\nexec {real} \"$@\"\n"),
    );
    let daemon = Containerd::start(version, Form::DropIn, &runtime);
    let before = daemon.census();
    let events = Events::record(&daemon);
    for id in ["one", "other"] {
        daemon.run_detached(id, &["sleep", "1000"]);
    }
    let kill = |id: &str| {
        daemon
            .ctr(&["tasks", "kill", "--signal", "SIGKILL", id])
            .ok()
    };
    kill("one");
    events.wait("/tasks/exit", "one");

    let owner = &daemon.owner;
    let request = DeleteTask {
        container_id: "one".into(),
    };
    let method = "containerd.services.tasks.v1.Tasks/Delete";
    let begun = || dir.path().join("begun").exists();
    crate::grpc::abandon(&owner.namespace, &owner.address, method, &request, begun);
    // The daemon is to give up before the shim has done it; nothing shows that it has.
    std::thread::sleep(std::time::Duration::from_secs(1));
    std::fs::write(dir.path().join("go"), "").unwrap();
    eventually("the daemon knows of no such task", || {
        daemon.status("one").is_none()
    });
    let mut refused = 0;
    eventually("the container is started again", || {
        let done = daemon.ctr(&["tasks", "start", "-d", "--null-io", "one"]);
        refused += i32::from(done.err.contains("already exists"));
        done.code == 0
    });
    assert_ne!(refused, 0, "the daemon had given up");
    assert_eq!(daemon.exec("one", &["echo", "on"]).ok(), "on\n");
    assert_eq!(daemon.exec("other", &["echo", "on"]).ok(), "on\n");
    let told: Vec<_> = events
        .of("one")
        .into_iter()
        .filter(|e| e.topic == "/tasks/exit")
        .collect();
    let first = told.iter().find(|e| e.process() == "one").unwrap();
    let inits = told.iter().filter(|e| e.process() == "one");
    assert!(inits.clone().all(|e| e.body == first.body), "{told:?}");

    for id in ["one", "other"] {
        kill(id);
        eventually("the task is stopped", || {
            daemon.status(id).as_deref() == Some("STOPPED")
        });
        let done = daemon.ctr(&["tasks", "delete", id]);
        assert!(done.err.contains("non-zero exit code 137"), "{done:?}");
        daemon.ctr(&["containers", "delete", id]).ok();
    }
    drop(events);
    daemon.nothing_left_since(&before);
    daemon.passed("client dies during delete");
}

/// `containerd.services.tasks.v1.DeleteTaskRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct DeleteTask {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[test]
fn client_dies_during_delete_1_7() {
    client_dies_during_delete(Version::V1_7);
}

#[test]
fn client_dies_during_delete_2_1() {
    client_dies_during_delete(Version::V2_1);
}
