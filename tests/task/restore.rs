//! A container from a checkpoint: nothing until Start, a container like any other from then on.

use std::path::{Path, PathBuf};

use cotter::error::Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unknown};
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::{Fifos, collect};
use cotter::proto::Any;
use cotter::proto::pack;
use cotter::proto::runc_options::Options;
use cotter::proto::task::{
    CheckpointTaskRequest, ConnectRequest, CreateTaskRequest, PauseRequest, ResizePtyRequest,
    ResumeRequest, StatsRequest, Status, UpdateTaskRequest,
};

use crate::checkpoint::{checkpoint, ending, shell, status};
use crate::client::{
    NO_TIME, SLEEP, lines, pids, refused, until_catches, with_each_runtime, works,
};
use crate::common::LIMIT;
use crate::common::dumper::{Dumper, work_dir};
use crate::common::shim::Shim;
use crate::wait::waiting;

with_each_runtime! {
    from_nothing_to_a_container, there_and_back_again, deleted_unstarted, an_exit_at_once,
    a_place_without_images, a_name_that_is_taken, without_a_runtime, a_terminal, its_memory_is_watched,
}

async fn shim(runtime: &'static str, spec: Spec) -> (Shim, Dumper) {
    let dumper = Dumper::new(runtime);
    let dialect = cotter::manager::dialect::Dialect::Proto23;
    let shim = Shim::start_as(dialect, &dumper.path(), spec, "c").await;
    work_dir(&shim.bundle_path("c"));
    (shim, dumper)
}

fn from(shim: &Shim, image: &Path) -> CreateTaskRequest {
    CreateTaskRequest {
        checkpoint: image.to_string_lossy().into_owned(),
        ..shim.create_request("c")
    }
}

async fn end(shim: Shim) -> Vec<String> {
    std::fs::remove_dir_all(shim.bundle_path("c").join("work")).unwrap();
    lines(&shim.end().await)
}

/// What cannot be done to what does not exist yet.
async fn refuses_everything(shim: &Shim) {
    let id = || "c".to_owned();
    let pause = PauseRequest {
        id: id(),
        ..Default::default()
    };
    let answer = shim.tasks.pause(&pause).await;
    refused(answer, Unknown, "cannot pause task in created state");
    let resume = ResumeRequest {
        id: id(),
        ..Default::default()
    };
    let answer = shim.tasks.resume(&resume).await;
    refused(answer, Unknown, "cannot resume task in created state");
    let dump = CheckpointTaskRequest {
        id: id(),
        path: "/i".into(),
        ..Default::default()
    };
    let answer = shim.tasks.checkpoint(&dump).await;
    refused(answer, Unknown, "cannot checkpoint a task in created state");
    let resources = Any {
        value: b"{}".into(),
        ..Default::default()
    };
    let update = UpdateTaskRequest {
        id: id(),
        resources: Some(resources).into(),
        ..Default::default()
    };
    refused(
        shim.tasks.update(&update).await,
        Unknown,
        "container does not exist",
    );
    let exec = shim.tasks.exec(&shim.exec_request("c", "x", &SLEEP)).await;
    refused(exec, Unknown, "cannot exec in a created state");
    for signal in [0, 9, 15] {
        let words = "process not created: failed precondition";
        refused(shim.kill("c", "", signal).await, FailedPrecondition, words);
    }
    let stats = StatsRequest {
        id: id(),
        ..Default::default()
    };
    refused(
        shim.tasks.stats(&stats).await,
        NotFound,
        "cgroup does not exist",
    );
    assert_eq!(pids(shim, "c").await.unwrap().processes, []);
    let connect = ConnectRequest {
        id: id(),
        ..Default::default()
    };
    assert_eq!(shim.tasks.connect_task(&connect).await.unwrap().task_pid, 0);
    let again = shim.tasks.create(&shim.create_request("c")).await;
    refused(
        again,
        AlreadyExists,
        "container with given ID already exists",
    );
    let state = shim.state("c", "").await.unwrap();
    assert_eq!((state.status.unwrap(), state.pid), (Status::CREATED, 0));
    assert_eq!(state.exited_at.seconds, NO_TIME);
}

