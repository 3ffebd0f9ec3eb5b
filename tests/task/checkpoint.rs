//! Checkpoint: what the runtime is told, what the clients are, and that nothing else changes.

use std::path::{Path, PathBuf};

use cotter::error::Code::{InvalidArgument, NotFound, Unknown};
use cotter::error::Result;
use cotter::manager::client::Tasks;
use cotter::manager::events::{Event, Told};
use cotter::manager::spec::Spec;
use cotter::proto::runc_options::{CheckpointOptions, Options};
use cotter::proto::task::{CheckpointTaskRequest, PauseRequest, Status};
use cotter::proto::{Any, pack};

use crate::client::{SLEEP, lines, refused, until, with_each_runtime, works};
use crate::common::dumper::{Dumper, work_dir};
use crate::common::shim::Shim;

with_each_runtime! {
    the_container_runs_on, the_container_ends, a_paused_one_stays_paused, a_frozen_one_is_thawed,
    failures_keep_the_log, bad_requests_change_nothing, nothing_joins_meanwhile,
    a_client_that_leaves,
}

pub fn request(id: &str, path: &Path, options: &CheckpointOptions) -> CheckpointTaskRequest {
    CheckpointTaskRequest {
        id: id.into(),
        path: path.to_string_lossy().into_owned(),
        options: Some(pack(options).unwrap()).into(),
        ..Default::default()
    }
}

pub async fn checkpoint(shim: &Shim, path: &Path, options: &CheckpointOptions) -> Result<()> {
    let request = request("c", path, options);
    shim.tasks.checkpoint(&request).await.map(drop)
}

pub fn ending() -> CheckpointOptions {
    CheckpointOptions {
        exit: true,
        ..Default::default()
    }
}

/// A running container `c`, its events so far taken, and where its image may go.
async fn running(runtime: &'static str) -> (Shim, Dumper, PathBuf) {
    let dumper = Dumper::new(runtime);
    let mut shim = Shim::start(&dumper.path(), "c", &SLEEP).await;
    work_dir(&shim.bundle_path("c"));
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    shim.events_until(|e| matches!(e, Event::Start(_))).await;
    let image = dumper.file("image");
    (shim, dumper, image)
}

async fn end(shim: Shim) -> Vec<Told> {
    shim.remove("c").await;
    over(shim).await
}

/// Of a container that has been deleted.
async fn over(shim: Shim) -> Vec<Told> {
    std::fs::remove_dir_all(shim.bundle_path("c").join("work")).unwrap();
    shim.end().await
}

fn work(shim: &Shim) -> PathBuf {
    shim.bundle_path("c").join("work/criu-work")
}

pub async fn status(shim: &Shim) -> Status {
    shim.state("c", "").await.unwrap().status.unwrap()
}

async fn pause(shim: &Shim) {
    let request = PauseRequest {
        id: "c".into(),
        ..Default::default()
    };
    shim.tasks.pause(&request).await.unwrap();
}

/// The container's processes are frozen, as the kernel says.
fn frozen(pid: u32) -> bool {
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    cotter::cgroup::Cgroup::of_pid(pid).unwrap().is_frozen() == Some(true)
}

