//! Containers of a pod from creation to removal, and how the CRI tells of their ends.

use std::fs;

use crate::api::*;
use crate::common::{eventually, signal};
use crate::node::{Node, shell, words};

/// One shim for all; each way to end with its code and reason.
pub fn containers_of_a_pod(node: &Node) {
    let about: VersionResponse = node.call("Version", &Empty {}).unwrap();
    assert_eq!(about.runtime_name, "containerd");
    let answer: StatusResponse = node.call("Status", &Empty {}).unwrap();
    let conditions = answer.status.unwrap().conditions;
    let ready = conditions.iter().find(|c| c.kind == "RuntimeReady");
    assert!(ready.unwrap().status, "{conditions:?}");

    let pod = node.pod();
    assert_eq!(node.pod_state(&pod), sandbox::READY);
    let shims = node.shims();
    assert_eq!(shims.len(), 1, "{shims:?}");

    let stays = node.create(&pod, "stays", shell("sleep 1000"));
    assert_eq!(node.status(&stays).state, state::CREATED);
    node.begin(&stays).unwrap();
    assert_eq!(node.status(&stays).state, state::RUNNING);

    let good = node.run(&pod, "good", "echo done");
    let bad = node.run(&pod, "bad", "exit 7");
    let missing = ContainerConfig {
        command: words(&["/no/such/program"]),
        ..Default::default()
    };
    let missing = node.create(&pod, "missing", missing);
    let refused = node.begin(&missing).unwrap_err();
    assert!(refused.message.contains("/no/such/program"), "{refused}");

    let end = |id: &str| {
        let status = node.ended(id);
        // Not after the start, which containerd dates when it has been told of it.
        assert!(status.finished_at > 0, "{status:?}");
        (status.exit_code, status.reason, status.message)
    };
    assert_eq!(end(&good), (0, "Completed".into(), String::new()));
    assert_eq!(end(&bad), (7, "Error".into(), String::new()));
    let (code, reason, message) = end(&missing);
    assert_eq!((code, reason.as_str()), (128, "StartError"), "{message}");
    assert!(message.contains("/no/such/program"), "{message}");

    // All that is now another's end left the first alone, in the same shim.
    assert_eq!(node.sh(&stays, "echo hi"), "hi\n");
    let now = node.shims();
    assert_eq!(now.len(), 1, "{now:?}");
    assert_eq!(now[0].pid, shims[0].pid);

    let all = || -> ListContainersResponse { node.call("ListContainers", &Empty {}).unwrap() };
    assert_eq!(all().containers.len(), 4);
    let _: Empty = node.by_id("RemoveContainer", &good).unwrap();
    // A kubelet does it again after an answer that got lost.
    let _: Empty = node.by_id("RemoveContainer", &good).unwrap();
    assert_eq!(all().containers.len(), 3);

    node.done(&pod, "pod with several containers, exit codes and reasons");
}

/// The handler whose runtime type is the shim's own name.
pub fn pod_by_the_shims_name(node: &Node) {
    let pod = node.pod_of("by-name", namespace::CONTAINER);
    let id = node.run(&pod, "one", "sleep 1000");
    assert_eq!(node.sh(&id, "echo hi"), "hi\n");
    let ends = node.run(&pod, "ends", "exit 3");
    assert_eq!(node.ended(&ends).exit_code, 3);
    node.done(&pod, "handler by the shim's own name");
}

/// The same with options, which containerd then sends as the text of its configuration.
pub fn options_by_the_shims_name(node: &Node) {
    let pod = node.pod_of("by-name-with-options", namespace::CONTAINER);
    let id = node.run(&pod, "one", "sleep 1000");
    assert_eq!(node.sh(&id, "echo hi"), "hi\n");
    let root = node.daemon.owner.dir.join("runtime/k8s.io");
    for id in [&pod.id, &id] {
        assert!(root.join(id).is_dir(), "{id} is not in {}", root.display());
    }
    node.done(&pod, "options by the shim's own name");
}

/// A container that obeys SIGTERM, one that does not, one that is not asked, and one that has ended.
pub fn stops(node: &Node) {
    let pod = node.pod();
    let ready = |id: &str| {
        eventually("the trap is set", || {
            node.exec(id, &["test", "-e", "/ready"]).unwrap().exit_code == 0
        });
    };
    let run = |name: &str, action: &str| {
        let script = format!("trap '{action}' TERM; touch /ready; while :; do sleep 0.1; done");
        let id = node.run(&pod, name, &script);
        ready(&id);
        id
    };
    let obeys = run("obeys", "exit 3");
    // Reached only by a hang: the time-out is far above what it takes.
    node.stop(&obeys, 60);
    let status = node.status(&obeys);
    assert_eq!(
        (status.state, status.exit_code, status.reason.as_str()),
        (state::EXITED, 3, "Error")
    );
    node.stop(&obeys, 60);

    for (name, timeout) in [("ignores", 1), ("at-once", 0)] {
        let id = run(name, "");
        node.stop(&id, timeout);
        let status = node.status(&id);
        assert_eq!(
            (status.state, status.exit_code, status.reason.as_str()),
            (state::EXITED, 137, "Error"),
            "{name}"
        );
    }
    node.done(&pod, "stop: SIGTERM, time-out, SIGKILL");
}

/// A pod is removed with all that runs in it: containers, their children, execs.
pub fn removal_of_a_busy_pod(node: &Node) {
    let pod = node.pod();
    for n in 0..4 {
        let id = node.run(&pod, &format!("c{n}"), "sleep 1000 & sleep 1000");
        node.sh(&id, "sleep 1000 >/dev/null 2>&1 </dev/null &");
    }
    node.create(&pod, "never-started", shell("true"));
    node.done(&pod, "removal of a pod with all that runs in it");
}

/// The kubelet's event stream: each step of each container, in order.
pub fn announcements(node: &Node) {
    let pod = node.pod();
    let events = node.events();
    let kinds = |id: &str| -> Vec<i32> {
        let events = events.lock().unwrap();
        let of = events.iter().filter(|e| e.container_id == id);
        of.map(|e| e.kind).collect()
    };
    // The stream says nothing until there is something to say.
    let mut attempts = 0;
    eventually("the subscription stands", || {
        attempts += 1;
        let probe = node.create(&pod, &format!("probe{attempts}"), shell("true"));
        let _: Empty = node.by_id("RemoveContainer", &probe).unwrap();
        !events.lock().unwrap().is_empty()
    });

    let id = node.run(&pod, "one", "exit 5");
    node.ended(&id);
    let _: Empty = node.by_id("RemoveContainer", &id).unwrap();
    let whole = [
        event::CREATED,
        event::STARTED,
        event::STOPPED,
        event::DELETED,
    ];
    eventually("the whole life is announced", || kinds(&id).len() >= 4);
    assert_eq!(kinds(&id), whole);

    // The pod's own end, by a process nobody asked to end.
    let procs = node.daemon.owner.cgroups();
    let procs = procs[0].join(&pod.id).join("cgroup.procs");
    let pid = fs::read_to_string(procs).unwrap();
    signal(pid.trim().parse().unwrap(), "KILL");
    eventually("the pod's end is announced", || {
        kinds(&pod.id).contains(&event::STOPPED)
    });
    assert_eq!(node.pod_state(&pod), sandbox::NOT_READY);
    node.done(&pod, "event stream");
}
