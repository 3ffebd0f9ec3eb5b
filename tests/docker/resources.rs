//! What containers use and hold: limits, figures, processes, files, names.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::containerd::go_shim;
use crate::common::eventually;
use crate::engine::{Case, Engine};

pub const CASES: &[Case] = &[
    ("update", update),
    ("stats", stats),
    ("memory limit: killed with 137", out_of_memory),
    (
        "refused forks: an event of our own disturbs nobody",
        refused_forks,
    ),
    ("top", top),
    ("cp", copy),
    ("rename", rename),
    ("commit", commit),
];

/// A file of the container's cgroup, by its name on cgroup v1 (with the controller) or on v2.
fn cgroup_file(engine: &Engine, name: &str, v1: (&str, &str), v2: &str) -> PathBuf {
    let id = engine.inspect(name)["Id"].as_str().unwrap().to_owned();
    let group = Path::new(&engine.containerd.owner.namespace).join(id);
    let root = Path::new("/sys/fs/cgroup");
    let unified = root.join("cgroup.controllers").exists();
    if unified {
        root.join(group).join(v2)
    } else {
        root.join(v1.0).join(group).join(v1.1)
    }
}

fn update(engine: &Engine) {
    engine.up(
        "update",
        &["--memory", "32m", "--memory-swap", "32m"],
        &["sleep", "1000"],
    );
    let memory = cgroup_file(
        engine,
        "update",
        ("memory", "memory.limit_in_bytes"),
        "memory.max",
    );
    let pids = cgroup_file(engine, "update", ("pids", "pids.max"), "pids.max");
    let read = |file: &Path| fs::read_to_string(file).unwrap().trim().to_owned();
    assert_eq!(read(&memory), (32 << 20).to_string());
    engine
        .docker(&[
            "update",
            "--memory",
            "64m",
            "--memory-swap",
            "64m",
            "--pids-limit",
            "50",
            "update",
        ])
        .ok();
    assert_eq!(
        (read(&memory), read(&pids)),
        ((64 << 20).to_string(), "50".to_owned())
    );
    // The runtime refuses it, and says why; the old limit stays.
    let done = engine.docker(&["update", "--cpuset-cpus", "4000", "update"]);
    assert_ne!(done.code, 0, "{done:?}");
    assert_eq!(read(&memory), (64 << 20).to_string());
    engine.remove("update");
}

fn stats(engine: &Engine) {
    engine.up(
        "stats",
        &[],
        &["sh", "-c", "sleep 1000 & while :; do :; done"],
    );
    let done = engine
        .docker(&["stats", "--no-stream", "--format", "{{json .}}", "stats"])
        .ok();
    let stats: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(stats["PIDs"], "2", "{stats}");
    let number = |key: &str| {
        let text = stats[key].as_str().unwrap();
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        text[..end].parse::<f64>().unwrap()
    };
    assert!(
        number("CPUPerc") > 1.0 && number("MemUsage") > 0.0,
        "{stats}"
    );
    engine.remove("stats");
}

/// That the OOM killer did it Docker learns from an event, which has to come before the exit: with the Go
/// shim it does not always.
fn out_of_memory(engine: &Engine) {
    let flags = ["--name", "oom", "--memory", "20m", "--memory-swap", "20m"];
    let done = engine.run(&flags, &["sh", "-c", "x=a; while :; do x=$x$x; done"]);
    assert_eq!(done.code, 137, "{done:?}");
    let state = engine.state("oom");
    assert_eq!(state["ExitCode"], 137, "{state}");
    assert!(state["OOMKilled"] == true || go_shim(), "{state}");
    engine.docker(&["rm", "oom"]).ok();
}

fn refused_forks(engine: &Engine) {
    let script = "sh -c 'while :; do sleep 1000 & done'; echo done; exec sleep 1000";
    engine.up("refused", &["--pids-limit", "20"], &["sh", "-c", script]);
    engine.said("refused", "done\n");
    if !go_shim() {
        eventually("the shim has said so", || {
            let log = engine.containerd.log();
            log.contains("the kernel refused") && log.contains("its own limit of 20 processes")
        });
    }
    // What comes after it is understood.
    assert_eq!(engine.state("refused")["Running"], true);
    engine.docker(&["kill", "refused"]).ok();
    assert_eq!(engine.exited("refused"), 137);
    engine.remove("refused");
}

fn top(engine: &Engine) {
    engine.up("top", &[], &["sh", "-c", "sleep 1234 & sleep 1000; :"]);
    let pid = engine.pid("top");
    eventually("all processes are listed", || {
        let list = engine.docker(&["top", "top", "-o", "pid,args"]).ok();
        let lines: Vec<&str> = list.lines().map(str::trim).collect();
        lines.len() == 4
            && lines[1].starts_with(&pid.to_string())
            && lines.iter().any(|l| l.ends_with("sleep 1234"))
            && lines.iter().any(|l| l.ends_with("sleep 1000"))
    });
    engine.remove("top");
}

fn copy(engine: &Engine) {
    engine.up("copy", &[], &["sleep", "1000"]);
    let file = engine.containerd.owner.dir.join("in");
    fs::write(&file, "copied\n").unwrap();
    engine
        .docker(&["cp", file.to_str().unwrap(), "copy:/tmp/file"])
        .ok();
    assert_eq!(
        engine.exec(&[], "copy", &["cat", "/tmp/file"]).ok(),
        "copied\n"
    );
    engine
        .exec(&[], "copy", &["sh", "-c", "echo back >/tmp/back"])
        .ok();
    engine.docker(&["kill", "copy"]).ok();
    engine.exited("copy");
    let back = engine.containerd.owner.dir.join("back");
    engine
        .docker(&["cp", "copy:/tmp/back", back.to_str().unwrap()])
        .ok();
    assert_eq!(fs::read_to_string(back).unwrap(), "back\n");
    engine.docker(&["rm", "copy"]).ok();
}

fn rename(engine: &Engine) {
    engine.up("before", &[], &["sleep", "1000"]);
    engine.docker(&["rename", "before", "after"]).ok();
    assert_eq!(engine.exec(&[], "after", &["echo", "here"]).ok(), "here\n");
    engine.remove("after");
}

/// Docker pauses the container meanwhile.
fn commit(engine: &Engine) {
    engine.up("commit", &[], &["sleep", "1000"]);
    engine
        .exec(&[], "commit", &["sh", "-c", "echo kept >/kept"])
        .ok();
    engine.docker(&["commit", "commit", "kept"]).ok();
    assert_eq!(engine.state("commit")["Status"], "running");
    assert_eq!(engine.exec(&[], "commit", &["cat", "/kept"]).ok(), "kept\n");
    engine.remove("commit");
    engine.docker(&["rmi", "kept"]).ok();
}
