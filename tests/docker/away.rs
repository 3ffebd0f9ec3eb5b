//! Daemons that go and come back, in order or not, while containers run, end, and are to be started again.

use std::process::Stdio;

use serde_json::json;

use crate::common::containerd::{Form, go_shim};
use crate::common::{eventually, signal};
use crate::engine::{Engine, Line};

/// Waits until a process is gone.
fn gone(engine: &Engine, pid: u32) {
    eventually(&format!("process {pid} is gone"), || {
        engine
            .containerd
            .owner
            .processes()
            .iter()
            .all(|p| p.pid != pid)
    });
}

/// dockerd is restarted while containers live on and speak; others end while it is away.
pub fn live_restore(line: Line, runtime: &str) {
    let mut engine =
        Engine::start_with(line, Form::DropIn, runtime, json!({ "live-restore": true }));
    let before = engine.census();
    let script = "echo first; while read x; do echo got $x; done";
    engine.up("stays", &["-i"], &["sh", "-c", script]);
    engine.up("ends", &[], &["sleep", "1000"]);
    engine.up("comes", &["--restart", "always"], &["sleep", "1000"]);
    // More than pipes hold, once it is told to.
    let script =
        "until [ -e /go ]; do sleep 0.1; done; seq 1 200000; touch /written; exec sleep 1000";
    engine.up("talks", &[], &["sh", "-c", script]);
    let talks = format!("/proc/{}/root", engine.pid("talks"));
    let (stays, ends, comes) = (engine.pid("stays"), engine.pid("ends"), engine.pid("comes"));

    engine.end("TERM");
    for pid in [ends, comes] {
        signal(pid, "KILL");
        gone(&engine, pid);
    }
    std::fs::write(format!("{talks}/go"), "").unwrap();
    // Under the Go shim it waits for dockerd.
    if !go_shim() {
        eventually("all is written while nobody reads", || {
            std::fs::exists(format!("{talks}/written")).unwrap()
        });
    }
    engine.launch_with(true);

    let lines: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    eventually("what was written meanwhile is in the log", || {
        engine.docker(&["logs", "talks"]).out == lines
    });
    assert_eq!(engine.pid("stays"), stays);
    assert_eq!(engine.exec(&[], "stays", &["echo", "on"]).ok(), "on\n");
    assert_eq!(engine.exited("ends"), 137);
    eventually("what is always restarted runs again", || {
        let state = engine.state("comes");
        state["Running"] == true && state["Pid"] != comes
    });
    // Its streams lead to the new dockerd.
    let mut attach = engine.command(&["attach", "stays"]);
    let mut child = attach
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"word\n").unwrap();
    engine.said("stays", "first\ngot word\n");
    child.kill().unwrap();
    child.wait().unwrap();
    engine.docker(&["kill", "stays"]).ok();
    assert_eq!(engine.exited("stays"), 137);

    engine.docker(&["rm", "ends", "stays"]).ok();
    engine.remove("comes");
    engine.remove("talks");
    engine.nothing_left_since(&before);
    engine.passed("dockerd restarted, containers live on");
    engine.passed("output while dockerd is away");
    engine.passed("exit while dockerd is away");
}

/// dockerd is killed. Its containers live on, to be kept or ended by the next one, as its configuration says.
pub fn daemon_killed(line: Line, runtime: &str) {
    let mut engine =
        Engine::start_with(line, Form::DropIn, runtime, json!({ "live-restore": true }));
    let before = engine.census();
    engine.up("kept", &[], &["sleep", "1000"]);
    let pid = engine.pid("kept");
    engine.end("KILL");
    engine.launch_with(true);
    assert_eq!(engine.pid("kept"), pid);
    assert_eq!(engine.exec(&[], "kept", &["echo", "on"]).ok(), "on\n");

    engine.end("KILL");
    engine.launch_with(false);
    gone(&engine, pid);
    assert_eq!(engine.exited("kept"), 137);
    engine.docker(&["start", "kept"]).ok();
    assert_eq!(engine.exec(&[], "kept", &["echo", "again"]).ok(), "again\n");
    engine.remove("kept");
    engine.nothing_left_since(&before);
    engine.passed("dockerd killed");
}

/// dockerd ends in order and takes its containers along; what is always restarted comes back with it.
pub fn daemon_stopped(line: Line, runtime: &str) {
    let mut engine = Engine::start(line, runtime);
    let before = engine.census();
    let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    engine.up("plain", &[], &["sh", "-c", script]);
    engine.up("always", &["--restart", "always"], &["sh", "-c", script]);
    engine.said("plain", "ready");
    engine.said("always", "ready");
    engine.end("TERM");
    let left = engine.containerd.owner.processes();
    let left: Vec<_> = left.iter().filter(|p| p.argv.starts_with("sh ")).collect();
    assert!(left.is_empty(), "{left:?}");

    engine.launch_with(false);
    assert_eq!(engine.exited("plain"), 5);
    eventually("what is always restarted runs again", || {
        engine.state("always")["Running"] == true
    });
    assert_eq!(engine.exec(&[], "always", &["echo", "on"]).ok(), "on\n");
    engine.remove("always");
    engine.docker(&["rm", "plain"]).ok();
    engine.nothing_left_since(&before);
    engine.passed("dockerd stopped with its containers");
}

