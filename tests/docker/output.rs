//! What a container writes and reads, seen by those who come and go: logs, attach.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::thread;

use crate::common::{eventually, run, run_with_input, signal};
use crate::engine::{Case, Engine};

pub const CASES: &[Case] = &[
    ("logs", logs),
    ("logs -f, to the end", followed),
    ("attach, with input", attached),
    ("attach, signals passed on", proxied),
];

fn logs(engine: &Engine) {
    let script = "seq 1 1000; echo err >&2; printf 'no newline'; exit 5";
    engine.up("logs", &[], &["sh", "-c", script]);
    assert_eq!(engine.exited("logs"), 5);
    let done = engine.docker(&["logs", "logs"]);
    let expected: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    assert_eq!((done.code, &*done.err), (0, "err\n"));
    assert_eq!(done.out, expected + "no newline");
    engine.docker(&["rm", "logs"]).ok();
}

fn followed(engine: &Engine) {
    let script = "echo first; read x; seq 1 1000; exit 5";
    engine.up("followed", &["-i"], &["sh", "-c", script]);
    thread::scope(|scope| {
        let mut follow = engine.command(&["logs", "-f", "followed"]);
        let mut child = follow.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "first");
        // The rest is written while it is followed.
        scope.spawn(|| run_with_input(&mut engine.command(&["attach", "followed"]), b"go\n"));
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        let expected: Vec<String> = (1..=1000).map(|n| n.to_string()).collect();
        assert_eq!(rest, expected);
        assert!(child.wait().unwrap().success());
    });
    assert_eq!(engine.exited("followed"), 5);
    engine.docker(&["rm", "followed"]).ok();
}

fn attached(engine: &Engine) {
    // Made without --detach, its input ends with its first client's.
    let argv = ["sh", "-c", "while read x; do echo got $x; done; exit 6"];
    run(&mut engine.new_command("create", &["-i", "--name", "attached"], &argv)).ok();
    engine.docker(&["start", "attached"]).ok();
    let mut attach = engine.command(&["attach", "attached"]);
    let mut child = attach
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for word in ["one", "two"] {
        writeln!(input, "{word}").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), format!("got {word}"));
    }
    // The end of the input is the container's end of input, and its exit code the command's.
    drop(input);
    assert!(lines.next().is_none());
    assert_eq!(child.wait().unwrap().code(), Some(6));
    assert_eq!(engine.exited("attached"), 6);
    engine.docker(&["rm", "attached"]).ok();
}

fn proxied(engine: &Engine) {
    let script = "trap 'echo told; exit 8' TERM; echo ready; while :; do sleep 0.05; done";
    engine.up("proxied", &[], &["sh", "-c", script]);
    engine.said("proxied", "ready");
    let mut attach = engine.command(&["attach", "--no-stdin", "proxied"]);
    let mut child = attach.stdout(Stdio::piped()).spawn().unwrap();
    // It passes signals on from some moment between its start and its attachment.
    let attached = [
        "events",
        "--since",
        "10m",
        "--until",
        "0s",
        "--filter",
        "event=attach",
    ];
    let attached = [&attached[..], &["--filter", "container=proxied"]].concat();
    eventually("it is attached", || {
        !engine.docker(&attached).ok().is_empty()
    });
    signal(child.id(), "TERM");
    let told = BufReader::new(child.stdout.take().unwrap()).lines().next();
    assert_eq!(told.unwrap().unwrap(), "told");
    assert_eq!(child.wait().unwrap().code(), Some(8));
    assert_eq!(engine.exited("proxied"), 8);
    engine.docker(&["rm", "proxied"]).ok();
}
