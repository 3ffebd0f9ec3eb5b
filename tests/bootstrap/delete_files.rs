//! `delete` in a bundle whose files are not what they should be: FIFOs that nobody writes to, devices
//! and files without end, links in a circle. It answers in time, and the container goes.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cotter::proto::task::DeleteResponse;
use nix::sys::stat::Mode;
use protobuf::Message;
use serde_json::json;

use crate::delete::{FILES, write_script};
use crate::harness::*;

/// What is put in the place of a file, and how.
type Kind = (&'static str, fn(&Path));

/// What may be in the place of a file.
const KINDS: [Kind; 4] = [
    ("a FIFO", |path| {
        nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
    }),
    ("a device without end", |path| {
        symlink("/dev/zero", path).unwrap();
    }),
    ("a link to itself", |path| symlink(path, path).unwrap()),
    ("1 TiB", |path| {
        File::create(path).unwrap().set_len(1 << 40).unwrap()
    }),
];

/// Runs the action with as little memory as a shim may have, and returns what it said.
fn delete(bundle: &Bundle, what: &str) -> (DeleteResponse, String) {
    let begin = Instant::now();
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -v 200000; exec \"$0\" \"$@\""]);
    let shim = bundle.command("delete");
    limited.arg(shim.get_program()).args(shim.get_args());
    limited.current_dir(&bundle.path);
    limited
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in shim.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let output = run(limited, b"");
    assert!(begin.elapsed() < Duration::from_secs(5), "{what}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{what}: {said}");
    (
        DeleteResponse::parse_from_bytes(&output.stdout).unwrap(),
        said,
    )
}

#[test]
fn are_looked_into_no_further_than_makes_sense() {
    let manager = Manager::new("delete-files");
    let bundle = manager.bundle("c1", None);
    for (kind, put) in KINDS {
        for file in FILES {
            let path = bundle.path.join(file);
            let _ = fs::remove_file(&path);
            put(&path);
            let what = format!("{kind} as {file}");
            assert_eq!(delete(&bundle, &what).1, "", "{what}");
            fs::remove_file(&path).unwrap();
        }
        for file in FILES {
            put(&bundle.path.join(file));
        }
        assert_eq!(delete(&bundle, kind).1, "", "all files: {kind}");
        for file in FILES {
            fs::remove_file(bundle.path.join(file)).unwrap();
        }
    }
}

/// The runtime is not given as its log what it would wait at.
#[test]
fn do_not_hold_the_runtime_up() {
    let manager = Manager::new("delete-log");
    let bundle = manager.bundle("c1", None);
    let root = manager.dir.join("root");
    let state = root.join(&manager.namespace).join("c1");
    let runtime = bundle.path.join("fake");
    // What runtimes do first.
    write_script(
        &runtime,
        r#"root=$2; [ "$3" = --log ] && echo >>"$4"; rmdir "$root/c1""#,
    );
    let options = json!({ "root": root, "binary_name": runtime });
    for (kind, put) in KINDS {
        fs::create_dir_all(&state).unwrap();
        let log = bundle.path.join("log.json");
        put(&log);
        fs::write(bundle.path.join("options.json"), options.to_string()).unwrap();
        assert_eq!(delete(&bundle, kind).1, "", "{kind}");
        assert!(!state.exists(), "{kind}");
        fs::remove_file(&log).unwrap();
    }
}
