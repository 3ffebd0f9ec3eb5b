//! What clients look for in errors is in the Go shim's words. Against the Go shim (`COTTER_TEST_SHIM=go`) all
//! of it holds, up to the clean-up in the end, at which that shim says more than nothing.

use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::symlink;

use cotter::error::{Code, Result};
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::proto::runc_options::Options;
use cotter::proto::task::{CreateTaskRequest, PauseRequest, UpdateTaskRequest};
use cotter::proto::{Any, pack};

use crate::client::{SLEEP, with_each_runtime, works};
use crate::common::containerd::go_shim;
use crate::common::shim::Shim;
use crate::common::tool;

with_each_runtime! {
    of_a_runtime_that_cannot_be_run,
    of_a_runtime_that_is_gone,
    of_files_that_are_missing,
}

const GONE: &str = "no such file or directory";

/// An error has these words, one after the other, and none that are not Go's.
#[track_caller]
fn says<T: Debug>(result: Result<T>, words: &[&str]) -> Code {
    let error = result.unwrap_err();
    let mut rest = error.message.as_str();
    for word in words {
        let found = rest.find(word);
        let found = found.unwrap_or_else(|| panic!("no {word:?} in {error:?}"));
        rest = &rest[found + word.len()..];
    }
    for foreign in ["os error", "No such", "Permission denied"] {
        assert!(!error.message.contains(foreign), "{error:?}");
    }
    assert_eq!(error.message.lines().count(), 1, "{error:?}");
    error.code
}

async fn beside_a_healthy_one(runtime: &str) -> Shim {
    let spec = Spec::new("c", SLEEP);
    let mut shim = Shim::start_as(Dialect::Json17, runtime, spec, "c").await;
    shim.run("c", &SLEEP).await;
    for id in ["d", "e"] {
        shim.bundle(id, Spec::new(id, SLEEP));
    }
    shim
}

async fn end(shim: Shim) {
    works(&shim, "c").await;
    shim.remove("c").await;
    shim.end().await;
}

fn with_binary(shim: &Shim, binary: &str, id: &str) -> CreateTaskRequest {
    let options = Options {
        binary_name: binary.into(),
        ..shim.options.clone()
    };
    CreateTaskRequest {
        options: Some(pack(&options).unwrap()).into(),
        ..shim.create_request(id)
    }
}

async fn of_a_runtime_that_cannot_be_run(runtime: &'static str) {
    let shim = beside_a_healthy_one(runtime).await;
    let log = shim.bundle_path("d").join("log.json");
    let log = format!("(open {}: {GONE}): ", log.display());
    let prefix = "OCI runtime create failed: unable to retrieve OCI runtime error ";
    for (binary, why) in [
        ("/no/runc", "fork/exec /no/runc: no such file or directory"),
        ("/etc/passwd", "fork/exec /etc/passwd: permission denied"),
        ("/etc", "fork/exec /etc: permission denied"),
        (
            "no-runc",
            "exec: \"no-runc\": executable file not found in $PATH",
        ),
    ] {
        let created = shim.tasks.create(&with_binary(&shim, binary, "d")).await;
        assert_eq!(says(created, &[prefix, &log, why]), Code::Unknown);
    }
    end(shim).await;
}

/// It was there at the Create.
async fn of_a_runtime_that_is_gone(runtime: &'static str) {
    let shim = beside_a_healthy_one(runtime).await;
    let link = shim.dir().join("runtime-link");
    let there = || symlink(tool(runtime), &link).unwrap();
    let away = || fs::remove_file(&link).unwrap();
    let why = format!("fork/exec {}: {GONE}", link.display());
    there();
    let create = with_binary(&shim, link.to_str().unwrap(), "e");
    shim.tasks.create(&create).await.unwrap();
    away();
    let failed = |what: &str| format!("OCI runtime {what} failed: ");
    let started = shim.start_process("e", "").await;
    says(started, &[&failed("start"), &why]);
    there();
    shim.start_process("e", "").await.unwrap();
    away();
    let exec = shim.exec("e", "x", &["true"]).await;
    says(exec, &[&failed("exec"), &why]);
    let pause = PauseRequest {
        id: "e".into(),
        ..Default::default()
    };
    says(shim.tasks.pause(&pause).await, &[&failed("pause"), &why]);
    let resources = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
        value: b"{}".to_vec(),
        ..Default::default()
    };
    let update = UpdateTaskRequest {
        id: "e".into(),
        resources: Some(resources).into(),
        ..Default::default()
    };
    says(shim.tasks.update(&update).await, &[&why]);
    there();
    shim.delete("e", "x").await.unwrap();
    shim.kill("e", "", 9).await.unwrap();
    shim.wait("e", "").await.unwrap();
    away();
    let deleted = shim.delete("e", "").await;
    says(deleted, &["failed to delete task: ", &why]);
    there();
    shim.delete("e", "").await.unwrap();
    end(shim).await;
}

async fn of_files_that_are_missing(runtime: &'static str) {
    let shim = beside_a_healthy_one(runtime).await;
    let io = "failed to create init process I/O: ";
    let create = |change: fn(&mut CreateTaskRequest)| {
        let mut request = shim.create_request("d");
        change(&mut request);
        request
    };
    let missing = create(|request| request.bundle = "/nonexistent".into());
    let code = says(
        shim.tasks.create(&missing).await,
        &["/nonexistent/", ".json: ", GONE],
    );
    assert_eq!(code, Code::NotFound);
    let binary = create(|request| request.stdout = "binary:///nonexistent/x".into());
    says(
        shim.tasks.create(&binary).await,
        &[io, "/nonexistent/x", GONE],
    );
    let file = create(|request| request.stdout = "file:///proc/x/y".into());
    says(
        shim.tasks.create(&file).await,
        &[io, "mkdir /proc/x: ", GONE],
    );
    if !go_shim() {
        // There the first leaves its container, and the second one waits.
        for change in [
            (|request| request.stdout = "/nonexistent/x".into()) as fn(&mut CreateTaskRequest),
            |request| request.stdin = "/nonexistent/x".into(),
        ] {
            let created = shim.tasks.create(&create(change)).await;
            says(created, &[io, "/nonexistent/x: ", GONE]);
        }
    }
    end(shim).await;
}
