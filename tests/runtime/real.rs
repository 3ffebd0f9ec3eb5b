//! runc and crun.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use cotter::error::{Code, Error};
use cotter::runtime::{CreateOptions, ExecOptions, Fds, Kind, Runtime, read_pid_file};
use serde_json::{Value, json};

use super::{World, leftovers, within};

pub async fn all(world: &mut World, binary: &str) {
    let runtime = world.runtime(Path::new(binary), binary);
    let bundle = runtime.log.parent().expect("bundle").to_owned();
    let id = format!("cotter-{}-{binary}", std::process::id());
    fill(
        &bundle,
        json!(["/bin/sh", "-c", "echo from init; exec sleep 1000"]),
    );
    let options = CreateOptions {
        pid_file: bundle.join("init.pid"),
        ..Default::default()
    };

    unknown(&runtime, &id).await;

    let (mut output, fds) = with_stdout();
    let created = runtime.create(&id, &bundle, &options, fds);
    within("create", created).await.expect("create");
    let init = read_pid_file(&options.pid_file).expect("pid file");

    let created = runtime.create(&id, &bundle, &options, Fds::default());
    let error = within("create", created)
        .await
        .expect_err("the id is taken");
    assert!(error.message.contains("already exist"), "{error}");

    within("start", runtime.start(&id)).await.expect("start");
    let mut line = [0; 10];
    output.read_exact(&mut line).expect("read");
    assert_eq!(&line, b"from init\n");
    assert_eq!(within("ps", runtime.ps(&id)).await, Ok(vec![init]));
    within("pause", runtime.pause(&id)).await.expect("pause");
    within("resume", runtime.resume(&id)).await.expect("resume");
    let resources = json!({"pids": {"limit": 77}}).to_string();
    within("update", runtime.update(&id, resources.as_bytes()))
        .await
        .expect("update");
    let error = within("update", runtime.update(&id, b"nope")).await;
    assert!(matches!(error.expect_err("no JSON").kind, Kind::Failed(_)));

    execs(world, &runtime, &id).await;
    failing_execs(&runtime, &id).await;

    let error = within("kill", runtime.kill(&id, 999, false)).await;
    let error = Error::from(error.expect_err("no signal"));
    assert_eq!(error.code, Code::Unknown);
    assert!(
        error.message.starts_with("unknown error after kill: "),
        "{error}"
    );
    assert!(
        error.message.to_lowercase().contains("invalid argument"),
        "{error}"
    );

    within("kill", runtime.kill(&id, 9, false))
        .await
        .expect("kill");
    assert_eq!(world.exit_of(init).await, 137);
    let error = within("kill", runtime.kill(&id, 9, false)).await;
    let error = Error::from(error.expect_err("it is dead"));
    assert_eq!(error, Error::not_found("process already finished"));
    within("delete", runtime.delete(&id, false))
        .await
        .expect("delete");
    unknown(&runtime, &id).await;
    within("delete", runtime.delete(&id, true))
        .await
        .expect("nothing to do");

    bad_program(world, &runtime, &id).await;
    let features = within("features", runtime.features()).await;
    match features {
        Ok(json) => assert!(serde_json::from_slice::<Value>(&json).is_ok()),
        Err(error) => assert!(error.message.contains("unknown command"), "{error}"),
    }
    assert_eq!(leftovers(&runtime), Vec::<String>::new());
}

/// A bundle with busybox and nothing else.
fn fill(bundle: &Path, args: Value) {
    let bin = bundle.join("rootfs/bin");
    fs::create_dir_all(&bin).expect("rootfs");
    for directory in ["proc", "dev"] {
        fs::create_dir_all(bundle.join("rootfs").join(directory)).expect("rootfs");
    }
    if !bin.join("busybox").exists() {
        fs::copy("/usr/bin/busybox", bin.join("busybox")).expect("busybox-static");
        for applet in ["sh", "sleep", "true"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("link");
        }
    }
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| json!({"type": kind}));
    let config = json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {"namespaces": namespaces},
    });
    fs::write(bundle.join("config.json"), config.to_string()).expect("config.json");
}

fn process(args: Value) -> Value {
    json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}})
}

fn with_stdout() -> (io::PipeReader, Fds) {
    let (read, write) = io::pipe().expect("pipe");
    let fds = Fds {
        stdout: Some(write.into()),
        ..Default::default()
    };
    (read, fds)
}

async fn unknown(runtime: &Runtime, id: &str) {
    let error = within("kill", runtime.kill(id, 9, false)).await;
    let error = Error::from(error.expect_err("no such container"));
    assert_eq!(error, Error::not_found("no such container"));
    let error = within("delete", runtime.delete(id, false)).await;
    let error = error.expect_err("no such container");
    assert!(error.no_such_container(), "{error}");
}

async fn execs(world: &mut World, runtime: &Runtime, id: &str) {
    let bundle = runtime.log.parent().expect("bundle");
    let options = ExecOptions {
        pid_file: bundle.join("x.pid"),
        console_socket: None,
    };
    // Without streams of its own it can still write to all three.
    let script = "echo 0 >&0 && echo 1 && echo 2 >&2 && exit 5; exit 1";
    for (script, expected) in [("echo from exec; exit 3", "from exec\n"), (script, "")] {
        let (mut output, with_output) = with_stdout();
        let fds = if expected.is_empty() {
            Fds::default()
        } else {
            with_output
        };
        let spec = process(json!(["/bin/sh", "-c", script])).to_string();
        let started = runtime.exec(id, spec.as_bytes(), &options, fds);
        within("exec", started).await.expect("exec");
        let pid = read_pid_file(&options.pid_file).expect("pid file");
        let status = world.exit_of(pid).await;
        assert_eq!(status, if expected.is_empty() { 5 } else { 3 });
        if !expected.is_empty() {
            let mut text = String::new();
            output
                .read_to_string(&mut text)
                .expect("our end of it is closed");
            assert_eq!(text, expected);
        }
    }
}

/// Failures at the same time: each gets the message of its own call.
async fn failing_execs(runtime: &Runtime, id: &str) {
    let bundle = runtime.log.parent().expect("bundle").to_owned();
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (runtime, id) = (runtime.clone(), id.to_owned());
        let options = ExecOptions {
            pid_file: bundle.join(format!("x{n}.pid")),
            console_socket: None,
        };
        calls.spawn(async move {
            let program = format!("/missing-{n}-program");
            let spec = process(json!([program])).to_string();
            let called = runtime.exec(&id, spec.as_bytes(), &options, Fds::default());
            (program, called.await)
        });
    }
    while let Some(call) = within("exec", calls.join_next()).await {
        let (program, result) = call.expect("no panic");
        let error = result.expect_err("no such program");
        assert!(error.message.contains(&program), "{program}: {error}");
        assert!(
            error
                .message
                .to_lowercase()
                .contains("no such file or directory"),
            "{error}"
        );
    }
}

async fn bad_program(world: &mut World, runtime: &Runtime, id: &str) {
    let bundle = runtime.log.parent().expect("bundle");
    fill(bundle, json!(["/no/such/program"]));
    let options = CreateOptions {
        pid_file: bundle.join("init.pid"),
        ..Default::default()
    };
    let created = runtime.create(id, bundle, &options, Fds::default());
    let error = within("create", created)
        .await
        .expect_err("no such program");
    assert!(
        error.to_string().starts_with("OCI runtime create failed: "),
        "{error}"
    );
    assert!(error.message.contains("/no/such/program"), "{error}");
    within("delete", runtime.delete(id, true))
        .await
        .expect("clean up");
    assert_eq!(world.monitor.live_children(), 0);
}
