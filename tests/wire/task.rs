//! What the task service is asked and answers.

use std::collections::HashMap;

use cotter::manager::dialect::{Dialect, Endpoint};
use cotter::proto::task::*;
use cotter::proto::{Any, cgroups_v1, pack, runc_options, unpack};
use protobuf::Message;

use super::{
    BUNDLE, GO_ZERO_TIME, at, containerd_1_6, containerd_2_1, fifo, options, overlay, some,
};

#[test]
fn start_options() {
    let capture = containerd_1_6();
    capture.holds("start-options", &pack(&options()).unwrap());
    capture.holds(
        "start-options-none",
        &pack(&runc_options::Options::default()).unwrap(),
    );
}

#[test]
fn create() {
    let capture = containerd_1_6();
    capture.holds(
        "create",
        &CreateTaskRequest {
            id: "one".into(),
            bundle: BUNDLE.into(),
            rootfs: vec![overlay(2)],
            stdin: fifo("2408293529/one-stdin"),
            stdout: fifo("2408293529/one-stdout"),
            stderr: fifo("2408293529/one-stderr"),
            options: some(pack(&options()).unwrap()),
            ..Default::default()
        },
    );
    capture.holds(
        "create-tty",
        &CreateTaskRequest {
            id: "tty".into(),
            bundle: BUNDLE.replace("one", "tty"),
            rootfs: vec![overlay(4)],
            terminal: true,
            stdin: fifo("1322366168/tty-stdin"),
            stdout: fifo("1322366168/tty-stdout"),
            options: some(pack(&runc_options::Options::default()).unwrap()),
            ..Default::default()
        },
    );
    capture.holds(
        "create-answer",
        &CreateTaskResponse {
            pid: 17919,
            ..Default::default()
        },
    );
}

#[test]
fn start_answers() {
    let plain = Dialect::Plain16.answer(containerd_1_6().bytes("start-answer"));
    let json = Dialect::Json17.answer(containerd_2_1().bytes("start-answer"));
    let expected = |version| Endpoint {
        version,
        address: "unix:///run/containerd/s/\
                  59cbf819d3f37b8611493177caa67033a98f1b79c1e582a2ab8681cd1974bdd1"
            .into(),
        protocol: "ttrpc".into(),
    };
    assert_eq!(plain.unwrap(), expected(2));
    assert_eq!(json.unwrap(), expected(3));
}

/// The other service asks the same questions.
#[test]
fn v3() {
    let capture = containerd_2_1();
    for (label, (what, _)) in &containerd_1_6().messages {
        let renamed = what.replace("task.v2", "task.v3");
        assert_eq!(capture.messages[label].0, renamed);
    }
    let mut rootfs = overlay(2);
    rootfs.options.rotate_left(1);
    capture.holds(
        "create",
        &CreateTaskRequest {
            id: "one".into(),
            bundle: BUNDLE.into(),
            rootfs: vec![rootfs],
            stdin: fifo("1862433922/one-stdin"),
            stdout: fifo("1862433922/one-stdout"),
            stderr: fifo("1862433922/one-stderr"),
            options: some(pack(&options()).unwrap()),
            ..Default::default()
        },
    );
}

#[test]
fn state() {
    let capture = containerd_1_6();
    let init = |status: Status| StateResponse {
        id: "one".into(),
        bundle: BUNDLE.into(),
        pid: 17919,
        status: status.into(),
        stdin: fifo("2408293529/one-stdin"),
        stdout: fifo("2408293529/one-stdout"),
        stderr: fifo("2408293529/one-stderr"),
        exited_at: some(at(GO_ZERO_TIME, 0)),
        ..Default::default()
    };
    capture.holds("state-running", &init(Status::RUNNING));
    capture.holds("state-paused", &init(Status::PAUSED));
    capture.holds(
        "state-tty",
        &StateResponse {
            id: "tty".into(),
            bundle: BUNDLE.replace("one", "tty"),
            pid: 18491,
            status: Status::RUNNING.into(),
            stdin: fifo("1322366168/tty-stdin"),
            stdout: fifo("1322366168/tty-stdout"),
            terminal: true,
            exited_at: some(at(GO_ZERO_TIME, 0)),
            ..Default::default()
        },
    );
    // An exec goes by its own id in `id`, and `exec_id` stays empty.
    let exec = |status: Status, pid, exit_status, exited_at| StateResponse {
        id: "x1".into(),
        bundle: BUNDLE.into(),
        pid,
        status: status.into(),
        stdin: fifo("867882680/x1-stdin"),
        stdout: fifo("867882680/x1-stdout"),
        stderr: fifo("867882680/x1-stderr"),
        exit_status,
        exited_at: some(exited_at),
        ..Default::default()
    };
    capture.holds(
        "state-created",
        &exec(Status::CREATED, 0, 0, at(GO_ZERO_TIME, 0)),
    );
    capture.holds(
        "state-stopped",
        &exec(Status::STOPPED, 17962, 3, at(1_795_241_976, 643_662_361)),
    );
}

