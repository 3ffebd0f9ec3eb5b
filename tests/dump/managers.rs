//! The tool beside real managers, whose containers it finds by their state directory, also when they
//! are dead.

use serde_json::Value;

use crate::common::containerd::{Containerd, Form, Version};
use crate::common::{eventually, tool};
use crate::others::{cotter, verb};

#[test]
fn containers_of_every_containerd_are_found_dead_or_alive() {
    for version in [Version::V1_6, Version::V1_7, Version::V2_1] {
        let mut daemon = Containerd::start(version, Form::DropIn, &tool("RUNC"));
        let before = daemon.census();
        daemon.run_detached("one", &["sleep", "1000"]);
        let pid = daemon.pid("one").unwrap();
        let state = daemon.owner.dir.join("state");
        let state = state.to_string_lossy().into_owned();
        let namespace = daemon.owner.namespace.clone();
        let look = |id: &str| -> Value {
            let args = ["--state", &state, "-n", &namespace, "--json", id];
            let read: Value = serde_json::from_str(&cotter(&args).ok()).unwrap();
            read[0].clone()
        };
        let seen = look("one");
        assert_eq!(seen["ids"], serde_json::json!(["one"]), "{seen}");
        let one = &seen["dump"]["containers"][0];
        assert_eq!((&one["id"], &one["pid"]), (&"one".into(), &pid.into()));
        assert_eq!(seen["dump"]["publisher"]["connected"], true, "{seen}");

        let bundle = format!("{state}/io.containerd.runtime.v2.task/{namespace}/one");
        let address = seen["address"].as_str().unwrap();
        for asked in ["one", "on", &bundle, address] {
            let args = ["--json", "--state", &state, "-n", &namespace, asked];
            let said = verb("stats", &args).ok();
            let stats: Value = serde_json::from_str(&said).unwrap();
            assert_eq!((&stats["id"], &stats["pid"]), (&"one".into(), &pid.into()));
            assert_eq!(stats["pids"]["current"], 1, "{asked}: {stats}");
        }
        assert_eq!(look(address)["ids"], seen["ids"]);
        let none = verb("stats", &["--state", &state, "unix:///run/nobody"]);
        assert_eq!(none.code, 125, "{none:?}");
        assert_eq!(none.err.lines().count(), 1, "{none:?}");

        daemon.kill();
        let seen = look("on");
        assert_eq!(seen["dump"]["containers"][0]["state"], "running", "{seen}");
        daemon.relaunch();
        // To the manager it was nothing; the file went with the bundle.
        daemon
            .ctr(&["tasks", "kill", "--signal", "SIGKILL", "one"])
            .ok();
        eventually("the task is stopped", || {
            daemon.status("one").as_deref() == Some("STOPPED")
        });
        daemon.ctr(&["tasks", "delete", "one"]);
        daemon.ctr(&["containers", "delete", "one"]).ok();
        daemon.nothing_left_since(&before);
    }
}
