//! Containers in the foreground: output, input, exit codes, terminals, refusals.

use std::process::Command;

use crate::common::containerd::go_shim;
use crate::common::run_with_input as run_command;
use crate::common::terminal::on_terminal;
use crate::engine::{Case, Engine};

pub const CASES: &[Case] = &[
    ("run: output and exit code", output),
    ("run -i", input),
    ("run -t", terminal),
    ("run -it, resized", typed),
    ("run --rm", removed),
    ("run of a missing program", missing),
    ("run --init", init),
    ("run --pid=host, init ends first", host_pids),
    ("run --network host", host_network),
    (
        "run with user, directory, environment, volume, tmpfs",
        configured,
    ),
    ("start -a, again and again", again),
    ("eight runs at once", eight),
];

fn output(engine: &Engine) {
    let done = engine.run(&["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((done.code, &*done.out, &*done.err), (7, "out\n", "err\n"));
    // More than every pipe on the way holds, and the end of it.
    let done = engine.run(&["--rm"], &["seq", "1", "400000"]);
    let expected: String = (1..=400_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.out == expected,
        "{} bytes of {}",
        done.out.len(),
        expected.len()
    );
}

fn input(engine: &Engine) {
    let input: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    let done = engine.run_with_input(&["--rm", "-i"], &["cat"], input.as_bytes());
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.out == input,
        "{} bytes of {}",
        done.out.len(),
        input.len()
    );
}

fn terminal(engine: &Engine) {
    let done = engine.run(&["--rm", "-t"], &["sh", "-c", "tty; echo err >&2; exit 3"]);
    assert_eq!(
        (done.code, &*done.out),
        (3, "/dev/pts/0\r\nerr\r\n"),
        "{done:?}"
    );
}

fn typed(engine: &Engine) {
    check_typed(&engine.new_command("run", &["--rm", "-it"], &["sh", "-c", SIZED]));
}

/// Waits for a size of its terminal, because that is set after the start, and for a line.
pub const SIZED: &str = "until [ \"$(stty size)\" = '33 77' ]; do sleep 0.05; done; \
    echo sized; read x; echo \"got $x\"; exit 4";

/// Runs `command`, which runs [`SIZED`], on a terminal of that size, and types.
#[track_caller]
pub fn check_typed(command: &Command) {
    let done = run_command(
        &mut on_terminal("stty rows 33 cols 77", command),
        b"hello\n",
    );
    assert_eq!(done.code, 4, "{done:?}");
    assert!(
        done.out.contains("sized\r") && done.out.contains("got hello\r"),
        "{done:?}"
    );
}

fn removed(engine: &Engine) {
    let done = engine.run(&["--rm", "--name", "removed"], &["true"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_ne!(engine.docker(&["inspect", "removed"]).code, 0);
}

fn missing(engine: &Engine) {
    // Docker tells the reasons apart by runc's words.
    let codes = if engine.crun() {
        (125, 125)
    } else {
        (127, 126)
    };
    let done = engine.run(&["--name", "missing"], &["nosuch"]);
    assert_eq!(done.code, codes.0, "{done:?}");
    // The runtime's reason is passed on.
    assert!(
        done.err.contains("nosuch") && done.err.contains("not found in $PATH"),
        "{done:?}"
    );
    assert_eq!(engine.state("missing")["Status"], "created");
    engine.docker(&["rm", "missing"]).ok();

    let done = engine.run(&["--rm"], &["/etc/passwd"]);
    assert_eq!(done.code, codes.1, "{done:?}");
    let why = if engine.crun() {
        "executable"
    } else {
        "permission denied"
    };
    assert!(done.err.contains(why), "{done:?}");
}

fn init(engine: &Engine) {
    engine.up("init", &["--init"], &["sleep", "1000"]);
    assert!(
        engine
            .exec(&[], "init", &["ps"])
            .ok()
            .contains("1 root     /sbin/docker-init")
    );
    // As process 1, sleep would ignore it.
    engine.docker(&["kill", "--signal", "TERM", "init"]).ok();
    assert_eq!(engine.exited("init"), 143);
    engine.docker(&["rm", "init"]).ok();
}

/// No kernel kills what the init leaves behind in the host's pid namespace, and it holds the output open.
fn host_pids(engine: &Engine) {
    // The Go shim kills it neither, when the init ends before its start has been dealt with.
    let late = if go_shim() { "sleep 1;" } else { "" };
    let script = format!("sleep 1000 & echo $$; {late} exit 3");
    let done = engine.run(&["--rm", "--pid", "host"], &["sh", "-c", &script]);
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.out.trim().parse::<u32>().unwrap() > 1, "{done:?}");
}

fn host_network(engine: &Engine) {
    let here = std::fs::read_link("/proc/self/ns/net").unwrap();
    let done = engine.run(
        &["--rm", "--network", "host"],
        &["readlink", "/proc/self/ns/net"],
    );
    assert_eq!(done.ok().trim(), here.to_str().unwrap());
}

fn configured(engine: &Engine) {
    let dir = engine.containerd.owner.dir.join("volume");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "shared\n").unwrap();
    let volume = format!("{}:/data:ro", dir.display());
    let flags = [
        "--rm",
        "-u",
        "1000:1000",
        "-w",
        "/tmp",
        "-e",
        "A=b",
        "-h",
        "name",
        "--read-only",
        "--tmpfs",
        "/run",
        "-v",
        &volume,
    ];
    let script = "id -u; pwd; echo $A; hostname; cat /data/file; touch /no 2>&1; touch /data/no 2>&1; stat -f -c %T /run";
    let out = engine.run(&flags, &["sh", "-c", script]).ok();
    let expected = "1000\n/tmp\nb\nname\nshared\ntouch: /no: Read-only file system\n\
        touch: /data/no: Read-only file system\ntmpfs\n";
    assert_eq!(out, expected);
}

/// Each start is a new task under the same id.
fn again(engine: &Engine) {
    let argv = ["sh", "-c", "read x; echo \"$x\" >>/log; cat /log; exit 9"];
    let mut create = engine.new_command("create", &["-i", "--name", "again"], &argv);
    run_command(&mut create, b"").ok();
    for (word, all) in [
        ("one\n", "one\n"),
        ("two\n", "one\ntwo\n"),
        ("three\n", "one\ntwo\nthree\n"),
    ] {
        let done = run_command(
            &mut engine.command(&["start", "-ai", "again"]),
            word.as_bytes(),
        );
        assert_eq!((done.code, &*done.out), (9, all), "{}", done.err);
    }
    engine.docker(&["rm", "again"]).ok();
}

fn eight(engine: &Engine) {
    std::thread::scope(|scope| {
        for n in 0..8 {
            scope.spawn(move || {
                let script = format!("echo {n}; exit {n}");
                let done = engine.run(&["--rm"], &["sh", "-c", &script]);
                assert_eq!((done.code, done.out), (n, format!("{n}\n")), "{}", done.err);
            });
        }
    });
}