async fn the_container_runs_on(runtime: &'static str) {
    let (mut shim, dumper, image) = running(runtime).await;
    checkpoint(&shim, &image, &CheckpointOptions::new())
        .await
        .unwrap();
    let (i, w) = (image.display(), work(&shim));
    let argv = format!(
        "checkpoint --image-path {i} --work-path {} --leave-running c",
        w.display()
    );
    assert_eq!(dumper.calls_of("checkpoint"), [argv]);
    assert!(image.join("inventory.img").exists());
    assert!(!w.exists(), "the work directory is left");
    let told = shim
        .events_until(|e| matches!(e, Event::Checkpointed(_)))
        .await;
    let [told] = told.as_slice() else {
        panic!("{told:#?}");
    };
    assert_eq!(told.topic, "/tasks/checkpointed");
    let Event::Checkpointed(event) = &told.event else {
        unreachable!()
    };
    assert_eq!(
        (&event.container_id[..], Path::new(&event.checkpoint)),
        ("c", &*image)
    );
    works(&shim, "c").await;

    // Again, with all there is, and a work directory that is the client's.
    let kept = dumper.file("kept-work");
    let all = CheckpointOptions {
        open_tcp: true,
        external_unix_sockets: true,
        terminal: true,
        file_locks: true,
        empty_namespaces: vec!["network".into(), "ipc".into()],
        cgroups_mode: "soft".into(),
        image_path: i.to_string(),
        work_path: kept.to_string_lossy().into_owned(),
        parent_path: "../before".into(),
        ..Default::default()
    };
    checkpoint(&shim, Path::new(""), &all).await.unwrap();
    let argv = format!(
        "checkpoint --image-path {i} --work-path {} --parent-path ../before --tcp-established \
         --ext-unix-sk --shell-job --file-locks --manage-cgroups-mode soft --empty-ns network \
         --empty-ns ipc --leave-running c",
        kept.display()
    );
    assert_eq!(dumper.calls_of("checkpoint")[1], argv);
    assert!(kept.join("dump.log").exists(), "the client's is left");
    works(&shim, "c").await;
    end(shim).await;
}

async fn the_container_ends(runtime: &'static str) {
    for paused in [false, true] {
        let (mut shim, dumper, image) = running(runtime).await;
        if paused {
            pause(&shim).await;
            shim.events_until(|e| matches!(e, Event::Paused(_))).await;
        }
        checkpoint(&shim, &image, &ending()).await.unwrap();
        let call = &dumper.calls_of("checkpoint")[0];
        assert!(!call.contains("--leave-running"), "{call}");
        assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
        // The runtime has forgotten it.
        shim.delete("c", "").await.unwrap();
        let mut told = lines(&over(shim).await);
        assert_eq!(told.pop().unwrap(), "/tasks/delete c 137");
        told.sort();
        assert_eq!(told, ["/tasks/checkpointed c", "/tasks/exit c 137"]);
    }
}

async fn a_paused_one_stays_paused(runtime: &'static str) {
    let (mut shim, dumper, image) = running(runtime).await;
    pause(&shim).await;
    let pid = shim.state("c", "").await.unwrap().pid;
    checkpoint(&shim, &image, &CheckpointOptions::new())
        .await
        .unwrap();
    assert_eq!((status(&shim).await, frozen(pid)), (Status::PAUSED, true));
    for outcome in ["", "broken", "kill -9 $$"] {
        dumper.during("checkpoint", &format!("real resume \"$id\"\n{outcome}\n"));
        let done = checkpoint(&shim, &image, &CheckpointOptions::new()).await;
        assert_eq!(done.is_ok(), outcome.is_empty(), "{done:?}");
        let now = (status(&shim).await, frozen(pid));
        assert_eq!(now, (Status::PAUSED, true), "{outcome}");
    }
    let _ = std::fs::remove_file(shim.bundle_path("c").join("criu-dump.log"));
    let request = cotter::proto::task::ResumeRequest {
        id: "c".into(),
        ..Default::default()
    };
    shim.tasks.resume(&request).await.unwrap();
    works(&shim, "c").await;
    let resumed = |e: &Event| matches!(e, Event::Resumed(_));
    let told = lines(&shim.events_until(resumed).await);
    let expected = [
        "/tasks/paused c",
        "/tasks/checkpointed c",
        "/tasks/checkpointed c",
        "/tasks/resumed c",
    ];
    assert_eq!(told, expected);
    end(shim).await;
}

