//! Create: ids, what a second one must not do, what a failed one must not leave, and a container
//! that is deleted before it is started.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use cotter::error::Code::{AlreadyExists, NotFound, Unknown};
use cotter::manager::dialect::Dialect;
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::proto::runc_options::Options;
use cotter::proto::task::{CreateTaskRequest, Status};
use cotter::proto::{Any, pack, types};
use tokio::task::JoinSet;

use crate::client::{
    SLEEP, contents, create, lines, mounts, pids, recent, refused, with_each_runtime, works,
};
use crate::common::run as command;
use crate::common::shim::{Shim, a_moment};
use crate::common::tool;

with_each_runtime! {
    a_second_one_harms_nothing, of_many_at_once_one_wins, an_id_is_free_after_delete,
    a_failed_one_leaves_nothing, a_program_that_is_not_there, deleted_before_start,
    another_shims_container_is_left_alone, all_that_is_told,
}

/// A container with mounts, options and FIFOs of its own, and a second Create of the same id that
/// wants all of them different.
#[expect(clippy::too_many_lines, reason = "one container's life, step by step")]
async fn a_second_one_harms_nothing(runtime: &'static str) {
    let spec = Spec {
        rootfs: "./rootfs".into(),
        ..Spec::new("c", SLEEP)
    };
    let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
    let bind = |source: &Path| types::Mount {
        type_: "bind".into(),
        source: source.to_string_lossy().into_owned(),
        options: vec!["rbind".into(), "rw".into()],
        ..Default::default()
    };
    let first = CreateTaskRequest {
        rootfs: vec![bind(&tool("ROOTFS"))],
        ..shim.create_request("c")
    };
    let pid = create(&shim, &first).await.unwrap();
    let bundle = shim.bundle_path("c");
    let before = (contents(&bundle), mounts(&bundle));
    assert_eq!(before.1.len(), 1);

    let other_bundle = shim.bundle("other", Spec::new("c", ["false"]));
    let other_before = contents(&other_bundle);
    let options = Options {
        binary_name: "other".into(),
        no_pivot_root: true,
        ..Default::default()
    };
    let seconds = [
        first.clone(),
        CreateTaskRequest {
            rootfs: vec![bind(Path::new("/etc"))],
            ..first.clone()
        },
        CreateTaskRequest {
            options: Some(pack(&options).unwrap()).into(),
            ..first.clone()
        },
        CreateTaskRequest {
            bundle: other_bundle.to_string_lossy().into_owned(),
            ..first.clone()
        },
        CreateTaskRequest {
            bundle: "/nonexistent".into(),
            ..first.clone()
        },
    ];
    for start in [false, true] {
        if start {
            shim.start_process("c", "").await.unwrap();
        }
        for second in &seconds {
            refused(
                create(&shim, second).await,
                AlreadyExists,
                "container with given ID already exists",
            );
            assert_eq!((contents(&bundle), mounts(&bundle)), before);
            assert_eq!(contents(&other_bundle), other_before);
        }
        let state = shim.state("c", "").await.unwrap();
        let expected = if start {
            Status::RUNNING
        } else {
            Status::CREATED
        };
        assert_eq!((state.pid, state.status.unwrap()), (pid, expected));
    }
    works(&shim, "c").await;
    // Stopped, it still has its id.
    shim.kill("c", "", 9).await.unwrap();
    shim.wait("c", "").await.unwrap();
    refused(
        create(&shim, &first).await,
        AlreadyExists,
        "container with given ID already exists",
    );
    assert_eq!(mounts(&bundle).len(), 1);
    shim.delete("c", "").await.unwrap();
    assert_eq!(mounts(&bundle), [""; 0]);
    create(&shim, &first).await.unwrap();
    shim.start_process("c", "").await.unwrap();
    works(&shim, "c").await;
    shim.remove("c").await;
    shim.end().await;
}

async fn of_many_at_once_one_wins(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    let mut set = JoinSet::new();
    for _ in 0..8 {
        let (tasks, request) = (shim.tasks.clone(), shim.create_request("c"));
        set.spawn(async move { tasks.create(&request).await });
    }
    let mut pids = Vec::new();
    while let Some(answer) = set.join_next().await {
        match answer.unwrap() {
            Ok(created) => pids.push(created.pid),
            other => refused(
                other,
                AlreadyExists,
                "container with given ID already exists",
            ),
        }
    }
    assert_eq!(pids.len(), 1);
    assert_eq!(shim.start_process("c", "").await.unwrap(), pids[0]);
    works(&shim, "c").await;
    shim.remove("c").await;
    let told = shim
        .events_until(|event| matches!(event, Event::Delete(_)))
        .await;
    assert_eq!(lines(&told)[..2], ["/tasks/create c", "/tasks/start c"]);
    shim.end().await;
}

