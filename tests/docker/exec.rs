//! Execs: attached, with input, on a terminal, detached, refused, many at once, and cut short.

use std::thread;

use crate::common::{eventually, run_with_input};
use serde_json::json;

use crate::common::containerd::Form;
use crate::engine::{Case, Engine, Line};
use crate::run::{SIZED, check_typed};

pub const CASES: &[Case] = &[
    ("exec: output and exit code", output),
    ("exec -i", input),
    ("exec -t", terminal),
    ("exec -it, resized", typed),
    ("exec -d", detached),
    ("exec of a missing program", missing),
    ("exec with user, directory, environment", configured),
    ("sixteen execs at once", sixteen),
    ("exec in a container that is killed", cut_short),
];

/// A container to run things in.
fn up(engine: &Engine, name: &str) {
    engine.up(name, &[], &["sleep", "1000"]);
}

fn output(engine: &Engine) {
    up(engine, "output");
    let done = engine.exec(
        &[],
        "output",
        &["sh", "-c", "echo out; echo err >&2; exit 7"],
    );
    assert_eq!((done.code, &*done.out, &*done.err), (7, "out\n", "err\n"));
    let done = engine.exec(&[], "output", &["seq", "1", "100000"]);
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(
        done.code == 0 && done.out == expected,
        "{} bytes, {}",
        done.out.len(),
        done.err
    );
    engine.remove("output");
}

fn input(engine: &Engine) {
    up(engine, "input");
    let text: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    let done = run_with_input(
        &mut engine.command(&["exec", "-i", "input", "wc", "-c"]),
        text.as_bytes(),
    );
    assert_eq!(
        (done.code, done.out),
        (0, format!("{}\n", text.len())),
        "{}",
        done.err
    );
    engine.remove("input");
}

fn terminal(engine: &Engine) {
    up(engine, "terminal");
    let done = engine.exec(&["-t"], "terminal", &["sh", "-c", "tty; exit 3"]);
    assert_eq!((done.code, &*done.out), (3, "/dev/pts/0\r\n"), "{done:?}");
    engine.remove("terminal");
}

fn typed(engine: &Engine) {
    up(engine, "typed");
    check_typed(&engine.command(&["exec", "-it", "typed", "sh", "-c", SIZED]));
    engine.remove("typed");
}

fn detached(engine: &Engine) {
    up(engine, "detached");
    engine
        .exec(&["-d"], "detached", &["sh", "-c", "echo done >/tmp/file"])
        .ok();
    eventually("the exec has run", || {
        engine.exec(&[], "detached", &["cat", "/tmp/file"]).out == "done\n"
    });
    // An exec that lives on dies with its container.
    engine.exec(&["-d"], "detached", &["sleep", "1000"]).ok();
    engine.remove("detached");
}

fn missing(engine: &Engine) {
    up(engine, "none");
    let done = engine.exec(&[], "none", &["nosuch"]);
    // 20.10 does not tell the reasons of a failed exec apart; 28.5 does by runc's words.
    let codes = match engine.line {
        Line::V20_10 => (126, 126),
        Line::V28_5 if engine.crun() => (127, 128),
        Line::V28_5 => (127, 126),
    };
    assert_eq!(done.code, codes.0, "{done:?}");
    let told = done.out + &done.err;
    assert!(
        told.contains("nosuch") && told.contains("not found in $PATH"),
        "{told}"
    );

    let done = engine.exec(&[], "none", &["/etc/passwd"]);
    assert_eq!(done.code, codes.1, "{done:?}");
    let why = if engine.crun() {
        "executable"
    } else {
        "permission denied"
    };
    let told = done.out + &done.err;
    assert!(told.contains(why), "{told}");
    assert_eq!(
        engine.exec(&[], "none", &["echo", "still here"]).ok(),
        "still here\n"
    );
    engine.remove("none");
}

fn configured(engine: &Engine) {
    up(engine, "configured");
    let flags = ["-u", "1000:1000", "-w", "/tmp", "-e", "A=b"];
    let out = engine
        .exec(&flags, "configured", &["sh", "-c", "id -u; pwd; echo $A"])
        .ok();
    assert_eq!(out, "1000\n/tmp\nb\n");
    engine.remove("configured");
}

fn sixteen(engine: &Engine) {
    up(engine, "sixteen");
    thread::scope(|scope| {
        for n in 1..=16 {
            scope.spawn(move || {
                let script = format!("echo {n}; exit {n}");
                let done = engine.exec(&[], "sixteen", &["sh", "-c", &script]);
                assert_eq!((done.code, done.out), (n, format!("{n}\n")), "{}", done.err);
            });
        }
    });
    engine.remove("sixteen");
}

/// The exec's exit must be told before the container's, or `docker exec` waits for ever.
fn cut_short(engine: &Engine) {
    up(engine, "cut");
    thread::scope(|scope| {
        let exec = scope.spawn(|| {
            engine.exec(
                &[],
                "cut",
                &["sh", "-c", "echo here >/tmp/here; sleep 1000"],
            )
        });
        eventually("the exec runs", || {
            engine.exec(&[], "cut", &["cat", "/tmp/here"]).out == "here\n"
        });
        engine.docker(&["kill", "cut"]).ok();
        assert_eq!(exec.join().unwrap().code, 137);
    });
    assert_eq!(engine.exited("cut"), 137);
    engine.docker(&["rm", "cut"]).ok();
}

/// Usual containers' execs, by the shim itself.
pub fn without_the_runtime(line: Line, runtime: &str) {
    let direct = [("COTTER_EXEC_BY", "direct")];
    let engine = Engine::start_in(line, Form::DropIn, runtime, json!({}), &direct);
    let before = engine.census();
    for (_, case) in CASES {
        case(&engine);
    }
    up(&engine, "direct");
    let id = engine
        .docker(&["inspect", "--format", "{{.Id}}", "direct"])
        .ok();
    for _ in 0..5 {
        let done = engine.exec(&["-u", "1000"], "direct", &["sh", "-c", "id -u; exit 7"]);
        assert_eq!((done.code, &*done.out), (7, "1000\n"));
    }
    assert_eq!(engine.exec(&["-t"], "direct", &["true"]).code, 0);
    let execs = engine
        .containerd
        .execs(&engine.containerd.owner.namespace, id.trim());
    let expected = json!({ "by_shim": 5, "by_runtime": { "it has a terminal": 1 } });
    assert_eq!(execs, expected);
    engine.remove("direct");
    engine.nothing_left_since(&before);
    engine.passed("execs without the runtime");
}
