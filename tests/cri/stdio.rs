//! What containers write: the log files that a kubelet reads and rotates, and attach.

use std::fs;

use crate::api::*;
use crate::common::eventually;
use crate::node::{Node, shell};
use crate::stream::Stream;

/// The lines of a log: stream, tag (F for full, P for part of a line) and text, without the times.
fn lines(log: &str) -> Vec<(String, String, String)> {
    log.lines()
        .map(|line| {
            let mut fields = line.splitn(4, ' ').map(str::to_owned);
            let time = fields.next().unwrap();
            assert!(time.starts_with("20") && time.contains('T'), "{line}");
            let mut next = || fields.next().unwrap();
            (next(), next(), next())
        })
        .collect()
}

/// Both streams, long lines, all of it by the time the end is known, and rotation.
pub fn logs(node: &Node) {
    let pod = node.pod();
    let read = |name: &str| lines(&fs::read_to_string(node.log(name)).unwrap());

    let script = "seq 20000; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo";
    let id = node.run(&pod, "all", script);
    node.ended(&id);
    let log = read("all");
    let (err, out): (Vec<_>, Vec<_>) = log.into_iter().partition(|l| l.0 == "stderr");
    assert_eq!(err.len(), 1);
    assert_eq!((&*err[0].1, &*err[0].2), ("F", "err"));
    for (n, line) in (1..=20_000).zip(&out) {
        assert_eq!((&*line.1, &*line.2), ("F", &*n.to_string()));
    }
    let long: Vec<_> = out[20_000..].iter().map(|l| (&*l.1, l.2.len())).collect();
    assert_eq!(long, [("P", 16384), ("F", 20000 - 16384)]);

    let script = "mkfifo /p; exec 3<>/p; echo ready; while read l <&3; do echo $l; done";
    let id = node.run(&pod, "rotated", script);
    let texts = || -> Vec<String> { read("rotated").into_iter().map(|l| l.2).collect() };
    eventually("it is ready", || texts() == ["ready"]);
    node.sh(&id, "echo one >/p");
    eventually("the line is there", || texts() == ["ready", "one"]);
    let old = node.log("rotated").with_extension("log.1");
    fs::rename(node.log("rotated"), &old).unwrap();
    let _: Empty = node.by_id("ReopenContainerLog", &id).unwrap();
    node.sh(&id, "echo two >/p");
    eventually("the line is in the new file", || texts() == ["two"]);
    assert_eq!(lines(&fs::read_to_string(old).unwrap()).len(), 2);
    node.done(&pod, "logs: format, completeness, rotation");
}

fn open(node: &Node, id: &str, tty: bool) -> Stream {
    let request = AttachRequest {
        container_id: id.into(),
        stdin: true,
        tty,
        stdout: true,
        stderr: !tty,
    };
    let answer: UrlResponse = node.call("Attach", &request).unwrap();
    Stream::open(&answer.url)
}

/// A container with an open input: attached to twice, one after the other.
pub fn attach(node: &Node) {
    let pod = node.pod();
    let config = ContainerConfig {
        stdin: true,
        ..shell("while read l; do echo out-$l; echo err-$l >&2; [ $l = quit ] && exit 4; done")
    };
    let id = node.run_config(&pod, "one", config);
    let mut stream = open(node, &id, false);
    stream.input("one\n");
    stream.expect("out-one\n");
    drop(stream);
    assert_eq!(node.status(&id).state, state::RUNNING);

    let mut stream = open(node, &id, false);
    stream.input("end\n");
    stream.expect("out-end\n");
    // What is said last, containerd's streaming server may cut off, with any shim.
    stream.input("quit\n");
    stream.end();
    assert_eq!(node.ended(&id).exit_code, 4);

    // What is said once is over with the one who said it.
    let config = ContainerConfig {
        stdin: true,
        stdin_once: true,
        ..shell("cat; exit 5")
    };
    let once = node.run_config(&pod, "once", config);
    let mut stream = open(node, &once, false);
    stream.input("over\n");
    stream.expect("over\n");
    drop(stream);
    assert_eq!(node.ended(&once).exit_code, 5);
    node.done(&pod, "attach");
}

/// The same on a terminal of the container's own.
pub fn attach_to_a_terminal(node: &Node) {
    let pod = node.pod();
    let config = ContainerConfig {
        stdin: true,
        tty: true,
        ..shell("exec sh")
    };
    let id = node.run_config(&pod, "one", config);
    let mut stream = open(node, &id, true);
    stream.resize(91, 33);
    stream.input("until [ \"$(stty size)\" = '33 91' ]; do sleep 0.05; done; echo re''sized\n");
    stream.expect("resized");
    drop(stream);
    let mut stream = open(node, &id, true);
    stream.input("echo again; exit 8\n");
    stream.end();
    assert_eq!(node.ended(&id).exit_code, 8);
    node.done(&pod, "attach to a terminal");
}
