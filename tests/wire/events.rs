//! What a shim tells its manager.

use cotter::proto::events::*;

use super::{BUNDLE, at, containerd_1_6, fifo, overlay, some};

#[test]
fn a_container_comes_and_goes() {
    let capture = containerd_1_6();
    capture.tells(
        "event-create",
        "/tasks/create",
        at(1_795_241_976, 559_320_731),
        &TaskCreate {
            container_id: "one".into(),
            bundle: BUNDLE.into(),
            rootfs: vec![overlay(2)],
            io: some(TaskIO {
                stdin: fifo("2408293529/one-stdin"),
                stdout: fifo("2408293529/one-stdout"),
                stderr: fifo("2408293529/one-stderr"),
                ..Default::default()
            }),
            pid: 17919,
            ..Default::default()
        },
    );
    capture.tells(
        "event-start",
        "/tasks/start",
        at(1_795_241_976, 569_024_173),
        &TaskStart {
            container_id: "one".into(),
            pid: 17919,
            ..Default::default()
        },
    );
    // An init process goes by the id of its container.
    capture.tells(
        "event-exit-init",
        "/tasks/exit",
        at(1_795_241_977, 148_430_647),
        &TaskExit {
            container_id: "one".into(),
            id: "one".into(),
            pid: 17919,
            exit_status: 137,
            exited_at: some(at(1_795_241_977, 148_404_979)),
            ..Default::default()
        },
    );
    capture.tells(
        "event-delete",
        "/tasks/delete",
        at(1_795_241_978, 174_977_271),
        &TaskDelete {
            container_id: "one".into(),
            pid: 17919,
            exit_status: 137,
            exited_at: some(at(1_795_241_977, 148_404_979)),
            ..Default::default()
        },
    );
}

#[test]
fn an_exec_comes_and_goes() {
    let capture = containerd_1_6();
    capture.tells(
        "event-exec-added",
        "/tasks/exec-added",
        at(1_795_241_976, 609_893_952),
        &TaskExecAdded {
            container_id: "one".into(),
            exec_id: "x1".into(),
            ..Default::default()
        },
    );
    capture.tells(
        "event-exec-started",
        "/tasks/exec-started",
        at(1_795_241_976, 643_697_964),
        &TaskExecStarted {
            container_id: "one".into(),
            exec_id: "x1".into(),
            pid: 17962,
            ..Default::default()
        },
    );
    capture.tells(
        "event-exit",
        "/tasks/exit",
        at(1_795_241_976, 645_013_711),
        &TaskExit {
            container_id: "one".into(),
            id: "x1".into(),
            pid: 17962,
            exit_status: 3,
            exited_at: some(at(1_795_241_976, 643_662_361)),
            ..Default::default()
        },
    );
}

#[test]
fn a_container_in_between() {
    let capture = containerd_1_6();
    capture.tells(
        "event-paused",
        "/tasks/paused",
        at(1_795_241_976, 742_900_963),
        &TaskPaused {
            container_id: "one".into(),
            ..Default::default()
        },
    );
    capture.tells(
        "event-resumed",
        "/tasks/resumed",
        at(1_795_241_976, 767_606_247),
        &TaskResumed {
            container_id: "one".into(),
            ..Default::default()
        },
    );
    capture.tells(
        "event-oom",
        "/tasks/oom",
        at(1_795_241_978, 515_838_674),
        &TaskOOM {
            container_id: "oom".into(),
            ..Default::default()
        },
    );
}