async fn from_nothing_to_a_container(runtime: &'static str) {
    let (mut shim, dumper) = shim(runtime, Spec::new("c", SLEEP)).await;
    let image = dumper.image("image");
    let work = dumper.file("criu");
    let options = Options {
        no_pivot_root: true,
        criu_work_path: work.to_string_lossy().into_owned(),
        ..shim.options.clone()
    };
    let request = CreateTaskRequest {
        options: Some(pack(&options).unwrap()).into(),
        ..from(&shim, &image)
    };
    assert_eq!(shim.tasks.create(&request).await.unwrap().pid, 0);
    let waiter = waiting(&shim, "").await;
    refuses_everything(&shim).await;
    assert_eq!(dumper.calls(), [""; 0], "the runtime was called");

    let pid = shim.start_process("c", "").await.unwrap();
    let (i, w) = (image.display(), work.display());
    let pid_file = shim.bundle_path("c").join("init.pid");
    let argv = format!(
        "restore --image-path {i} --work-path {w} --detach --pid-file {} --no-pivot --bundle {} c",
        pid_file.display(),
        shim.bundle_path("c").display()
    );
    assert_eq!(dumper.calls_of("restore"), [argv]);
    let told = shim.events_until(|e| matches!(e, Event::Start(_))).await;
    let [created, started] = told.as_slice() else {
        panic!("{told:#?}");
    };
    let (Event::Create(created), Event::Start(started)) = (&created.event, &started.event) else {
        panic!("{told:#?}");
    };
    assert_eq!((created.pid, Path::new(&created.checkpoint)), (0, &*image));
    assert_eq!(started.pid, pid);
    let state = shim.state("c", "").await.unwrap();
    assert_eq!((state.status.unwrap(), state.pid), (Status::RUNNING, pid));
    works(&shim, "c").await;
    let stats = StatsRequest {
        id: "c".into(),
        ..Default::default()
    };
    assert!(shim.tasks.stats(&stats).await.unwrap().stats.is_some());
    assert_eq!(pids(&shim, "c").await.unwrap().processes[0].pid, pid);
    refused(
        shim.start_process("c", "").await,
        Unknown,
        "cannot start a running process",
    );
    shim.kill("c", "", 9).await.unwrap();
    assert_eq!(waiter.await.unwrap().unwrap().exit_status, 137);
    let deleted = shim.delete("c", "").await.unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    let told = end(shim).await;
    assert_eq!(
        told[told.len() - 2..],
        ["/tasks/exit c 137", "/tasks/delete c 137"]
    );
}

/// Checkpointed with the end of the container, deleted, created from what was written, started, and
/// once more; with its streams.
async fn there_and_back_again(runtime: &'static str) {
    let script = "echo here; exec sleep 1000";
    let (shim, dumper) = shim(runtime, shell("c", script)).await;
    let work = work_dir(&shim.bundle_path("c"));
    let mut image = PathBuf::new();
    for turn in 0..3 {
        let fifos = Fifos::create(shim.dir(), &format!("f{turn}"), false).unwrap();
        let mut output = collect(&fifos.stdout).unwrap();
        let create = match turn {
            0 => shim.create_request("c"),
            _ => from(&shim, &image),
        };
        let create = CreateTaskRequest {
            stdout: fifos.stdout.clone(),
            ..create
        };
        shim.tasks.create(&create).await.unwrap();
        if turn > 0 {
            // It takes the streams from nobody.
            dumper.during("restore", "broken x\n");
            refused(shim.start_process("c", "").await, Unknown, "criu failed");
            dumper.nothing_during("restore");
        }
        shim.start_process("c", "").await.unwrap();
        let said = tokio::time::timeout(LIMIT, output.next()).await.unwrap();
        assert_eq!(said.unwrap(), b"here\n");
        works(&shim, "c").await;
        image = dumper.file(&format!("image{turn}"));
        checkpoint(&shim, &image, &ending()).await.unwrap();
        shim.wait("c", "").await.unwrap();
        // Its end comes with the exit: nobody else holds the stream.
        assert_eq!(output.finish(LIMIT).await.unwrap(), b"");
        shim.delete("c", "").await.unwrap();
    }
    let call = &dumper.calls_of("restore")[0];
    let default = format!("--work-path {} ", work.display());
    assert!(call.contains(&default), "{call}");
    end(shim).await;
}

