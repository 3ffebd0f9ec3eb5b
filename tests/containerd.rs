//! The shim under real managers: three containerds, two OCI runtimes, three ways to install it.
//!
//! Everything is asked through each containerd's own `ctr`, and every test ends with the census of
//! what it started with: no process, mount, socket, directory or cgroup more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod common;
#[path = "cri/grpc.rs"]
#[allow(dead_code)]
mod grpc;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use common::containerd::{Containerd, Form, Version, go_shim};
use common::events::Events;
use common::resources::{cgroup, read};
use common::{eventually, eventually_some, has_trap, run as run_command, signal, tool};
use cotter::cgroup::Version as Cgroups;
use sha2::{Digest, Sha256};

/// Foreground containers: output, input, exit codes, refusals, and the events of a whole life.
fn run(version: Version, form: Form, runtime: &str) {
    let daemon = Containerd::start(version, form, &tool(runtime));
    let before = daemon.census();

    let done = daemon.run("hello", &["echo", "hello"], b"");
    assert_eq!((done.code, done.out.as_str()), (0, "hello\n"), "{done:?}");

    let done = daemon.run("both", &["sh", "-c", "echo out; echo err >&2; exit 7"], b"");
    assert_eq!((done.code, done.out.as_str()), (7, "out\n"), "{done:?}");
    assert!(done.err.contains("err\n"), "{done:?}");

    // More than the pipes on the way hold: ctr forgets to close the container's input when its own
    // ends before the task is created. The sum comes back, not the bytes: on a busy machine ctr drops
    // the tail of a long output once its input has ended, with each containerd's own shim too.
    // tests/streams has the bytes.
    let input: Vec<u8> = (0..200_000)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    let sum: String = Sha256::digest(&input)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let done = daemon.run("sum", &["sha256sum"], &input);
    assert_eq!(
        (done.code, done.out),
        (0, format!("{sum}  -\n")),
        "{}",
        done.err
    );

    let done = daemon.run_on_terminal("tty", &["sh", "-c", "tty; exit 3"]);
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.out.contains("/dev/pts/0\r"), "{done:?}");

    let done = daemon.run("none", &["/no/such/program"], b"");
    assert_ne!(done.code, 0, "{done:?}");
    assert!(
        done.err.contains("/no/such/program"),
        "the runtime's reason is passed on: {done:?}"
    );

    daemon.nothing_left_since(&before);
    daemon.passed("run, run -t");
}

/// A container in the background: exec, a second one of the same name, kill, exit event, delete.
fn detached(version: Version, form: Form, runtime: &str) {
    let daemon = Containerd::start(version, form, &tool(runtime));
    let before = daemon.census();
    let events = Events::record(&daemon);

    daemon.run_detached("one", &["sleep", "1000"]);
    assert_eq!(daemon.status("one").as_deref(), Some("RUNNING"));

    // That the runtime is the one meant, by what each keeps of a container and the other does not.
    let state = daemon.owner.runtime_state().join("one");
    let crun = runtime.starts_with("CRUN");
    assert_eq!(state.join("status").exists(), crun, "{}", state.display());
    assert_eq!(state.join("state.json").exists(), !crun);

    let done = daemon.exec("one", &["echo", "from exec"]);
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "from exec\n"),
        "{done:?}"
    );
    assert_eq!(daemon.exec("one", &["sh", "-c", "exit 9"]).code, 9);
    let done = daemon.exec("one", &["/no/such/program"]);
    assert_ne!(done.code, 0, "{done:?}");
    assert!(done.err.contains("/no/such/program"), "{done:?}");

    assert_ne!(
        daemon.ctr(&["tasks", "delete", "one"]).code,
        0,
        "a running task is not deleted"
    );
    let processes = daemon.ctr(&["tasks", "ps", "one"]).ok();
    let pid = daemon.pid("one").unwrap();
    assert!(
        processes.contains(&pid.to_string()),
        "{pid} in: {processes}"
    );

    daemon
        .ctr(&["tasks", "kill", "--signal", "SIGKILL", "one"])
        .ok();
    assert_eq!(events.wait("/tasks/exit", "one").exit_status(), 137);
    eventually("the task is stopped", || {
        daemon.status("one").as_deref() == Some("STOPPED")
    });
    let done = daemon.ctr(&["tasks", "delete", "one"]);
    assert!(
        done.code == 0 && done.err.contains("non-zero exit code 137"),
        "{done:?}"
    );
    // The Go shim of 2.1 often ends before it has published its last event.
    if !go_shim() {
        events.wait("/tasks/delete", "one");
    }
    daemon.ctr(&["containers", "delete", "one"]).ok();

    // Exec events carry names of their own; three execs, of which one never starts.
    let life = |init: bool| -> Vec<String> {
        let all = events.of("one").into_iter();
        let exec = |e: &common::events::Event| !e.body["exec_id"].is_null() || e.process() != "one";
        all.filter(|e| exec(e) != init).map(|e| e.topic).collect()
    };
    let whole = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ];
    let seen = life(true);
    assert!(seen == whole || go_shim() && seen == whole[..3], "{seen:?}");
    let (added, started, exit) = ("/tasks/exec-added", "/tasks/exec-started", "/tasks/exit");
    assert_eq!(
        life(false),
        [added, started, exit, added, started, exit, added]
    );
    drop(events);
    daemon.nothing_left_since(&before);
    daemon.passed("run -d, exec, kill, delete, events in order");
}

