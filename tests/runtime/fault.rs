//! A runtime that is slow, fails, is killed, says nothing, or says too much.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cotter::error::{Code, Error};
use cotter::runtime::{CreateOptions, ExecOptions, Fds, Kind, Operation, Runtime, RuntimeError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::unix::pipe::Receiver;

use super::{World, leftovers, no_children, within};

/// What it does is the last argument, the container's id.
const SCRIPT: &str = r#"#!/bin/sh
log=/dev/null; [ "$3" = --log ] && log=$4
for id; do :; done
case $id in
ok) exit 0 ;;
slow) exec sleep 1000 ;;
slow-helper) sleep 1000; exit 0 ;;
failing)
    echo '{"level":"error","msg":"an earlier one"}' >>"$log"
    echo '{"level":"error","msg":"it broke: \"x\""}' >>"$log"
    echo '{"level":"warning","msg":"careful"}' >>"$log"
    echo noise >&2; exit 3 ;;
killed) kill -9 $$ ;;
silent) exit 7 ;;
garbage) printf 'text\n\377\376{"level":"error"' >>"$log"; echo 'on stderr' >&2; exit 1 ;;
huge) head -c 3000000 /dev/zero | tr '\0' x >&2; echo ' the end' >&2; exit 1 ;;
holder) sleep 1000 & echo "left $!" >&2; exit 1 ;;
words) echo 'plain words' >&2; exit 1 ;;
here) cat config.json >&2; exit 1 ;;
list) echo '[3, 1, 2]' ;;
nothing) echo null ;;
nonsense) echo '[1, "x"]' ;;
gate-words) read -r line <"${log%/*}/gate"; echo 'last words' >&2; exit 1 ;;
9) echo 'Container not running' >&2; exit 1 ;;
gate) read -r line <"${log%/*}/gate"; echo "$line" >"${log%/*}/passed" ;;
esac
"#;

pub async fn all(world: &mut World) {
    let binary = install(world);
    let runtime = world.runtime(&binary, "fault");

    messages(&runtime).await;
    limits(&runtime).await;
    a_grandchild_keeps_the_pipe(world, &runtime).await;
    lists(&runtime).await;
    no_bundle(world, &binary).await;
    its_directory(&runtime).await;
    a_stale_pid_file(&runtime).await;
    a_dropped_call(world, &runtime).await;
    the_exit_overtakes_the_output(world, &runtime).await;

    assert_eq!(leftovers(&runtime), Vec::<String>::new());
}

fn install(world: &World) -> PathBuf {
    fs::create_dir_all(&world.directory).expect("directory");
    let binary = world.directory.join("faulty");
    fs::write(&binary, SCRIPT).expect("write");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("chmod");
    binary
}

async fn start(runtime: &Runtime, id: &str) -> RuntimeError {
    let called = within(id, runtime.start(id)).await;
    called.expect_err("made to fail")
}

async fn messages(runtime: &Runtime) {
    within("ok", runtime.start("ok"))
        .await
        .expect("does nothing");
    let bare = "faulty did not terminate successfully:";
    for (id, kind, message) in [
        ("failing", Kind::Failed(3), "it broke: \"x\"".to_owned()),
        ("killed", Kind::Killed(9), format!("{bare} signal 9")),
        ("silent", Kind::Failed(7), format!("{bare} exit status 7")),
        (
            "garbage",
            Kind::Failed(1),
            format!("{bare} exit status 1: on stderr"),
        ),
    ] {
        let error = start(runtime, id).await;
        let display = format!("OCI runtime start failed: {message}");
        assert_eq!(error.to_string(), display);
        assert_eq!((error.operation, error.kind), (Operation::Start, kind));
        assert_eq!(Error::from(error), Error::unknown(display));
    }

    let huge = start(runtime, "huge").await.message;
    assert!(
        huge.ends_with("xxxx the end"),
        "{}",
        &huge[huge.len() - 20..]
    );
    assert!((16_000..17_000).contains(&huge.len()), "{}", huge.len());

    // A kill is judged by its output; its last argument is the signal.
    let error = within("kill", runtime.kill("x", 9, true)).await;
    let error = Error::from(error.expect_err("made to fail"));
    assert_eq!(error, Error::not_found("process already finished"));
    let common = fs::read(&runtime.log).expect("the common log");
    let common = String::from_utf8_lossy(&common);
    assert!(
        common.contains("it broke") && common.contains("text\n"),
        "{common}"
    );

    let missing = Runtime {
        binary: "/nonexistent/runtime".into(),
        ..runtime.clone()
    };
    let error = start(&missing, "ok").await;
    assert_eq!(error.kind, Kind::Spawn);
    assert!(
        error
            .message
            .contains("fork/exec /nonexistent/runtime: no such file or directory"),
        "{error}"
    );
    let missing = Runtime {
        binary: "no-runtime".into(),
        ..runtime.clone()
    };
    assert_eq!(
        start(&missing, "ok").await.to_string(),
        "OCI runtime start failed: exec: \"no-runtime\": executable file not found in $PATH"
    );
}

async fn limits(runtime: &Runtime) {
    let runtime = Runtime {
        limit: Some(Duration::from_millis(100)),
        ..runtime.clone()
    };
    for id in ["slow", "slow-helper"] {
        let error = start(&runtime, id).await;
        let message = format!("faulty start of {id:?} did not end within 100ms and was killed");
        let (what, since) = error
            .message
            .split_once("; it hung since ")
            .expect("since when");
        assert_eq!((error.kind, what), (Kind::Timeout, &*message));
        assert!(since.starts_with('2') && since.ends_with('Z'), "{since}");
        assert_eq!(Error::from(error).code, Code::DeadlineExceeded);
        assert_eq!(runtime.monitor.live_children(), 0);
        no_children().await;
    }
    let bundle = Path::new("/nonexistent");
    let options = CreateOptions::default();
    let created = runtime.create("slow", bundle, &options, Fds::default());
    let error = within("create", created).await.expect_err("too slow");
    assert_eq!(
        (error.operation, error.kind),
        (Operation::Create, Kind::Timeout)
    );
}

