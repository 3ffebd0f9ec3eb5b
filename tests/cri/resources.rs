//! Figures and limits.

use std::fs;
use std::path::PathBuf;

use crate::api::*;
use crate::common::eventually;
use crate::node::{Node, shell, words};

const MIB: i64 = 1 << 20;

fn limited(memory: i64, script: &str) -> ContainerConfig {
    ContainerConfig {
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                memory_limit_in_bytes: memory,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..shell(script)
    }
}

/// Processor time, memory and processes, of the container and of the pod.
pub fn figures(node: &Node) {
    let pod = node.pod();
    let id = node.run(&pod, "one", "while :; do :; done");
    let value = |number: Option<Number>| number.unwrap_or_default().value;
    let used = |cpu: Option<CpuUsage>, memory: Option<MemoryUsage>| {
        let (cpu, memory) = (cpu.unwrap_or_default(), memory.unwrap_or_default());
        let working_set = value(memory.working_set_bytes);
        value(cpu.usage_core_nano_seconds) > 0
            && working_set > 0
            && value(memory.usage_bytes) >= working_set
    };
    // Figures are collected from time to time, so the first ones may be from before the first work.
    eventually("the container uses something", || {
        let answer: ContainerStatsResponse = node.by_id("ContainerStats", &id).unwrap();
        let stats = answer.stats.unwrap_or_default();
        used(stats.cpu, stats.memory)
    });
    eventually("the pod uses something", || {
        let answer: PodSandboxStatsResponse = node.by_id("PodSandboxStats", &pod.id).unwrap();
        let stats = answer.stats.unwrap_or_default().linux.unwrap_or_default();
        // Of processes the container's; containerd leaves the pod's own out.
        let processes = stats.process.unwrap_or_default().process_count;
        used(stats.cpu, stats.memory) && value(processes) == 1 && stats.containers.len() == 1
    });
    node.done(&pod, "stats of containers and pods");
}

/// A container that the kernel ends for its use of memory is told of as such.
pub fn out_of_memory(node: &Node) {
    let pod = node.pod();
    let beside = node.run(&pod, "beside", "sleep 1000");
    let hungry = limited(24 * MIB, "");
    let config = ContainerConfig {
        // No shell that outlives its child: what is killed is the container's own process.
        command: words(&["tail", "/dev/zero"]),
        ..hungry
    };
    let id = node.run_config(&pod, "hungry", config);
    let status = node.ended(&id);
    assert_eq!((status.exit_code, &*status.reason), (137, "OOMKilled"));
    assert_eq!(node.sh(&beside, "echo hi"), "hi\n");
    node.done(&pod, "OOMKilled");
}

/// The shim's own event of forks that the kernel refused disturbs nobody: what comes after it is understood.
pub fn refused_forks(node: &Node) {
    let pod = node.pod();
    let script =
        "until [ -e /go ]; do sleep 0.05; done; sh -c 'while :; do sleep 1000 & done'; exit 7";
    let id = node.run(&pod, "bomb", script);
    let dirs = node.daemon.owner.cgroups();
    let file = dirs.iter().map(|dir| dir.join(&id).join("pids.max"));
    let file = file.into_iter().find(|file| file.exists()).unwrap();
    fs::write(file, "20").unwrap();
    node.sh(&id, "touch /go");
    assert_eq!(node.ended(&id).exit_code, 7);
    eventually("the shim has said so", || {
        node.daemon.log().contains("the kernel refused")
    });
    node.done(&pod, "an event of our own");
}

/// Limits are changed while the container runs.
pub fn update(node: &Node) {
    let pod = node.pod();
    let id = node.run_config(&pod, "one", limited(64 * MIB, "sleep 1000"));
    let file = |name: &str| -> String {
        let find = |dir: &PathBuf| fs::read_to_string(dir.join(&id).join(name)).ok();
        let dirs = node.daemon.owner.cgroups();
        dirs.iter().find_map(find).unwrap().trim().to_owned()
    };
    assert_eq!(file("memory.limit_in_bytes"), (64 * MIB).to_string());
    let request = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(LinuxContainerResources {
            memory_limit_in_bytes: 96 * MIB,
            cpu_shares: 512,
        }),
    };
    let _: Empty = node.call("UpdateContainerResources", &request).unwrap();
    assert_eq!(file("memory.limit_in_bytes"), (96 * MIB).to_string());
    assert_eq!(file("cpu.shares"), "512");
    let limits = node.status(&id).resources.unwrap().linux.unwrap();
    assert_eq!(limits.memory_limit_in_bytes, 96 * MIB);

    // One that the kernel refuses changes nothing and is told of.
    let request = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(LinuxContainerResources {
            memory_limit_in_bytes: 4096,
            ..Default::default()
        }),
    };
    let refused = node.call::<Empty>("UpdateContainerResources", &request);
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(file("memory.limit_in_bytes"), (96 * MIB).to_string());
    assert_eq!(node.sh(&id, "echo hi"), "hi\n");
    node.done(&pod, "limits changed while the container runs");
}