/// The daemon goes and comes back, once in order and once killed, while a container runs on.
fn restart(version: Version, form: Form, runtime: &str) {
    let mut daemon = Containerd::start(version, form, &tool(runtime));
    let before = daemon.census();
    daemon.run_detached("stays", &["sleep", "1000"]);
    let pid = daemon.pid("stays");

    daemon.restart();
    assert_eq!(daemon.status("stays").as_deref(), Some("RUNNING"));
    assert_eq!(daemon.exec("stays", &["echo", "again"]).ok(), "again\n");

    daemon.kill();
    daemon.relaunch();
    assert_eq!(daemon.status("stays").as_deref(), Some("RUNNING"));
    assert_eq!(daemon.pid("stays"), pid);
    assert_eq!(
        daemon.exec("stays", &["echo", "and again"]).ok(),
        "and again\n"
    );

    let events = Events::record(&daemon);
    daemon
        .ctr(&["tasks", "kill", "--signal", "SIGKILL", "stays"])
        .ok();
    assert_eq!(events.wait("/tasks/exit", "stays").exit_status(), 137);
    drop(events);
    let done = daemon.ctr(&["tasks", "delete", "stays"]);
    assert!(
        done.code == 0 && done.err.contains("non-zero exit code 137"),
        "{done:?}"
    );
    daemon.ctr(&["containers", "delete", "stays"]).ok();
    daemon.nothing_left_since(&before);
    daemon.passed("daemon restarted and killed");
}

/// A client attaches to a running container, dies, and another attaches after a restart of the daemon:
/// what one typed and read is not lost to the other.
fn attached(version: Version, form: Form, runtime: &str) {
    let mut daemon = Containerd::start(version, form, &tool(runtime));
    let before = daemon.census();
    let program = r#"while read line; do echo "got $line"; [ "$line" = quit ] && exit 5; done"#;
    run_command(&mut daemon.run_command(&["-d"], "shell", &["sh", "-c", program])).ok();

    let mut first = Attached::to(&daemon, "shell");
    first.types("one");
    assert_eq!(first.reads(), "got one\n");
    first.dies();
    daemon.restart();

    let mut second = Attached::to(&daemon, "shell");
    second.types("two");
    assert_eq!(second.reads(), "got two\n");
    second.types("quit");
    assert_eq!(second.reads(), "got quit\n");
    assert_eq!(second.ends(), Some(5));

    daemon.ctr(&["tasks", "delete", "shell"]);
    daemon.ctr(&["containers", "delete", "shell"]).ok();
    daemon.nothing_left_since(&before);
    daemon.passed("attach");
}

/// `ctr tasks attach` under way.
struct Attached {
    ctr: Child,
    out: BufReader<ChildStdout>,
}

impl Attached {
    fn to(daemon: &Containerd, id: &str) -> Self {
        let mut ctr = daemon
            .ctr_command(&["tasks", "attach", id])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(ctr.stdout.take().unwrap());
        Self { ctr, out }
    }

    fn types(&mut self, line: &str) {
        writeln!(self.ctr.stdin.as_ref().unwrap(), "{line}").unwrap();
    }

