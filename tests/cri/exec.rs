//! Commands in running containers: probes, many of them, and terminals.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::api::*;
use crate::common::containerd::Version;
use crate::common::eventually;
use crate::node::{Node, words};
use crate::stream::Stream;

/// Output, errors, codes, a command that is not there, and one that takes too long.
pub fn commands(node: &Node) {
    let pod = node.pod();
    let id = node.run(&pod, "one", "sleep 1000");

    let script = "echo out; echo err >&2; exit 9";
    let done = node.exec(&id, &["sh", "-c", script]).unwrap();
    assert_eq!(done.exit_code, 9);
    assert_eq!(
        (&*done.stdout, &*done.stderr),
        (&b"out\n"[..], &b"err\n"[..])
    );

    let done = node.exec(&id, &["seq", "200000"]).unwrap();
    let lines: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(done.stdout, lines.into_bytes());

    let refused = node.exec(&id, &["/no/such/program"]).unwrap_err();
    assert!(refused.message.contains("/no/such/program"), "{refused}");

    let late = node.exec_within(&id, &["sleep", "7777"], 1).unwrap_err();
    assert_eq!(late.code, 4, "DEADLINE_EXCEEDED: {late}");
    assert!(late.message.contains("timeout 1s exceeded"), "{late}");
    let left = node.sh(&id, "ps -o args");
    assert!(!left.contains("7777"), "{left}");

    node.done(&pod, "execSync: output, codes, time-out");
}

/// As many probes as a full node has: one after the other, then eight at a time.
pub fn probes_at_speed(node: &Node) {
    let pod = node.pod();
    let id = node.run(&pod, "one", "sleep 1000");
    let probe = |n: u32| {
        let code = n % 7;
        let script = format!("echo {n}; exit {code}");
        let done = node.exec_within(&id, &["sh", "-c", &script], 60).unwrap();
        assert_eq!(done.stdout, format!("{n}\n").into_bytes());
        assert_eq!(done.exit_code, code as i32);
    };
    (0..200).for_each(probe);
    let next = AtomicU32::new(200);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= 400 {
                        break;
                    }
                    probe(n);
                }
            });
        }
    });
    assert_eq!(node.sh(&id, "ps -o args | grep -c '[e]cho' || true"), "0\n");
    node.done(&pod, "400 exec probes, 8 at a time");
}

/// Probes of a usual container, by the shim itself.
pub fn without_the_runtime(version: Version, runtime: &str) {
    let node = Node::start_in(version, runtime, &[("COTTER_EXEC_BY", "direct")]);
    let pod = node.pod();
    let id = node.run(&pod, "one", "sleep 1000");
    for n in 0..20 {
        let done = node
            .exec(&id, &["sh", "-c", &format!("echo {n}; exit {n}")])
            .unwrap();
        assert_eq!(
            (done.exit_code, done.stdout),
            (n, format!("{n}\n").into_bytes())
        );
    }
    let refused = node.exec(&id, &["/no/such/program"]).unwrap_err();
    assert!(refused.message.contains("/no/such/program"), "{refused}");
    let execs = node.daemon.execs("k8s.io", &id);
    assert_eq!(execs["by_shim"], 20, "{execs}");
    node.done(&pod, "execSync without the runtime");
}

/// The end of a container is the end of the commands in it, and they are told of as killed.
pub fn exec_in_a_dying_container(node: &Node) {
    let pod = node.pod();
    let id = node.run(&pod, "one", "sleep 1000");
    std::thread::scope(|scope| {
        let execs: Vec<_> = (0..3)
            .map(|n| {
                let script = format!("touch /in{n}; sleep 1000");
                let id = &id;
                scope.spawn(move || node.exec(id, &["sh", "-c", &script]))
            })
            .collect();
        eventually("all are running", || {
            node.sh(&id, "ls / | grep -c ^in[0-9] || true") == "3\n"
        });
        node.stop(&id, 0);
        for exec in execs {
            assert_eq!(exec.join().unwrap().unwrap().exit_code, 137);
        }
    });
    node.done(&pod, "execSync in a container that ends");
}

fn open(node: &Node, id: &str, cmd: &[&str], tty: bool) -> Stream {
    let request = ExecRequest {
        container_id: id.into(),
        cmd: words(cmd),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    let answer: UrlResponse = node.call("Exec", &request).unwrap();
    Stream::open(&answer.url)
}

/// `kubectl exec -it`: input, size, signals from the keyboard, the exit code.
pub fn terminal(node: &Node) {
    let pod = node.pod();
    let id = node.run(&pod, "one", "sleep 1000");
    let mut stream = open(node, &id, &["sh"], true);
    // The quotes keep the echo of what is typed apart from what is written.
    stream.input("tty && echo i''s-a-terminal\n");
    stream.expect("is-a-terminal");
    stream.resize(101, 31);
    // The size arrives on a way of its own.
    stream.input("until [ \"$(stty size)\" = '31 101' ]; do sleep 0.05; done; echo re''sized\n");
    stream.expect("resized");
    stream.input("sleep 1000; echo inter''rupted\n");
    eventually("sleep runs", || {
        node.sh(&id, "ps -o args").matches("sleep 1000\n").count() == 2
    });
    stream.input("\u{3}");
    stream.input("echo go''es-on\n");
    stream.expect("goes-on");
    stream.input("exit 7\n");
    assert_eq!(stream.end(), Some(7));
    node.done(&pod, "exec on a terminal");
}

/// `kubectl exec -i`: input, and two streams apart. The end of the input cannot be said in this protocol.
pub fn input(node: &Node) {
    let pod = node.pod();
    let id = node.run(&pod, "one", "sleep 1000");
    let script = "while read l; do echo out-$l; echo err-$l >&2; [ $l = end ] && exit 6; done";
    let mut stream = open(node, &id, &["sh", "-c", script], false);
    stream.input("one\n");
    stream.expect("out-one\n");
    stream.input("end\n");
    assert_eq!(stream.end(), Some(6));
    assert_eq!(
        (&*stream.out, &*stream.err),
        ("out-end\n", "err-one\nerr-end\n")
    );
    node.done(&pod, "exec with input");
}
