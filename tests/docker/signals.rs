//! Ending and holding containers: stop, kill, pause, restart, wait, rm.

use std::thread;

use crate::common::containerd::go_shim;
use crate::common::{eventually, signal};
use crate::engine::{Case, Engine};

pub const CASES: &[Case] = &[
    ("stop, the signal handled", stop),
    ("stop, the time over", stop_kills),
    ("stop with another signal", stop_signal),
    ("kill -s", kill),
    ("pause, unpause", pause),
    ("rm -f of a paused container", paused_removed),
    ("restart", restart),
    ("wait", wait),
    ("rm -f", removed),
    ("shim killed", shim_killed),
];

/// A container that ends with code 5 on `signal`, and tells when it is ready for it.
fn up_with_trap(engine: &Engine, name: &str, flags: &[&str], signal: &str) {
    let script = format!("trap 'exit 5' {signal}; echo ready; while :; do sleep 0.05; done");
    engine.up(name, flags, &["sh", "-c", &script]);
    engine.said(name, "ready");
}

fn stop(engine: &Engine) {
    up_with_trap(engine, "stop", &[], "TERM");
    engine.docker(&["stop", "--time", "50", "stop"]).ok();
    assert_eq!(engine.exited("stop"), 5);
    engine.docker(&["rm", "stop"]).ok();
}

fn stop_kills(engine: &Engine) {
    // Process 1 ignores what it does not handle.
    engine.up("stubborn", &[], &["sleep", "1000"]);
    engine.docker(&["stop", "--time", "1", "stubborn"]).ok();
    assert_eq!(engine.exited("stubborn"), 137);
    engine.docker(&["rm", "stubborn"]).ok();
}

fn stop_signal(engine: &Engine) {
    up_with_trap(engine, "usr1", &["--stop-signal", "USR1"], "USR1");
    engine.docker(&["stop", "--time", "50", "usr1"]).ok();
    assert_eq!(engine.exited("usr1"), 5);
    engine.docker(&["rm", "usr1"]).ok();
}

fn kill(engine: &Engine) {
    let script = "trap 'echo hup' HUP; echo ready; while :; do sleep 0.05; done";
    engine.up("kill", &[], &["sh", "-c", script]);
    engine.said("kill", "ready");
    engine.docker(&["kill", "-s", "HUP", "kill"]).ok();
    engine.said("kill", "hup");
    assert_eq!(engine.state("kill")["Status"], "running");
    engine.docker(&["kill", "kill"]).ok();
    assert_eq!(engine.exited("kill"), 137);
    let done = engine.docker(&["kill", "kill"]);
    assert!(
        done.code != 0 && done.err.contains("is not running"),
        "{done:?}"
    );
    engine.docker(&["rm", "kill"]).ok();
}

fn pause(engine: &Engine) {
    engine.up(
        "pause",
        &[],
        &["sh", "-c", "while :; do echo tick; sleep 0.05; done"],
    );
    engine.docker(&["pause", "pause"]).ok();
    assert_eq!(engine.state("pause")["Status"], "paused");
    let done = engine.exec(&[], "pause", &["true"]);
    assert!(done.code != 0 && done.err.contains("is paused"), "{done:?}");
    // Nothing runs: what was under way has arrived after two equal looks, and then nothing comes.
    let mut before = engine.docker(&["logs", "pause"]).ok();
    eventually("the output has ended", || {
        let now = engine.docker(&["logs", "pause"]).ok();
        std::mem::replace(&mut before, now.clone()) == now
    });
    engine.docker(&["unpause", "pause"]).ok();
    assert_eq!(engine.state("pause")["Status"], "running");
    eventually("it ticks on", || {
        engine.docker(&["logs", "pause"]).ok().len() > before.len()
    });
    assert_eq!(engine.exec(&[], "pause", &["echo", "on"]).ok(), "on\n");
    engine.remove("pause");
}

fn paused_removed(engine: &Engine) {
    engine.up("frozen", &[], &["sleep", "1000"]);
    engine.docker(&["pause", "frozen"]).ok();
    engine.remove("frozen");
    assert_ne!(engine.docker(&["inspect", "frozen"]).code, 0);
}

fn restart(engine: &Engine) {
    engine.up("restart", &[], &["sleep", "1000"]);
    let first = engine.pid("restart");
    engine.docker(&["restart", "--time", "0", "restart"]).ok();
    assert_eq!(engine.state("restart")["Status"], "running");
    assert_ne!(engine.pid("restart"), first);
    assert_eq!(engine.exec(&[], "restart", &["echo", "on"]).ok(), "on\n");
    engine.remove("restart");
}

fn wait(engine: &Engine) {
    up_with_trap(engine, "waited", &[], "TERM");
    engine.up("other", &[], &["sleep", "1000"]);
    thread::scope(|scope| {
        let wait = scope.spawn(|| engine.docker(&["wait", "waited", "other"]));
        engine.docker(&["kill", "-s", "TERM", "waited"]).ok();
        engine.docker(&["kill", "other"]).ok();
        assert_eq!(wait.join().unwrap().ok(), "5\n137\n");
    });
    assert_eq!(engine.docker(&["wait", "waited"]).ok(), "5\n");
    engine.docker(&["rm", "waited", "other"]).ok();
}

fn removed(engine: &Engine) {
    engine.up("gone", &[], &["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
    let done = engine.docker(&["rm", "gone"]);
    assert_ne!(done.code, 0, "a running container is not removed: {done:?}");
    engine.remove("gone");
    assert_ne!(engine.docker(&["inspect", "gone"]).code, 0);
}

/// Its container is ended with it, is told as such, and starts again.
fn shim_killed(engine: &Engine) {
    engine.up("orphan", &[], &["sleep", "1000"]);
    let id = engine.inspect("orphan")["Id"].as_str().unwrap().to_owned();
    let owner = &engine.containerd.owner;
    signal(owner.shim(&id).expect("the shim's process").pid, "KILL");
    assert_eq!(engine.exited("orphan"), 137);
    if go_shim() {
        // Its `delete` leaves the dead shim's socket behind.
        engine.containerd.remove_sockets(&id);
    }
    engine.docker(&["start", "orphan"]).ok();
    assert_eq!(
        engine.exec(&[], "orphan", &["echo", "again"]).ok(),
        "again\n"
    );
    engine.remove("orphan");
}
