//! Containers whose root is nobody outside: dockerd with userns-remap.

use std::fs;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::common::TempDir;
use crate::common::containerd::Form;
use crate::engine::{Engine, Line};

const NONE: Option<&str> = None;

/// dockerd reads the id ranges from /etc alone, so this test, with all that it starts, has an /etc of its own there: the
/// mounts are this thread's and its children's.
pub fn remapped(line: Line, runtime: &str) {
    let ranges = TempDir::new("ranges");
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
    for name in ["subuid", "subgid"] {
        let file = ranges.path().join(name);
        fs::write(&file, "nobody:200000:65536\nnogroup:200000:65536\n").unwrap();
        mount(
            Some(&file),
            &*format!("/etc/{name}"),
            NONE,
            MsFlags::MS_BIND,
            NONE,
        )
        .unwrap();
    }

    let engine = Engine::start_with(
        line,
        Form::DropIn,
        runtime,
        json!({ "userns-remap": "nobody:nogroup" }),
    );
    let before = engine.census();
    let done = engine.run(
        &["--rm"],
        &["sh", "-c", "cat /proc/self/uid_map; id -u; exit 7"],
    );
    assert_eq!(done.code, 7, "{done:?}");
    let words: Vec<&str> = done.out.split_whitespace().collect();
    assert_eq!(words, ["0", "200000", "65536", "0"], "{done:?}");

    engine.up(
        "mapped",
        &["-i"],
        &["sh", "-c", "echo ready; exec sleep 1000"],
    );
    engine.said("mapped", "ready");
    let status = fs::read_to_string(format!("/proc/{}/status", engine.pid("mapped"))).unwrap();
    assert!(status.contains("\nUid:\t200000\t"), "{status}");
    let done = engine.exec(&[], "mapped", &["sh", "-c", "id -u; echo err >&2; exit 4"]);
    assert_eq!((done.code, &*done.out, &*done.err), (4, "0\n", "err\n"));
    let done = engine.exec(&["-t"], "mapped", &["tty"]);
    assert_eq!((done.code, &*done.out), (0, "/dev/pts/0\r\n"), "{done:?}");
    engine.docker(&["kill", "mapped"]).ok();
    assert_eq!(engine.exited("mapped"), 137);
    engine.docker(&["rm", "mapped"]).ok();
    engine.nothing_left_since(&before);
    engine.passed("user namespaces");
}