/// CRIU freezes what it dumps; cut off, it leaves it so.
async fn a_frozen_one_is_thawed(runtime: &'static str) {
    let (shim, dumper, image) = running(runtime).await;
    let pid = shim.state("c", "").await.unwrap().pid;
    for outcome in ["", "broken", "kill -9 $$"] {
        dumper.during("checkpoint", &format!("real pause \"$id\"\n{outcome}\n"));
        let done = checkpoint(&shim, &image, &CheckpointOptions::new()).await;
        assert_eq!(done.is_ok(), outcome.is_empty(), "{done:?}");
        let now = (status(&shim).await, frozen(pid));
        assert_eq!(now, (Status::RUNNING, false), "{outcome}");
        works(&shim, "c").await;
    }
    let _ = std::fs::remove_file(shim.bundle_path("c").join("criu-dump.log"));
    end(shim).await;
}

async fn failures_keep_the_log(runtime: &'static str) {
    let (shim, dumper, image) = running(runtime).await;
    let kept = shim.bundle_path("c").join("criu-dump.log");
    let fails = async |text: &str| {
        let failed = checkpoint(&shim, &image, &ending()).await;
        refused(failed.clone(), Unknown, text);
        assert!(!work(&shim).exists(), "the work directory is left");
        works(&shim, "c").await;
        failed.unwrap_err().message
    };
    dumper.during("checkpoint", "broken \"$work/dump.log\"\n");
    let message = fails("OCI runtime checkpoint failed: criu failed").await;
    let whole = format!(
        "OCI runtime checkpoint failed: criu failed: type NOTIFY errno 0 path= {}",
        kept.display()
    );
    assert_eq!(message, whole);
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "a dump\n");
    // The log of that failure is none of this one.
    dumper.during("checkpoint", "rm \"$work/dump.log\"; broken x\n");
    let message = fails("OCI runtime checkpoint failed: criu failed").await;
    assert!(!message.contains("path="), "{message}");
    assert!(!kept.exists());
    dumper.nothing_during("checkpoint");
    checkpoint(&shim, &image, &CheckpointOptions::new())
        .await
        .unwrap();
    let told = lines(&end(shim).await);
    let checkpoints = told.iter().filter(|line| line.contains("checkpointed"));
    assert_eq!(checkpoints.count(), 1, "{told:#?}");
}

async fn bad_requests_change_nothing(runtime: &'static str) {
    let (shim, dumper, image) = running(runtime).await;
    let plain = CheckpointOptions::new();
    let relative = CheckpointOptions {
        work_path: "work".into(),
        ..plain.clone()
    };
    for (path, options, words) in [
        ("", &plain, "path \"\" is not an absolute path"),
        ("image", &plain, "path \"image\" is not an absolute path"),
        ("../i\n", &plain, "path \"../i\\n\" is not an absolute path"),
        (
            "/i",
            &relative,
            "work_path \"work\" is not an absolute path",
        ),
    ] {
        let answer = checkpoint(&shim, Path::new(path), options).await;
        refused(answer, InvalidArgument, words);
    }
    let any = |type_url: &str, value: &[u8]| Any {
        type_url: type_url.into(),
        value: value.into(),
        ..Default::default()
    };
    let wrong = |url: &str| {
        format!("can't unmarshal type \"{url}\" to output \"containerd.runc.v1.CheckpointOptions\"")
    };
    for (options, code, words) in [
        (
            pack(&Options::new()).unwrap(),
            Unknown,
            wrong("containerd.runc.v1.Options"),
        ),
        (any("nope.Foo", b"\x08\x01"), Unknown, wrong("nope.Foo")),
        (
            any("containerd.runc.v1.CheckpointOptions", b"\xff"),
            InvalidArgument,
            "options of type containerd.runc.v1.CheckpointOptions".into(),
        ),
    ] {
        let request = CheckpointTaskRequest {
            options: Some(options).into(),
            ..request("c", &image, &plain)
        };
        refused(shim.tasks.checkpoint(&request).await, code, &words);
    }
    let nobody = request("nobody", &image, &plain);
    let answer = shim.tasks.checkpoint(&nobody).await;
    refused(answer, NotFound, "container not created: not found");
    // What only the runtime can know.
    let nul = checkpoint(&shim, Path::new("/a\0b"), &plain).await;
    refused(nul, Unknown, "OCI runtime checkpoint failed: ");
    assert_eq!(dumper.calls_of("checkpoint"), [""; 0]);
    works(&shim, "c").await;
    // No options at all are the defaults.
    let request = CheckpointTaskRequest {
        options: None.into(),
        ..request("c", &image, &plain)
    };
    shim.tasks.checkpoint(&request).await.unwrap();
    assert!(dumper.calls_of("checkpoint")[0].ends_with("--leave-running c"));
    end(shim).await;
}