#[test]
fn requests_on_a_process() {
    let capture = containerd_1_6();
    let (id, exec_id) = ("one".to_owned(), "x3".to_owned());
    let spec = r#"{"cwd":"/","args":["sleep","500"],"env":["PATH=/bin"],"user":{"uid":0,"gid":0}}"#;
    capture.holds(
        "exec",
        &ExecProcessRequest {
            id: id.clone(),
            exec_id: exec_id.clone(),
            spec: some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: spec.into(),
                ..Default::default()
            }),
            ..Default::default()
        },
    );
    capture.holds(
        "start-exec",
        &StartRequest {
            id: id.clone(),
            exec_id: "x1".into(),
            ..Default::default()
        },
    );
    capture.holds(
        "kill-exec",
        &KillRequest {
            id: id.clone(),
            exec_id: exec_id.clone(),
            signal: 15,
            ..Default::default()
        },
    );
    capture.holds(
        "kill-all",
        &KillRequest {
            id: id.clone(),
            signal: 9,
            all: true,
            ..Default::default()
        },
    );
    capture.holds(
        "resize",
        &ResizePtyRequest {
            id: id.clone(),
            exec_id,
            width: 120,
            height: 40,
            ..Default::default()
        },
    );
    capture.holds(
        "close-io",
        &CloseIORequest {
            id,
            exec_id: "x2".into(),
            stdin: true,
            ..Default::default()
        },
    );
}

#[test]
fn requests_on_a_container() {
    let capture = containerd_1_6();
    capture.holds(
        "update",
        &UpdateTaskRequest {
            id: "one".into(),
            resources: some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
                value: br#"{"cpu":{"shares":512}}"#.into(),
                ..Default::default()
            }),
            annotations: HashMap::from([("k".into(), "v".into())]),
            ..Default::default()
        },
    );
    let image = runc_options::CheckpointOptions {
        exit: true,
        image_path: "/run/wire/image".into(),
        work_path: "/run/wire/work".into(),
        ..Default::default()
    };
    capture.holds(
        "checkpoint",
        &CheckpointTaskRequest {
            id: "one".into(),
            path: "/run/wire/image".into(),
            options: some(pack(&image).unwrap()),
            ..Default::default()
        },
    );
}

#[test]
fn answers() {
    let capture = containerd_1_6();
    capture.holds(
        "connect-answer",
        &ConnectResponse {
            shim_pid: 17894,
            task_pid: 17919,
            ..Default::default()
        },
    );
    let exec = runc_options::ProcessDetails {
        exec_id: "x3".into(),
        ..Default::default()
    };
    capture.holds(
        "pids-answer",
        &PidsResponse {
            processes: vec![
                ProcessInfo {
                    pid: 17919,
                    ..Default::default()
                },
                ProcessInfo {
                    pid: 18119,
                    info: some(pack(&exec).unwrap()),
                    ..Default::default()
                },
            ],
            ..Default::default()
        },
    );
    capture.holds(
        "wait-answer",
        &WaitResponse {
            exit_status: 3,
            exited_at: some(at(1_795_241_976, 643_662_361)),
            ..Default::default()
        },
    );
    capture.holds(
        "delete-answer",
        &DeleteResponse {
            pid: 17962,
            exit_status: 3,
            exited_at: some(at(1_795_241_976, 643_662_361)),
            ..Default::default()
        },
    );
}

#[test]
fn stats() {
    let capture = containerd_1_6();
    let answer = StatsResponse::parse_from_bytes(capture.bytes("stats-answer")).unwrap();
    let metrics = unpack::<cgroups_v1::Metrics>(&answer.stats)
        .unwrap()
        .unwrap();
    // "unlimited" as the kernel rounds it on v1.
    let unlimited = 0x7fff_ffff_ffff_f000;
    let entry = |limit, usage, max| {
        some(cgroups_v1::MemoryEntry {
            limit,
            usage,
            max,
            ..Default::default()
        })
    };
    let page = |size: &str| cgroups_v1::HugetlbStat {
        pagesize: size.into(),
        ..Default::default()
    };
    let expected = cgroups_v1::Metrics {
        hugetlb: vec![page("1GB"), page("2MB")],
        pids: some(cgroups_v1::PidsStat {
            current: 1,
            ..Default::default()
        }),
        cpu: some(cgroups_v1::CPUStat {
            usage: some(cgroups_v1::CPUUsage {
                total: 18_981_479,
                kernel: 10_000_000,
                per_cpu: vec![10_067_247, 8_914_232],
                ..Default::default()
            }),
            throttling: some(cgroups_v1::Throttle::default()),
            ..Default::default()
        }),
        memory: some(cgroups_v1::MemoryStat {
            rss: 53_248,
            pg_pg_in: 552,
            pg_pg_out: 539,
            pg_fault: 915,
            inactive_anon: 49_152,
            active_anon: 4_096,
            hierarchical_memory_limit: unlimited,
            hierarchical_swap_limit: unlimited,
            total_rss: 53_248,
            total_pg_pg_in: 552,
            total_pg_pg_out: 539,
            total_pg_fault: 915,
            total_inactive_anon: 49_152,
            total_active_anon: 4_096,
            usage: entry(unlimited, 655_360, 2_248_704),
            swap: entry(unlimited, 655_360, 2_248_704),
            kernel: entry(unlimited, 241_664, 602_112),
            kernel_tcp: entry(unlimited, 0, 0),
            ..Default::default()
        }),
        blkio: some(cgroups_v1::BlkIOStat::default()),
        memory_oom_control: some(cgroups_v1::MemoryOomControl::default()),
        ..Default::default()
    };
    assert_eq!(metrics, expected);
    assert_eq!(metrics.write_to_bytes().unwrap(), answer.stats.value);
}