async fn deleted_unstarted(runtime: &'static str) {
    let (shim, dumper) = shim(runtime, Spec::new("c", SLEEP)).await;
    let image = dumper.image("image");
    assert_eq!(
        shim.tasks.create(&from(&shim, &image)).await.unwrap().pid,
        0
    );
    let waiter = waiting(&shim, "").await;
    assert!(!waiter.is_finished());
    let deleted = shim.delete("c", "").await.unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (0, 0));
    assert_eq!(deleted.exited_at.seconds, NO_TIME);
    let waited = waiter.await.unwrap().unwrap();
    assert_eq!((waited.exit_status, waited.exited_at.seconds), (0, NO_TIME));
    refused(shim.state("c", "").await, NotFound, "container not created");
    assert_eq!(dumper.calls(), [""; 0], "the runtime was called");
    assert_eq!(end(shim).await, ["/tasks/create c", "/tasks/delete c 0"]);
}

/// Restored, and gone before its pid is known.
async fn an_exit_at_once(runtime: &'static str) {
    let (shim, dumper) = shim(runtime, shell("c", "exit 7")).await;
    let image = dumper.image("image");
    const TURNS: usize = 10;
    for turn in 0..TURNS {
        // Every other one is reaped before the runtime returns.
        if turn % 2 == 1 {
            let reaped = "real create --bundle \"$bundle\" --pid-file \"$pid_file\" \"$id\" &&\n\
                 real start \"$id\" && pid=$(cat \"$pid_file\") &&\n\
                 while [ -e \"/proc/$pid\" ]; do sleep 0.01; done\nexit\n";
            dumper.during("restore", reaped);
        } else if turn > 0 {
            dumper.nothing_during("restore");
        }
        shim.tasks.create(&from(&shim, &image)).await.unwrap();
        assert!(shim.start_process("c", "").await.unwrap() > 0);
        assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 7);
        shim.delete("c", "").await.unwrap();
    }
    let one = [
        "/tasks/create c",
        "/tasks/start c",
        "/tasks/exit c 7",
        "/tasks/delete c 7",
    ];
    assert_eq!(end(shim).await, one.repeat(TURNS));
}

async fn a_place_without_images(runtime: &'static str) {
    let (shim, dumper) = shim(runtime, Spec::new("c", SLEEP)).await;
    let image = dumper.image("image");
    let (missing, empty) = (dumper.file("missing"), dumper.file("empty"));
    std::fs::create_dir(&empty).unwrap();
    let file = image.join("inventory.img");
    for (path, code) in [
        (&*missing, NotFound),
        (&*empty, NotFound),
        (&*file, Unknown),
        (Path::new("image"), InvalidArgument),
    ] {
        let answer = shim.tasks.create(&from(&shim, path)).await;
        refused(answer, code, path.to_str().unwrap());
        refused(shim.state("c", "").await, NotFound, "container not created");
    }
    // What was there at Create is not at Start: no fresh program in its place.
    shim.tasks.create(&from(&shim, &image)).await.unwrap();
    let away = dumper.file("away");
    std::fs::rename(&image, &away).unwrap();
    let answer = shim.start_process("c", "").await;
    refused(answer, NotFound, image.to_str().unwrap());
    std::fs::create_dir(&image).unwrap();
    let answer = shim.start_process("c", "").await;
    refused(answer, NotFound, image.to_str().unwrap());
    assert_eq!(dumper.calls(), [""; 0], "the runtime was called");
    // Something, but not what CRIU wants.
    std::fs::write(image.join("junk"), "").unwrap();
    let answer = shim.start_process("c", "").await;
    let words = "OCI runtime restore failed: criu failed: type NOTIFY errno 0; log file: ";
    refused(answer, Unknown, words);
    refuses_everything(&shim).await;
    std::fs::remove_dir_all(&image).unwrap();
    std::fs::rename(&away, &image).unwrap();
    shim.start_process("c", "").await.unwrap();
    works(&shim, "c").await;
    shim.remove("c").await;
    let told = end(shim).await;
    assert_eq!(
        told[..2],
        ["/tasks/create c", "/tasks/start c"],
        "{told:#?}"
    );
}

