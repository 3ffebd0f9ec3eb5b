//! The death of containerd and of the shim, under a running pod.

use std::fs;

use crate::api::*;
use crate::common::containerd::go_shim;
use crate::common::{eventually, signal};
use crate::node::{Node, Pod};

/// The first process of the container of a pod that runs a script with this word in it.
fn process(node: &Node, word: &str) -> u32 {
    let all = node.daemon.owner.processes();
    let found = all.iter().find(|p| p.argv.contains(word));
    found.unwrap_or_else(|| panic!("{word} in {all:?}")).pid
}

/// Runs a container that ends with `code` on SIGTERM, and waits until it does so.
fn obedient(node: &Node, pod: &Pod, name: &str, code: u32) -> String {
    let script = format!(
        "trap 'echo {name} ends; exit {code}' TERM; echo ready; while :; do sleep 0.1; done"
    );
    let id = node.run(pod, name, &script);
    eventually("the trap is set", || log(node, name).contains("ready"));
    id
}

fn log(node: &Node, name: &str) -> String {
    fs::read_to_string(node.log(name)).unwrap_or_default()
}

/// What runs goes on, is found again and told of as before; what ended meanwhile is told of too.
pub fn containerd_restarts(node: &mut Node) {
    let pod = node.pod();
    let away = obedient(node, &pod, "away", 3);
    let well = obedient(node, &pod, "well", 0);
    let after = obedient(node, &pod, "after", 4);
    let before = node.run(&pod, "before", "exit 5");
    node.ended(&before);
    let shim = node.shims()[0].pid;

    node.daemon.kill();
    for word in ["away ends", "well ends"] {
        let pid = process(node, word);
        signal(pid, "TERM");
        eventually("the process is gone", || {
            node.daemon.owner.processes().iter().all(|p| p.pid != pid)
        });
    }
    node.daemon.relaunch();
    eventually("the CRI is back", || {
        node.call::<VersionResponse>("Version", &Empty {}).is_ok()
    });

    assert_eq!(node.pod_state(&pod), sandbox::READY);
    assert_eq!(node.ended(&before).exit_code, 5);
    assert_eq!(node.status(&after).state, state::RUNNING);
    assert_eq!(node.sh(&after, "echo hi"), "hi\n");
    // Of a shim that names no process of what has ended, as Go's, containerd 1.7 and later delete the task
    // before the CRI asks: 255, Unknown.
    let told = |id| {
        let status = node.ended(id);
        (status.exit_code, status.reason)
    };
    if !go_shim() {
        assert_eq!(told(&away), (3, "Error".into()));
        assert_eq!(told(&well), (0, "Completed".into()));
    }

    let new = node.run(&pod, "new", "exit 6");
    assert_eq!(node.ended(&new).exit_code, 6);
    signal(process(node, "after ends"), "TERM");
    assert_eq!(node.ended(&after).exit_code, 4);
    assert!(log(node, "after").contains("after ends"));
    let shims = node.shims();
    assert_eq!(shims.iter().map(|p| p.pid).collect::<Vec<_>>(), [shim]);
    node.done(&pod, "containerd killed and started again");
}

/// The shim is killed: nothing of the pod runs on unseen, and its removal leaves nothing.
pub fn shim_killed(node: &Node) {
    let pod = node.pod();
    let one = node.run(&pod, "one", "sleep 1000");
    let two = node.run(&pod, "two", "sleep 1000");
    let neighbour = node.pod();
    let other = node.run(&neighbour, "other", "sleep 1000");

    signal(node.daemon.owner.shim(&pod.id).unwrap().pid, "KILL");
    eventually("the pod is told of as ended", || {
        node.pod_state(&pod) == sandbox::NOT_READY
    });
    for id in [&one, &two] {
        let status = node.ended(id);
        // Whoever knew the code is dead.
        assert_eq!((status.exit_code, &*status.reason), (255, "Error"));
    }
    assert_eq!(node.sh(&other, "echo hi"), "hi\n");
    // Of a shim that speaks task v3, as Go's does, containerd runs `delete` for the pod only (contract
    // 10.4): the containers' processes and cgroups stay.
    if go_shim() {
        return;
    }
    eventually("only the neighbour's container runs on", || {
        let all = node.daemon.owner.processes();
        all.iter().filter(|p| p.argv == "sleep 1000").count() == 1
    });
    node.remove(&neighbour);
    node.done(&pod, "shim killed");
}
