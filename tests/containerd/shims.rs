//! Which shim serves a container, and which runtime: upgrades, replacements, options, a shim that is killed.

use std::path::Path;

use crate::common::containerd::{Containerd, Form, Version, go_shim};
use crate::common::events::Events;
use crate::common::{eventually, signal, tool};

/// The manager is upgraded under a running container, which the newer one then serves to its end.
pub fn upgraded(from: Version, to: Version, form: Form, runtime: &str) {
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
pub fn replaced(version: Version, ours_first: bool, runtime: &str) {
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
pub fn too_old(version: Version, form: Form, runtime: &str) {
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

/// The shim is killed under its container: the daemon runs `delete`, and the container goes with it.
pub fn shim_killed(version: Version, form: Form, runtime: &str) {
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

/// Options for a runtime name that containerd does not know: all it passes on is a file's path.
pub fn configured(version: Version, runtime: &str) {
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
    let done = crate::common::run(&mut daemon.run_command(&detached, "typo", &["true"]));
    assert_ne!(done.code, 0, "{done:?}");
    let words = "options.toml: there is no option \"SystemdCgoup\"";
    assert!(done.err.replace('\\', "").contains(words), "{done:?}");
    daemon.ctr(&["containers", "delete", "typo"]);

    std::fs::write(&file, toml).unwrap();
    crate::common::run(&mut daemon.run_command(&detached, "web", &["sleep", "1000"])).ok();
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