/// containerd is killed and comes back; dockerd finds its containers again, and hears of their ends: also of one
/// meanwhile, though it is back later than its containerd, and is told what happens only once.
pub fn containerd_killed(line: Line, runtime: &str) {
    let mut engine = Engine::start(line, runtime);
    let before = engine.census();
    engine.up("stays", &[], &["sleep", "1000"]);
    engine.up("ends", &[], &["sleep", "1000"]);
    let (pid, ends) = (engine.pid("stays"), engine.pid("ends"));
    engine.containerd.kill();
    signal(ends, "KILL");
    gone(&engine, ends);
    engine.containerd.relaunch();
    eventually("dockerd has found its containerd again", || {
        engine.exec(&[], "stays", &["echo", "on"]).out == "on\n"
    });
    assert_eq!(engine.pid("stays"), pid);
    signal(pid, "KILL");
    assert_eq!(engine.exited("stays"), 137);
    engine.docker(&["rm", "stays"]).ok();
    // The Go shim tells it at one moment that often is too early, or not at all.
    if !go_shim() {
        assert_eq!(engine.exited("ends"), 137);
    }
    engine.remove("ends");
    engine.nothing_left_since(&before);
    engine.passed("containerd killed");
    engine.passed("exit while containerd is away");
}

/// Both are away while containers end, and find them as they ended; what goes on is served as before.
pub fn both_killed(line: Line, runtime: &str) {
    let mut engine =
        Engine::start_with(line, Form::DropIn, runtime, json!({ "live-restore": true }));
    let before = engine.census();
    let ends = |code| format!("trap 'exit {code}' TERM; echo ready; while :; do sleep 0.05; done");
    engine.up("stays", &[], &["sleep", "1000"]);
    engine.up("failed", &[], &["sh", "-c", &ends(5)]);
    engine.up("done", &[], &["sh", "-c", &ends(0)]);
    let stays = engine.pid("stays");
    let ending = ["failed", "done"].map(|name| {
        engine.said(name, "ready");
        engine.pid(name)
    });

    engine.end("KILL");
    engine.containerd.kill();
    for pid in ending {
        signal(pid, "TERM");
        gone(&engine, pid);
    }
    engine.containerd.relaunch();
    engine.launch_with(true);

    // Of a shim that names no process of what has ended, as Go's, the newer containerd has forgotten how.
    if !go_shim() || line == Line::V20_10 {
        assert_eq!(engine.exited("failed"), 5);
        assert_eq!(engine.exited("done"), 0);
    }
    let top = engine.docker(&["top", "failed"]);
    assert!(top.err.contains("is not running"), "{top:?}");
    assert_eq!(engine.pid("stays"), stays);
    assert_eq!(engine.exec(&[], "stays", &["echo", "on"]).ok(), "on\n");
    // Its name is free for the same container again.
    engine.docker(&["start", "failed"]).ok();
    engine.said("failed", "ready\nready\n");
    for name in ["failed", "done", "stays"] {
        engine.remove(name);
    }
    engine.nothing_left_since(&before);
    engine.passed("exit while dockerd and containerd are away");
}

/// containerd is back, and dockerd has something done: it listens again, and is told at once, also of what had
/// ended meanwhile, however long others might be waited for.
pub fn clients_back(line: Line, runtime: &str) {
    let long = [("COTTER_LIMIT_MANAGER_SETTLING", "30m")];
    let mut engine = Engine::start_in(line, Form::DropIn, runtime, json!({}), &long);
    let before = engine.census();
    for name in ["stays", "stops", "killed", "ends"] {
        engine.up(name, &[], &["sleep", "1000"]);
    }
    let (stays, ends) = (engine.pid("stays"), engine.pid("ends"));
    engine.containerd.kill();
    signal(ends, "KILL");
    gone(&engine, ends);
    engine.containerd.relaunch();

    // Refused until dockerd has found its containerd again.
    eventually("a container is killed", || {
        engine.docker(&["kill", "killed"]).code == 0
    });
    assert_eq!(engine.exited("killed"), 137);
    engine.docker(&["stop", "--time", "1", "stops"]).ok();
    assert_eq!(engine.exited("stops"), 137);
    engine.docker(&["stop", "ends"]).ok();
    assert_eq!(engine.exited("ends"), 137);
    assert_eq!(engine.pid("stays"), stays);
    assert_eq!(engine.exec(&[], "stays", &["echo", "on"]).ok(), "on\n");
    for name in ["stays", "stops", "killed", "ends"] {
        engine.remove(name);
    }
    engine.nothing_left_since(&before);
    engine.passed("a client back after its containerd");
}
