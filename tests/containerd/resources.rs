//! Terminals, metrics, pauses and limits, through the daemon.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use cotter::cgroup::Version as Cgroups;

use crate::common::containerd::{Containerd, Form, Version, go_shim};
use crate::common::events::Events;
use crate::common::resources::{cgroup, read};
use crate::common::{eventually, run as run_command, tool};

/// What an operator does to a running container: look at it from a terminal, measure it, pause it,
/// let it go on, and kill it while it is paused.
pub fn operated(version: Version, form: Form, runtime: &str) {
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
pub fn updated(version: Version, form: Form, runtime: &str) {
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
        crate::grpc::call_in::<Nothing>(namespace, socket, method, &request)
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

/// One module per containerd and runtime, one test per behaviour and form of installation.
/// An event of a topic and a type that no manager knows, from a container whose limit came by annotation: it
/// is passed on, and those after it arrive.
pub fn refused_forks(version: Version) {
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