async fn a_grandchild_keeps_the_pipe(world: &mut World, runtime: &Runtime) {
    let message = start(runtime, "holder").await.message;
    let pid = message
        .rsplit("left ")
        .next()
        .expect("a pid")
        .parse()
        .expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it still holds the pipe");
    assert_eq!(world.exit_of(pid).await, 137);
}

async fn lists(runtime: &Runtime) {
    assert_eq!(within("list", runtime.ps("list")).await, Ok(vec![3, 1, 2]));
    assert_eq!(within("nothing", runtime.ps("nothing")).await, Ok(vec![]));
    for id in ["nonsense", "ok"] {
        let error = within(id, runtime.ps(id)).await.expect_err("no list");
        assert_eq!(error.kind, Kind::Output, "{error}");
    }
}

async fn no_bundle(world: &World, binary: &Path) {
    let runtime = Runtime {
        log: "/nonexistent/bundle/log.json".into(),
        ..world.runtime(binary, "fault")
    };
    within("delete", runtime.delete("ok", true))
        .await
        .expect("needs no bundle");
    let error = within("delete", runtime.delete("words", true)).await;
    assert_eq!(
        error.expect_err("made to fail").to_string(),
        "OCI runtime delete failed: unable to retrieve OCI runtime error (open \
         /nonexistent/bundle/log.json: no such file or directory): faulty did not terminate successfully: exit status 1: plain words"
    );
    let options = ExecOptions::default();
    let spec = runtime.exec("ok", b"{}", &options, Fds::default());
    let error = within("exec", spec)
        .await
        .expect_err("no place for the spec");
    assert_eq!(error.kind, Kind::Spawn);
    assert!(
        error.message.contains("/nonexistent/bundle: no such file"),
        "{error}"
    );
}

/// A wrapper finds the bundle's files by their names alone.
async fn its_directory(runtime: &Runtime) {
    let config = runtime.log.with_file_name("config.json");
    fs::write(&config, "the config").expect("write");
    let message = start(runtime, "here").await.message;
    assert!(message.ends_with(": the config"), "{message}");
    fs::remove_file(config).expect("remove");
}

/// A create that claims success must not leave another process's pid to be read.
async fn a_stale_pid_file(runtime: &Runtime) {
    let bundle = runtime.log.parent().expect("bundle");
    let options = CreateOptions {
        pid_file: bundle.join("init.pid"),
        ..Default::default()
    };
    fs::write(&options.pid_file, "1").expect("write");
    let created = runtime.create("ok", bundle, &options, Fds::default());
    within("create", created).await.expect("claims success");
    let error = cotter::runtime::read_pid_file(&options.pid_file).expect_err("gone");
    assert_eq!(error.code, Code::NotFound);
}

async fn a_dropped_call(world: &World, runtime: &Runtime) {
    let bundle = runtime.log.parent().expect("bundle");
    let gate = bundle.join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let begun = async {
        while world.monitor.live_children() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        biased;
        called = runtime.start("gate") => panic!("{called:?} before the gate is open"),
        () = begun => {}
    }
    assert_eq!(world.monitor.live_children(), 1);
    // For reading too, so that the open doesn't wait for the script.
    let mut gate = fs::File::options()
        .read(true)
        .write(true)
        .open(gate)
        .expect("gate");
    gate.write_all(b"open\n").expect("write");
    no_children().await;
    let passed = fs::read_to_string(bundle.join("passed")).expect("it went on");
    assert_eq!(passed, "open\n");
}

/// A runtime that writes and exits when a wake-up for another child is on its way already: it is
/// reaped before the reactor has heard of its output.
async fn the_exit_overtakes_the_output(world: &World, runtime: &Runtime) {
    let gate = runtime.log.with_file_name("gate");
    let mut gate = fs::File::options()
        .read(true)
        .write(true)
        .open(gate)
        .expect("gate");
    let (called, spawned) = (runtime.clone(), &world.monitor);
    let call = tokio::spawn(async move { called.start("gate-words").await });
    while spawned.live_children() == 0 {
        tokio::task::yield_now().await;
    }

    let (read, write) = std::io::pipe().expect("pipe");
    let mut other = Command::new("/bin/echo");
    other.stdout(write);
    let mut other_child = spawned.spawn(&mut other).expect("spawn");
    drop(other);
    let read = Receiver::from_owned_fd(read.into()).expect("pipe");
    // Blocking on purpose: reactor and reap loop stand still meanwhile.
    block_until_zombies(1);
    // Wakes this task and the reap loop in one go, and this task is first.
    read.readable().await.expect("readable");
    gate.write_all(b"open\n").expect("write");
    block_until_zombies(2);

    let error = within("call", call).await.expect("no panic");
    let error = error.expect_err("made to fail");
    assert!(error.message.ends_with(": last words"), "{error}");
    within("other", other_child.exited()).await;
}

fn block_until_zombies(count: usize) {
    let deadline = Instant::now() + super::LIMIT;
    while super::children()
        .iter()
        .filter(|state| *state == "Z")
        .count()
        < count
    {
        assert!(Instant::now() < deadline, "no {count} zombies");
        std::thread::sleep(Duration::from_millis(1));
    }
}