    /// The next line of the container.
    fn reads(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    fn dies(&mut self) {
        self.ctr.kill().unwrap();
        self.ctr.wait().unwrap();
    }

    fn ends(&mut self) -> Option<i32> {
        eventually_some("ctr ends with the task", || self.ctr.try_wait().unwrap()).code()
    }
}

/// The manager is upgraded under a running container, which the newer one then serves to its end.
fn upgraded(from: Version, to: Version, form: Form, runtime: &str) {
    let mut daemon = Containerd::start(from, form, &tool(runtime));
    let before = daemon.census();
    daemon.run_detached("old", &["sleep", "1000"]);
    let pid = daemon.pid("old");

    daemon.upgrade(to);
    assert_eq!(daemon.status("old").as_deref(), Some("RUNNING"));
    assert_eq!(daemon.pid("old"), pid);
    assert_eq!(daemon.exec("old", &["echo", "still"]).ok(), "still\n");
    daemon.ctr(&["tasks", "metrics", "old"]).ok();
    daemon.run_detached("new", &["sleep", "1000"]);

    let events = Events::record(&daemon);
    for id in ["old", "new"] {
        daemon
            .ctr(&["tasks", "kill", "--signal", "SIGKILL", id])
            .ok();
        assert_eq!(events.wait("/tasks/exit", id).exit_status(), 137);
        let done = daemon.ctr(&["tasks", "delete", id]);
        assert!(done.err.contains("non-zero exit code 137"), "{done:?}");
        daemon.ctr(&["containers", "delete", id]).ok();
    }
    drop(events);
    daemon.nothing_left_since(&before);
    daemon.passed(&format!("taken over from {from} with its containers"));
}

/// The shim's binary is replaced under running containers, from the Go shim to ours (or back): each
/// container is served to its end by the shim it was started with, and what one leaves the other's
/// `delete` clears away.
fn replaced(version: Version, ours_first: bool, runtime: &str) {
    let ours = Path::new(env!("CARGO_BIN_EXE_containerd-shim-cotter-v2"));
    let theirs = version.dir().join("containerd-shim-runc-v2");
    let (first, second) = match ours_first {
        true => (ours, theirs.as_path()),
        false => (theirs.as_path(), ours),
    };
    let mut daemon = Containerd::start(version, Form::DropIn, &tool(runtime));
    let before = daemon.census();
    daemon.replace_shim(first);
    for id in ["ends", "dies"] {
        daemon.run_detached(id, &["sleep", "1000"]);
    }
    daemon.replace_shim(second);
    daemon.run_detached("new", &["sleep", "1000"]);
    daemon.restart();

    let events = Events::record(&daemon);
    for id in ["ends", "new"] {
        assert_eq!(daemon.exec(id, &["echo", "on"]).ok(), "on\n");
        daemon
            .ctr(&["tasks", "kill", "--signal", "SIGKILL", id])
            .ok();
        assert_eq!(events.wait("/tasks/exit", id).exit_status(), 137);
        let done = daemon.ctr(&["tasks", "delete", id]);
        assert!(done.err.contains("non-zero exit code 137"), "{done:?}");
    }
    signal(daemon.owner.shim("dies").unwrap().pid, "KILL");
    assert_eq!(events.wait("/tasks/exit", "dies").exit_status(), 137);
    drop(events);
    for id in ["ends", "dies", "new"] {
        eventually("the task is gone", || daemon.status(id).is_none());
        daemon.ctr(&["containers", "delete", id]).ok();
        // A Go shim that dies, and the Go shim's `delete` after ours has died, leave a socket.
        daemon.remove_sockets(id);
    }
    daemon.nothing_left_since(&before);
    daemon.passed(match ours_first {
        true => "the Go shim put in our place under running containers",
        false => "put in the Go shim's place under running containers",
    });
}

/// A runtime too old for what its manager writes refuses the container in words that a person can act on,
/// and nothing is left of the attempt.
fn too_old(version: Version, form: Form, runtime: &str) {
    let daemon = Containerd::start(version, form, &tool(runtime));
    let before = daemon.census();
    let done = daemon.run("never", &["true"], b"");
    assert_ne!(done.code, 0);
    assert!(done.err.contains("unknown version specified"), "{done:?}");
    if !go_shim() {
        assert!(done.err.contains("install a newer one"), "{done:?}");
    }
    daemon.ctr(&["containers", "delete", "never"]);
    daemon.nothing_left_since(&before);
}

/// The container ends while no daemon is there, beside one that runs on. It is found stopped, with its
/// status, whatever an operator asks of it, and again by the next daemon, until it is deleted.
fn exit_unseen(version: Version, form: Form, runtime: &str) {
    let mut daemon = Containerd::start(version, form, &tool(runtime));
    let before = daemon.census();
    daemon.run_detached("stays", &["sleep", "1000"]);
    let script = "trap 'exit 5' TERM; while :; do sleep 0.05; done";
    daemon.run_detached("gone", &["sh", "-c", script]);
    let pid = daemon.pid("gone").unwrap();
    eventually("the shell handles SIGTERM", || has_trap(pid, 15));

    daemon.stop();
    signal(pid, "TERM");
    eventually("the container's init is gone", || {
        daemon.owner.processes().iter().all(|p| p.pid != pid)
    });
    for _ in 0..2 {
        daemon.relaunch();
        // The Go shim names no process, and containerd 1.7 and later clear such a task away.
        let kept = !go_shim() || version == Version::V1_6;
        let found = kept.then_some("STOPPED");
        eventually("the daemon knows that the task ended", || {
            daemon.status("gone").as_deref() == found
        });
        if !go_shim() {
            let processes = daemon.ctr(&["tasks", "ps", "gone"]).ok();
            let named: Vec<_> = processes
                .lines()
                .skip(1)
                .map(str::split_whitespace)
                .collect();
            let named: Vec<_> = named
                .into_iter()
                .filter_map(|mut line| line.next())
                .collect();
            assert_eq!(named, [pid.to_string()], "{processes}");
            daemon.ctr(&["tasks", "metrics", "gone"]).ok();
            assert_ne!(daemon.exec("gone", &["true"]).code, 0);
        }
        assert_eq!(daemon.exec("stays", &["echo", "on"]).ok(), "on\n");
        daemon.stop();
    }
    daemon.relaunch();
    let done = daemon.ctr(&["tasks", "delete", "gone"]);
    if !go_shim() {
        assert!(done.err.contains("non-zero exit code 5"), "{done:?}");
    }
    assert_eq!(daemon.status("gone"), None);
    daemon.ctr(&["containers", "delete", "gone"]).ok();
    daemon.ctr(&["tasks", "delete", "--force", "stays"]);
    daemon.ctr(&["containers", "delete", "stays"]).ok();
    daemon.nothing_left_since(&before);
    daemon.passed("exit while the daemon is away");
}

/// The daemon is back, and so is who listens. What is told waits for as long as others may need, unless a
/// client has something done, through the new daemon, to the container; being listed, measured and found
/// by the daemon is nothing of the kind. Nothing is lost, and nothing told twice.
fn clients_back(version: Version) {
    let long = [("COTTER_LIMIT_MANAGER_SETTLING", "30m")];
    let runtime = tool("RUNC");
    let mut daemon = Containerd::start_in(version, Form::Name, &runtime, &long);
    let before = daemon.census();
    let ids = ["stays", "ends", "waits"];
    for id in ids {
        daemon.run_detached(id, &["sleep", "1000"]);
    }
    let ending = ["ends", "waits"].map(|id| daemon.pid(id).unwrap());
    daemon.kill();
    for pid in ending {
        signal(pid, "KILL");
        eventually("the container's init is gone", || {
            daemon.owner.processes().iter().all(|p| p.pid != pid)
        });
    }
    daemon.relaunch();
    let events = Events::record(&daemon);
    for id in ids {
        let state = daemon.status(id).unwrap();
        assert_eq!(state == "RUNNING", id == "stays", "{id}: {state}");
        daemon.ctr(&["tasks", "metrics", id]).ok();
        daemon.ctr(&["tasks", "ps", id]).ok();
    }

    assert_eq!(daemon.exec("stays", &["sh", "-c", "exit 3"]).code, 3);
    events.wait("/tasks/exec-started", "stays");
    let kill = |id: &str| daemon.ctr(&["tasks", "kill", "--signal", "SIGKILL", id]);
    kill("stays").ok();
    assert_eq!(events.wait("/tasks/exit", "stays").exit_status(), 137);
    let refused = kill("ends");
    assert!(refused.err.contains("not found"), "{refused:?}");
    assert_eq!(events.wait("/tasks/exit", "ends").exit_status(), 137);
    assert_eq!(events.of("waits").len(), 0);
    kill("waits");
    assert_eq!(events.wait("/tasks/exit", "waits").exit_status(), 137);

    for id in ids {
        let done = daemon.ctr(&["tasks", "delete", id]);
        assert!(done.err.contains("non-zero exit code 137"), "{done:?}");
        events.wait("/tasks/delete", id);
        let own = |e: &common::events::Event| e.topic == "/tasks/exit" && e.process() == id;
        assert_eq!(events.of(id).into_iter().filter(own).count(), 1, "{id}");
        daemon.ctr(&["containers", "delete", id]).ok();
    }
    drop(events);
    daemon.nothing_left_since(&before);
    daemon.passed("a client back after its daemon");
}

#[test]
fn clients_back_1_6() {
    clients_back(Version::V1_6);
}

#[test]
fn clients_back_1_7() {
    clients_back(Version::V1_7);
}

#[test]
fn clients_back_2_1() {
    clients_back(Version::V2_1);
}

/// A client dies during Delete, which the shim carries out: nobody tells the shim to end, and the daemon
/// neither has the task nor makes it again. The shim ends by itself, and the container can be started. Its
/// exit is told once more by the daemon, but as it was; a neighbour runs on.
fn client_dies_during_delete(version: Version) {
    let dir = common::TempDir::new("slow");
    let runtime = dir.path().join("slow");
    let at = dir.path().display();
    let held = format!("touch {at}/begun; until [ -e {at}/go ]; do sleep 0.02; done");
    let real = tool("RUNC");
    let real = real.display();
    common::write_program(
        &runtime,
        format!("#!/bin/sh\ncase \"$*\" in *' delete '*one) {held} ;; esac\nexec {real} \"$@\"\n"),
    );
    let daemon = Containerd::start(version, Form::DropIn, &runtime);
    let before = daemon.census();
    let events = Events::record(&daemon);
    for id in ["one", "other"] {
        daemon.run_detached(id, &["sleep", "1000"]);
    }
    let kill = |id: &str| {
        daemon
            .ctr(&["tasks", "kill", "--signal", "SIGKILL", id])
            .ok()
    };
    kill("one");
    events.wait("/tasks/exit", "one");

    let owner = &daemon.owner;
    let request = DeleteTask {
        container_id: "one".into(),
    };
    let method = "containerd.services.tasks.v1.Tasks/Delete";
    let begun = || dir.path().join("begun").exists();
    grpc::abandon(&owner.namespace, &owner.address, method, &request, begun);
    // The daemon is to give up before the shim has done it; nothing shows that it has.
    std::thread::sleep(std::time::Duration::from_secs(1));
    std::fs::write(dir.path().join("go"), "").unwrap();
    eventually("the daemon knows of no such task", || {
        daemon.status("one").is_none()
    });
    let mut refused = 0;
    eventually("the container is started again", || {
        let done = daemon.ctr(&["tasks", "start", "-d", "--null-io", "one"]);
        refused += i32::from(done.err.contains("already exists"));
        done.code == 0
    });
    assert_ne!(refused, 0, "the daemon had given up");
    assert_eq!(daemon.exec("one", &["echo", "on"]).ok(), "on\n");
    assert_eq!(daemon.exec("other", &["echo", "on"]).ok(), "on\n");
    let told: Vec<_> = events
        .of("one")
        .into_iter()
        .filter(|e| e.topic == "/tasks/exit")
        .collect();
    let first = told.iter().find(|e| e.process() == "one").unwrap();
    let inits = told.iter().filter(|e| e.process() == "one");
    assert!(inits.clone().all(|e| e.body == first.body), "{told:?}");

    for id in ["one", "other"] {
        kill(id);
        eventually("the task is stopped", || {
            daemon.status(id).as_deref() == Some("STOPPED")
        });
        let done = daemon.ctr(&["tasks", "delete", id]);
        assert!(done.err.contains("non-zero exit code 137"), "{done:?}");
        daemon.ctr(&["containers", "delete", id]).ok();
    }
    drop(events);
    daemon.nothing_left_since(&before);
    daemon.passed("client dies during delete");
}

/// `containerd.services.tasks.v1.DeleteTaskRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct DeleteTask {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[test]
fn client_dies_during_delete_1_7() {
    client_dies_during_delete(Version::V1_7);
}

#[test]
fn client_dies_during_delete_2_1() {
    client_dies_during_delete(Version::V2_1);
}

/// The shim is killed under its container: the daemon runs `delete`, and the container goes with it.
fn shim_killed(version: Version, form: Form, runtime: &str) {
    let daemon = Containerd::start(version, form, &tool(runtime));
    let before = daemon.census();
    let events = Events::record(&daemon);
    daemon.run_detached("orphan", &["sleep", "1000"]);

    let shim = daemon.owner.shim("orphan").expect("the shim's process");
    signal(shim.pid, "KILL");
    assert_eq!(events.wait("/tasks/exit", "orphan").exit_status(), 137);
    events.wait("/tasks/delete", "orphan");
    drop(events);
    assert_eq!(daemon.status("orphan"), None);
    daemon.ctr(&["containers", "delete", "orphan"]).ok();
    if go_shim() {
        // Its `delete` leaves the dead shim's socket behind.
        daemon.remove_sockets("orphan");
    }
    daemon.nothing_left_since(&before);
    daemon.passed("shim killed");
}

/// What an operator does to a running container: look at it from a terminal, measure it, pause it,
/// let it go on, and kill it while it is paused.
fn operated(version: Version, form: Form, runtime: &str) {
    let daemon = Containerd::start(version, form, &tool(runtime));
    let before = daemon.census();
    let events = Events::record(&daemon);
    daemon.run_detached("web", &["sleep", "1000"]);

    let done = daemon.exec_on_terminal("web", &["sh", "-c", "tty; echo told by $0; exit 4"]);
    assert_eq!(done.code, 4, "{done:?}");
    assert!(
        done.out.contains("/dev/pts/0\r") && done.out.contains("told by sh\r"),
        "{done:?}"
    );

    // ctr prints JSON of what it decoded, so that a wrong type or encoding shows.
    let metrics = daemon
        .ctr(&["tasks", "metrics", "--format", "json", "web"])
        .ok();
    let metrics: serde_json::Value = serde_json::from_str(&metrics).unwrap();
    assert_eq!(metrics["pids"]["current"], 1, "{metrics}");
    // On cgroup v1 a group of figures, on v2 one.
    let usage = &metrics["memory"]["usage"];
    let usage = usage.as_u64().or_else(|| usage["usage"].as_u64());
    assert!(usage > Some(0), "{metrics}");

    daemon.ctr(&["tasks", "pause", "web"]).ok();
    assert_eq!(daemon.status("web").as_deref(), Some("PAUSED"));
    assert_ne!(
        daemon.exec("web", &["true"]).code,
        0,
        "no exec in a paused container"
    );
    daemon.ctr(&["tasks", "resume", "web"]).ok();
    assert_eq!(daemon.status("web").as_deref(), Some("RUNNING"));
    assert_eq!(daemon.exec("web", &["echo", "on"]).ok(), "on\n");
    daemon.ctr(&["tasks", "pause", "web"]).ok();
    events.wait("/tasks/paused", "web");
    events.wait("/tasks/resumed", "web");

    daemon
        .ctr(&["tasks", "kill", "--signal", "SIGKILL", "web"])
        .ok();
    if go_shim() {
        // It leaves a frozen container frozen where the runtime does (crun on cgroup v1).
        daemon.ctr(&["tasks", "resume", "web"]);
    }
    assert_eq!(events.wait("/tasks/exit", "web").exit_status(), 137);
    drop(events);
    let done = daemon.ctr(&["tasks", "delete", "web"]);
    assert!(done.err.contains("non-zero exit code 137"), "{done:?}");
    daemon.ctr(&["containers", "delete", "web"]).ok();
    daemon.nothing_left_since(&before);
    daemon.passed("tty, metrics, pause");
}

/// `containerd.services.tasks.v1.UpdateTaskRequest`: ctr has no command for it.
#[derive(Clone, PartialEq, prost::Message)]
struct Update {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(message, optional, tag = "2")]
    resources: Option<Resources>,
    #[prost(btree_map = "string, string", tag = "3")]
    annotations: BTreeMap<String, String>,
}

