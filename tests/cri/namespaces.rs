//! Containers that share a process id namespace: with their pod, the machine, another container. The
//! end of one is the end of all its processes, and of nobody else's.

use std::fs;

use crate::api::*;
use crate::common::{eventually, signal};
use crate::node::{Node, Pod, shell};

const OWN: &str = "readlink /proc/self/ns/pid";

/// Runs a container that leaves a process behind, next to `other`, and checks what dies with it.
fn leaves_a_process(node: &Node, pod: &Pod, other: &str) {
    let id = node.run(pod, "leaves", "sleep 7777 & sleep 8888");
    let sees = |what: &str| node.sh(other, "ps -o args").contains(what);
    eventually("the other sees both", || {
        sees("sleep 7777") && sees("sleep 8888")
    });
    let all = node.daemon.owner.processes();
    // The shell has become the last of its commands: the container's own process.
    let main = all.iter().find(|p| p.argv == "sleep 8888");
    signal(main.unwrap_or_else(|| panic!("{all:?}")).pid, "KILL");
    assert_eq!(node.ended(&id).exit_code, 137);
    // The CRI says so when the container is deleted, and then nothing of it is left.
    assert!(!sees("sleep 7777") && !sees("sleep 8888"));
}

/// All containers see the pod's processes.
pub fn of_the_pod(node: &Node) {
    let pod = node.pod_of("", namespace::POD);
    let one = node.run(&pod, "one", "sleep 1000");
    let two = node.run(&pod, "two", "sleep 2000");
    assert_eq!(node.sh(&one, OWN), node.sh(&two, OWN));
    // The pod's own process is the first.
    assert_eq!(
        node.sh(&two, "tr '\\0' ' ' </proc/1/cmdline"),
        "sleep 1000000 "
    );
    assert!(node.sh(&two, "ps -o args").contains("sleep 1000\n"));
    leaves_a_process(node, &pod, &one);
    node.stop(&two, 0);
    assert_eq!(node.status(&two).exit_code, 137);
    assert_eq!(node.sh(&one, "echo hi"), "hi\n");
    node.done(&pod, "process namespace of the pod");
}

/// All containers see the machine's processes.
pub fn of_the_node(node: &Node) {
    let pod = node.pod_of("", namespace::NODE);
    let one = node.run(&pod, "one", "sleep 1000");
    let machines = fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(node.sh(&one, OWN).trim(), machines.to_str().unwrap());
    leaves_a_process(node, &pod, &one);
    assert_eq!(node.sh(&one, "echo hi"), "hi\n");
    node.done(&pod, "process namespace of the machine");
}

/// A debugging container joins the namespace of the one it is for.
pub fn of_another_container(node: &Node) {
    let pod = node.pod();
    let one = node.run(&pod, "one", "sleep 1000");
    let bystander = node.run(&pod, "bystander", "sleep 1000");
    let join = || ContainerConfig {
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network: namespace::NODE,
                    pid: namespace::TARGET,
                    target_id: one.clone(),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }),
        ..shell("sleep 3000")
    };
    let debug = node.run_config(&pod, "debug", join());
    assert_eq!(node.sh(&debug, OWN), node.sh(&one, OWN));
    assert_ne!(node.sh(&debug, OWN), node.sh(&bystander, OWN));
    node.stop(&debug, 0);
    assert_eq!(node.sh(&one, "echo hi"), "hi\n");
    // The end of a namespace's first process is the end of all in it.
    let again = node.run_config(&pod, "again", join());
    node.stop(&one, 0);
    assert_eq!(node.ended(&again).exit_code, 137);
    node.done(&pod, "process namespace of another container");
}