async fn an_id_is_free_after_delete(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &["sh", "-c", "exit 5"]).await;
    for _ in 0..3 {
        let pid = shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 5);
        assert_eq!(shim.delete("c", "").await.unwrap().pid, pid);
        refused(shim.state("c", "").await, NotFound, "container not created");
        let told = shim
            .events_until(|event| matches!(event, Event::Delete(_)))
            .await;
        let expected = [
            "/tasks/create c",
            "/tasks/start c",
            "/tasks/exit c 5",
            "/tasks/delete c 5",
        ];
        assert_eq!(lines(&told), expected);
    }
    // At once: whatever the first has not finished must not meet the second.
    for _ in 0..10 {
        shim.create("c").await.unwrap();
        shim.delete("c", "").await.unwrap();
    }
    shim.end().await;
}

/// Fails in the runtime, after everything else has been done.
async fn a_failed_one_leaves_nothing(runtime: &'static str) {
    let shim = Shim::start(runtime, "c", &SLEEP).await;
    let bundle = shim.bundle_path("c");
    let config = std::fs::read_to_string(bundle.join("config.json")).unwrap();
    let fresh = contents(&bundle);
    let fifos = shim.fifos("f", true);
    // A namespace to join that is none.
    let broken = config.replace(
        r#"{"type":"uts"}"#,
        r#"{"type":"uts","path":"/nonexistent/ns"}"#,
    );
    assert_ne!(broken, config);
    std::fs::write(bundle.join("config.json"), broken).unwrap();
    refused(
        shim.create_with("c", &fifos).await.map(drop),
        Unknown,
        "OCI runtime create failed: ",
    );
    std::fs::write(bundle.join("config.json"), config).unwrap();
    let names = |all: Vec<(String, u64, String)>| -> Vec<String> {
        all.into_iter()
            .map(|(name, ..)| name)
            .filter(|name| name != "log.json")
            .collect()
    };
    assert_eq!(names(contents(&bundle)), names(fresh));
    assert!(!shim.state_dir().join("c").exists());
    refused(
        shim.state("c", "").await,
        NotFound,
        "container not created: not found",
    );
    refused(
        shim.delete("c", "").await,
        NotFound,
        "container not created: not found",
    );

    shim.create_with("c", &fifos).await.unwrap();
    shim.start_process("c", "").await.unwrap();
    works(&shim, "c").await;
    shim.remove("c").await;
    shim.end().await;
}

/// What moby and others look for stands behind the words they look behind.
async fn a_program_that_is_not_there(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &["/no/such"]).await;
    shim.bundle("d", Spec::new("d", ["nosuch"]));
    for id in ["c", "d"] {
        let error = shim.create(id).await.unwrap_err();
        assert_eq!(error.code, Unknown);
        let reason = error
            .message
            .strip_prefix("OCI runtime create failed: ")
            .unwrap();
        let known = ["executable file", "no such file or directory"];
        let lower = reason.to_lowercase();
        assert!(known.iter().any(|words| lower.contains(words)), "{reason}");
        assert!(
            reason.contains("no/such") || reason.contains("nosuch"),
            "{reason}"
        );
        refused(
            shim.delete(id, "").await,
            NotFound,
            "container not created: not found",
        );
    }
    // Nobody was told of what never was.
    assert_eq!(shim.end().await, []);
}

async fn deleted_before_start(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    let before = SystemTime::now();
    let pid = shim.create("c").await.unwrap();
    shim.tasks
        .exec(&shim.exec_request("c", "x", &["true"]))
        .await
        .unwrap();
    let deleted = shim.delete("c", "").await.unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    recent(&deleted.exited_at, before);
    refused(pids(&shim, "c").await, NotFound, "container not created");
    let told = shim
        .events_until(|event| matches!(event, Event::Delete(_)))
        .await;
    let expected = [
        "/tasks/create c",
        "/tasks/exec-added x",
        "/tasks/exit c 137",
        "/tasks/delete c 137",
    ];
    assert_eq!(lines(&told), expected);
    let (Event::Exit(exit), Event::Delete(delete)) = (&told[2].event, &told[3].event) else {
        unreachable!("as the lines say");
    };
    assert_eq!((exit.pid, &exit.exited_at), (pid, &deleted.exited_at));
    assert_eq!((delete.pid, &delete.exited_at), (pid, &deleted.exited_at));
    assert_eq!(shim.end().await, []);
}

