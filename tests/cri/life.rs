//! Containers of a pod from creation to removal, and how the CRI tells of their ends.

use crate::api::*;
use crate::common::containerd::Version;
use crate::node::Node;

#[test]
fn a_pod() {
    let node = Node::start(Version::V2_1, "RUNC");
    let pod = node.pod();
    assert_eq!(node.pod_state(&pod), sandbox::READY);
    let one = node.run(&pod, "one", "sleep 1000");
    let two = node.run(&pod, "two", "sleep 1000");
    assert_eq!(node.shims().len(), 1);
    for id in [&one, &two] {
        assert_eq!(node.status(id).state, state::RUNNING);
    }
    assert_eq!(node.sh(&one, "echo hi"), "hi\n");
    node.done(&pod, "pod");
}