/// Starts of execs wait, and find the container ended or as it was. Questions, kills and the other
/// containers do not.
async fn nothing_joins_meanwhile(runtime: &'static str) {
    for ends in [false, true] {
        let (mut shim, dumper, image) = running(runtime).await;
        shim.run("d", &SLEEP).await;
        work_dir(&shim.bundle_path("d"));
        shim.tasks
            .exec(&shim.exec_request("c", "x", &SLEEP))
            .await
            .unwrap();
        dumper.during("checkpoint", "gate\n");
        let options = CheckpointOptions {
            exit: ends,
            ..Default::default()
        };
        let (tasks, asked) = (shim.tasks.clone(), request("c", &image, &options));
        let dump = tokio::spawn(async move { tasks.checkpoint(&asked).await });
        dumper.reached().await;
        let start = cotter::proto::task::StartRequest {
            id: "c".into(),
            exec_id: "x".into(),
            ..Default::default()
        };
        let tasks = shim.tasks.clone();
        let start = tokio::spawn(async move { tasks.start(&start).await });
        works(&shim, "d").await;
        assert_eq!(status(&shim).await, Status::RUNNING);
        let exec = shim.state("c", "x").await.unwrap();
        assert_eq!((exec.status.unwrap(), exec.pid), (Status::CREATED, 0));
        shim.kill("c", "", 0).await.unwrap();
        assert!(!start.is_finished());
        dumper.open().await;
        dump.await.unwrap().unwrap();
        let started = start.await.unwrap();
        let calls = dumper.calls();
        let at = |call: &str| calls.iter().rposition(|line| line.starts_with(call));
        if ends {
            let error = started.unwrap_err();
            let late = error.message.contains("init process is not running");
            assert!(
                late || error.message.starts_with("OCI runtime exec failed"),
                "{error}"
            );
        } else {
            started.unwrap();
            let mine = calls
                .iter()
                .position(|line| line.starts_with("exec ") && line.contains("/c/"));
            assert!(at("done checkpoint") < mine, "{calls:#?}");
            shim.kill("c", "x", 9).await.unwrap();
            shim.wait("c", "x").await.unwrap();
        }
        shim.delete("c", "x").await.unwrap();
        shim.remove("d").await;
        std::fs::remove_dir_all(shim.bundle_path("d").join("work")).unwrap();
        end(shim).await;
    }
}

async fn a_client_that_leaves(runtime: &'static str) {
    let (mut shim, dumper, image) = running(runtime).await;
    dumper.during("checkpoint", "gate\n");
    let tasks = Tasks::connect(&shim.endpoint).await.unwrap();
    let asked = request("c", &image, &CheckpointOptions::new());
    let held = tokio::spawn(async move { tasks.checkpoint(&asked).await });
    dumper.reached().await;
    held.abort();
    assert!(held.await.unwrap_err().is_cancelled());
    dumper.open().await;
    shim.events_until(|e| matches!(e, Event::Checkpointed(_)))
        .await;
    until("its work directory is gone", async || !work(&shim).exists()).await;
    works(&shim, "c").await;
    end(shim).await;
}

/// A spec of the same, for a container with a program of its own.
pub fn shell(id: &str, script: &str) -> Spec {
    Spec::new(id, ["sh", "-c", script])
}