/// A container of the same id that somebody else has made in the same place.
async fn another_shims_container_is_left_alone(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    let theirs = shim.bundle("theirs", Spec::new("theirs", SLEEP));
    let call = |args: &[&str]| {
        let mut call = Command::new(tool(runtime));
        call.arg("--root").arg(shim.state_dir()).args(args);
        call.env(crate::common::census::MARK, &shim.namespace);
        command(&mut call)
    };
    std::fs::create_dir_all(shim.state_dir()).unwrap();
    // With streams of their own: init keeps what the runtime was given.
    let mut make = Command::new("sh");
    make.arg("-c")
        .arg(r#""$@" >/dev/null 2>&1 </dev/null"#)
        .arg("sh")
        .arg(tool(runtime));
    make.arg("--root")
        .arg(shim.state_dir())
        .args(["create", "--bundle"])
        .arg(&theirs);
    make.args(["--pid-file", theirs.join("pid").to_str().unwrap(), "c"]);
    command(make.env(crate::common::census::MARK, &shim.namespace)).ok();

    refused(
        shim.create("c").await,
        Unknown,
        "OCI runtime create failed: ",
    );
    refused(
        shim.delete("c", "").await,
        NotFound,
        "container not created: not found",
    );
    call(&["start", "c"]).ok();
    let pid: u32 = std::fs::read_to_string(theirs.join("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    call(&["delete", "--force", "c"]).ok();
    std::fs::remove_file(theirs.join("pid")).unwrap();
    // Theirs gone, it is ours to make.
    while shim.state_dir().join("c").exists() {
        a_moment().await;
    }
    shim.run("c", &SLEEP).await;
    works(&shim, "c").await;
    shim.remove("c").await;
    shim.end().await;
}

/// TaskCreate tells what was asked for.
async fn all_that_is_told(runtime: &'static str) {
    let spec = Spec {
        rootfs: "./rootfs".into(),
        ..Spec::new("c", SLEEP)
    };
    let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
    let fifos = shim.fifos("f", true);
    let rootfs = types::Mount {
        type_: "bind".into(),
        source: tool("ROOTFS").to_string_lossy().into_owned(),
        options: vec!["rbind".into(), "ro".into()],
        ..Default::default()
    };
    let request = CreateTaskRequest {
        rootfs: vec![rootfs.clone()],
        stdin: fifos.stdin.clone(),
        stdout: fifos.stdout.clone(),
        ..shim.create_request("c")
    };
    let pid = create(&shim, &request).await.unwrap();
    let told = shim
        .events_until(|event| matches!(event, Event::Create(_)))
        .await;
    let [told] = &told[..] else {
        panic!("{told:?}")
    };
    let Event::Create(event) = &told.event else {
        unreachable!("waited for")
    };
    assert_eq!(
        (&told.topic[..], &told.namespace),
        ("/tasks/create", &shim.namespace)
    );
    recent(
        &told.timestamp,
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1),
    );
    assert_eq!((&event.container_id[..], event.pid), ("c", pid));
    assert_eq!(
        (&event.bundle, &event.rootfs),
        (&request.bundle, &vec![rootfs])
    );
    assert_eq!(
        (&event.io.stdin, &event.io.stdout),
        (&fifos.stdin, &fifos.stdout)
    );
    assert_eq!(
        (
            &event.io.stderr[..],
            event.io.terminal,
            &event.checkpoint[..]
        ),
        ("", false, "")
    );
    shim.delete("c", "").await.unwrap();
    shim.end().await;
}

/// No options, or a type without a value: runc, by its name, and the contract's own state directory.
#[test]
fn without_options() {
    crate::common::shim::run(async {
        let mut shim = Shim::start("RUNC", "c", &SLEEP).await;
        let empty = Any {
            type_url: "anything".into(),
            ..Default::default()
        };
        for options in [None, Some(empty)] {
            let request = CreateTaskRequest {
                options: options.into(),
                ..shim.create_request("c")
            };
            create(&shim, &request).await.unwrap();
            let state = Path::new("/run/containerd/runc").join(&shim.namespace);
            assert!(state.join("c").exists());
            shim.start_process("c", "").await.unwrap();
            works(&shim, "c").await;
            shim.remove("c").await;
            assert_eq!(contents(&state), []);
            shim.events_until(|event| matches!(event, Event::Delete(_)))
                .await;
        }
        shim.end().await;
    });
}