/// A container of this name that is not the shim's is not harmed.
async fn a_name_that_is_taken(runtime: &'static str) {
    let (shim, dumper) = shim(runtime, Spec::new("c", SLEEP)).await;
    let image = dumper.image("image");
    let state = shim.state_dir().join("c");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("somebody's"), "").unwrap();
    let answer = shim.tasks.create(&from(&shim, &image)).await;
    refused(
        answer,
        AlreadyExists,
        "container with given ID already exists",
    );
    assert!(state.join("somebody's").exists());
    std::fs::remove_dir_all(&state).unwrap();
    shim.tasks.create(&from(&shim, &image)).await.unwrap();
    shim.start_process("c", "").await.unwrap();
    shim.remove("c").await;
    end(shim).await;
}

async fn without_a_runtime(runtime: &'static str) {
    let (shim, dumper) = shim(runtime, Spec::new("c", SLEEP)).await;
    let image = dumper.image("image");
    let options = Options {
        binary_name: "/nonexistent/runtime".into(),
        ..shim.options.clone()
    };
    let create = CreateTaskRequest {
        options: Some(pack(&options).unwrap()).into(),
        ..from(&shim, &image)
    };
    shim.tasks.create(&create).await.unwrap();
    let words = "fork/exec /nonexistent/runtime: no such file or directory";
    refused(shim.start_process("c", "").await, Unknown, words);
    assert_eq!(status(&shim).await, Status::CREATED);
    shim.delete("c", "").await.unwrap();
    assert_eq!(end(shim).await, ["/tasks/create c", "/tasks/delete c 0"]);
}

async fn a_terminal(runtime: &'static str) {
    let mut spec = shell("c", "tty; stty size; exec sleep 1000");
    spec.terminal = true;
    let (shim, dumper) = shim(runtime, spec).await;
    let image = dumper.image("image");
    let fifos = Fifos::create(shim.dir(), "f", true).unwrap();
    let mut screen = collect(&fifos.stdout).unwrap();
    let create = CreateTaskRequest {
        terminal: true,
        stdin: fifos.stdin.clone(),
        stdout: fifos.stdout.clone(),
        ..from(&shim, &image)
    };
    shim.tasks.create(&create).await.unwrap();
    let size = ResizePtyRequest {
        id: "c".into(),
        width: 77,
        height: 33,
        ..Default::default()
    };
    shim.tasks.resize_pty(&size).await.unwrap();
    // A restore that fails takes nothing from the next one.
    dumper.during("restore", "broken x\n");
    refused(shim.start_process("c", "").await, Unknown, "criu failed");
    dumper.nothing_during("restore");
    shim.start_process("c", "").await.unwrap();
    assert!(dumper.calls_of("restore")[1].contains(" --console-socket /"));
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("/dev/pts/") {
        let more = tokio::time::timeout(LIMIT, screen.next()).await.unwrap();
        seen.extend(more.unwrap());
    }
    works(&shim, "c").await;
    shim.remove("c").await;
    end(shim).await;
}

/// An OOM kill of a child, which only the watch of its cgroup can tell of.
async fn its_memory_is_watched(runtime: &'static str) {
    let hungry = "trap 'tail /dev/zero' USR1; while :; do sleep 0.05; done";
    let mut spec = shell("c", hungry);
    spec.memory_limit = Some(24 << 20);
    let (mut shim, dumper) = shim(runtime, spec).await;
    let image = dumper.image("image");
    shim.tasks.create(&from(&shim, &image)).await.unwrap();
    let pid = shim.start_process("c", "").await.unwrap();
    until_catches(pid, 10).await;
    shim.kill("c", "", 10).await.unwrap();
    shim.events_until(|e| matches!(e, Event::Oom(_))).await;
    assert_eq!(status(&shim).await, Status::RUNNING);
    shim.remove("c").await;
    end(shim).await;
}