/// The Any in it.
#[derive(Clone, PartialEq, prost::Message)]
struct Resources {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    json: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

/// Limits are changed while the container runs and while it is paused; what cannot be is told, and changes
/// nothing.
fn updated(version: Version, form: Form, runtime: &str) {
    let daemon = Containerd::start(version, form, &tool(runtime));
    let before = daemon.census();
    daemon.run_detached("web", &["sleep", "1000"]);
    let cgroup = cgroup(daemon.pid("web").unwrap());
    let memory = match cgroup.version() {
        Cgroups::V1 => "memory.limit_in_bytes",
        Cgroups::V2 => "memory.max",
    };
    let limits = || {
        (
            read(&cgroup, "memory", memory),
            read(&cgroup, "pids", "pids.max"),
        )
    };
    let update = |json: Option<&str>| {
        let resources = json.map(|json| Resources {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
            json: json.into(),
        });
        let request = Update {
            container_id: "web".into(),
            resources,
            annotations: [("note".into(), "of no runtime".into())].into(),
        };
        let (namespace, socket) = (&daemon.owner.namespace, &daemon.owner.address);
        let method = "containerd.services.tasks.v1.Tasks/Update";
        grpc::call_in::<Nothing>(namespace, socket, method, &request)
    };
    update(Some(r#"{"memory":{"limit":67108864},"pids":{"limit":77}}"#)).unwrap();
    assert_eq!(limits(), ("67108864".into(), "77".into()));
    daemon.ctr(&["tasks", "pause", "web"]).ok();
    update(Some(r#"{"pids":{"limit":78}}"#)).unwrap();
    assert_eq!(limits(), ("67108864".into(), "78".into()));
    daemon.ctr(&["tasks", "resume", "web"]).ok();

    let refused = update(Some(r#"{"cpu":{"cpus":"4000"}}"#)).unwrap_err();
    assert!(refused.message.contains("cpuset"), "{refused}");
    // The Go shim dies of this one.
    if !go_shim() {
        update(None).unwrap();
    }
    assert_eq!(limits(), ("67108864".into(), "78".into()));
    assert_eq!(daemon.exec("web", &["echo", "on"]).ok(), "on\n");
    daemon
        .ctr(&["tasks", "kill", "--signal", "SIGKILL", "web"])
        .ok();
    eventually("the task is stopped", || {
        daemon.status("web").as_deref() == Some("STOPPED")
    });
    daemon.ctr(&["tasks", "delete", "web"]);
    daemon.ctr(&["containers", "delete", "web"]).ok();
    daemon.nothing_left_since(&before);
    daemon.passed("limits changed while the container runs");
}

/// Options for a runtime name that containerd does not know: all it passes on is a file's path.
fn configured(version: Version, runtime: &str) {
    let daemon = Containerd::start(version, Form::Name, Path::new("/bin/false"));
    let before = daemon.census();
    let root = daemon.owner.dir.join("runtime");
    let file = daemon.owner.dir.join("options.toml");
    let toml = format!(
        "BinaryName = '{}'\nRoot = '{}'\n",
        tool(runtime).display(),
        root.display()
    );
    let flags = ["--runtime-config-path", file.to_str().unwrap()];
    let detached = ["-d", "--null-io", flags[0], flags[1]];

    std::fs::write(&file, format!("{toml}SystemdCgoup = true\n")).unwrap();
    let done = common::run(&mut daemon.run_command(&detached, "typo", &["true"]));
    assert_ne!(done.code, 0, "{done:?}");
    let words = "options.toml: there is no option \"SystemdCgoup\"";
    assert!(done.err.replace('\\', "").contains(words), "{done:?}");
    daemon.ctr(&["containers", "delete", "typo"]);

    std::fs::write(&file, toml).unwrap();
    common::run(&mut daemon.run_command(&detached, "web", &["sleep", "1000"])).ok();
    let state = root.join(&daemon.owner.namespace);
    assert!(state.join("web").exists(), "the runtime's root is used");
    assert_eq!(daemon.exec("web", &["echo", "in"]).ok(), "in\n");
    // The shim's death in between: what it kept is what its delete goes by.
    signal(daemon.owner.shim("web").unwrap().pid, "KILL");
    eventually("containerd has cleaned up", || !state.join("web").exists());
    daemon.ctr(&["tasks", "delete", "web"]);
    eventually("the task is gone", || daemon.status("web").is_none());
    daemon.ctr(&["containers", "delete", "web"]).ok();
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    daemon.nothing_left_since(&before);
    daemon.passed_with(&tool(runtime), "options from a file");
}

/// One module per containerd and runtime, one test per behaviour and form of installation.
/// An event of a topic and a type that no manager knows, from a container whose limit came by annotation: it
/// is passed on, and those after it arrive.
fn refused_forks(version: Version) {
    let daemon = Containerd::start(version, Form::Name, &tool("RUNC"));
    let before = daemon.census();
    let events = Events::record(&daemon);
    // What ctr cannot decode it says on standard error, and goes on.
    let mut ctr = daemon.ctr_command(&["events"]);
    let mut ctr = ctr
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(ctr.stderr.take().unwrap()).lines();
    let limit = ["--annotation", "io.cotter.pids-limit=20"];
    let flags = ["-d", "--null-io", limit[0], limit[1]];
    let script = "sleep 1; sh -c 'while :; do sleep 1000 & done'; exec sleep 1000";
    run_command(&mut daemon.run_command(&flags, "bomb", &["sh", "-c", script])).ok();
    let unknown = said.find(|line| {
        line.as_ref()
            .unwrap()
            .contains("cotter.events.v1.PidsLimit")
    });
    assert!(unknown.is_some());
    ctr.kill().unwrap();
    ctr.wait().unwrap();
    let log = daemon.log();
    assert!(!log.contains("skipping an event"), "{log}");

    daemon
        .ctr(&["tasks", "kill", "--signal", "SIGKILL", "bomb"])
        .ok();
    assert_eq!(events.wait("/tasks/exit", "bomb").exit_status(), 137);
    drop(events);
    daemon.ctr(&["tasks", "delete", "bomb"]);
    daemon.ctr(&["containers", "delete", "bomb"]).ok();
    daemon.nothing_left_since(&before);
    daemon.passed("an event of our own");
}

#[test]
fn refused_forks_1_6() {
    refused_forks(Version::V1_6);
}

#[test]
fn refused_forks_1_7() {
    refused_forks(Version::V1_7);
}

#[test]
fn refused_forks_2_1() {
    refused_forks(Version::V2_1);
}

macro_rules! matrix {
    ($($module:ident: $version:ident, $runtime:literal;)*) => {$(
        mod $module {
            use super::*;

            #[test]
            fn run_by_name() {
                run(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn run_by_path() {
                run(Version::$version, Form::Path, $runtime);
            }

            #[test]
            fn run_as_drop_in() {
                run(Version::$version, Form::DropIn, $runtime);
            }

            #[test]
            fn detached_by_name() {
                detached(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn detached_by_path() {
                detached(Version::$version, Form::Path, $runtime);
            }

            #[test]
            fn detached_as_drop_in() {
                detached(Version::$version, Form::DropIn, $runtime);
            }

            #[test]
            fn configured_by_name() {
                if !go_shim() {
                    configured(Version::$version, $runtime);
                }
            }

            #[test]
            fn operated_by_name() {
                operated(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn updated_by_name() {
                updated(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn daemon_restarts() {
                restart(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn clients_attach() {
                attached(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn exit_while_daemon_is_away() {
                exit_unseen(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn shim_is_killed() {
                shim_killed(Version::$version, Form::Name, $runtime);
            }
        }
    )*};
}

// Each containerd with the runtimes of its time: crun 1.8 refuses the OCI version that containerd 1.7
// and later write.
matrix! {
    v1_6_runc: V1_6, "RUNC";
    v1_6_crun: V1_6, "CRUN";
    v1_7_runc: V1_7, "RUNC";
    v1_7_crun: V1_7, "CRUN_1_21";
    v2_1_runc: V2_1, "RUNC_1_3";
    v2_1_old_runc: V2_1, "RUNC";
    v2_1_crun: V2_1, "CRUN_1_21";
    v2_1_new_crun: V2_1, "CRUN_1_28";
}

mod upgrades {
    use super::*;

    #[test]
    fn containerd_1_6_to_1_7() {
        upgraded(Version::V1_6, Version::V1_7, Form::Name, "RUNC");
    }

    #[test]
    fn containerd_1_7_to_2_1() {
        upgraded(Version::V1_7, Version::V2_1, Form::DropIn, "RUNC");
    }

    #[test]
    fn containerd_1_6_to_2_1() {
        upgraded(Version::V1_6, Version::V2_1, Form::Path, "RUNC_1_3");
    }

    #[test]
    fn from_the_go_shim_under_1_6() {
        replaced(Version::V1_6, false, "RUNC");
    }

    #[test]
    fn from_the_go_shim_under_1_7() {
        replaced(Version::V1_7, false, "RUNC");
    }

    #[test]
    fn from_the_go_shim_under_2_1() {
        replaced(Version::V2_1, false, "RUNC_1_3");
    }

    #[test]
    fn back_to_the_go_shim() {
        replaced(Version::V2_1, true, "RUNC_1_3");
    }
}

mod runtimes {
    use super::*;

    #[test]
    fn crun_1_8_under_1_7() {
        too_old(Version::V1_7, Form::DropIn, "CRUN");
    }

    #[test]
    fn crun_1_8_under_2_1() {
        too_old(Version::V2_1, Form::Name, "CRUN");
    }
}
