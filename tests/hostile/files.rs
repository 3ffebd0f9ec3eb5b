//! Files that a shim reads or writes beside config.json, and are not what they should be: it is not
//! held up, and reads no more than makes sense.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use cotter::error::Code;
use cotter::proto::pack;
use cotter::proto::runc_options::Options;
use cotter::proto::task::CreateTaskRequest;
use nix::sys::stat::Mode;

use crate::common::shim::Shim;
use crate::world::{survives, works};

fn fifo(path: &Path) {
    nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
}

/// What is put in the place of a file, and how.
type Kind = (&'static str, fn(&Path));

/// What may be where a shim is about to write.
const KINDS: [Kind; 4] = [
    ("a FIFO", fifo),
    ("a link elsewhere", |path| {
        symlink(path.with_file_name("precious"), path).unwrap();
    }),
    ("a link to itself", |path| symlink(path, path).unwrap()),
    ("a directory", |path| fs::create_dir(path).unwrap()),
];

async fn b_works(shim: &Shim) {
    shim.create("b").await.unwrap();
    shim.start_process("b", "").await.unwrap();
    shim.remove("b").await;
}

/// In the place of what Create notes, they make it fail, and of what says little, they are ignored.
#[test]
fn where_the_shim_writes() {
    survives(async |shim| {
        let bundle = shim.bundle_path("b");
        let precious = bundle.join("precious");
        for (kind, put) in KINDS {
            for (name, vital) in [
                ("options.json", true),
                ("runtime", true),
                ("init.pid", false),
                ("log.json", false),
            ] {
                let path = bundle.join(name);
                let _ = fs::remove_file(&path);
                fs::write(&precious, "precious").unwrap();
                put(&path);
                if name == "log.json" {
                    // What a runtime has said is put there after its call.
                    let lie = r#"echo '{"level":"error","msg":"no luck"}' >>"$log"; exit 1"#;
                    let request = CreateTaskRequest {
                        options: Some(pack(&liar(shim, lie)).unwrap()).into(),
                        ..shim.create_request("b")
                    };
                    let error = shim.tasks.create(&request).await.expect_err(kind);
                    assert!(error.message.ends_with("no luck"), "{kind}: {error}");
                }
                let created = shim.create("b").await;
                // Only a directory cannot be moved out of the way of the runtime's note.
                if vital || (name == "init.pid" && kind == "a directory") {
                    let error = created.expect_err(&format!("{kind} as {name}"));
                    assert!(error.message.contains(name), "{kind}: {error}");
                    assert_eq!(shim.state("b", "").await.unwrap_err().code, Code::NotFound);
                } else {
                    created.unwrap_or_else(|e| panic!("{kind} as {name}: {e}"));
                    shim.start_process("b", "").await.unwrap();
                    shim.remove("b").await;
                }
                assert_eq!(fs::read_to_string(&precious).unwrap(), "precious", "{kind}");
                works(shim).await;
                let _ = fs::remove_file(&path);
                let _ = fs::remove_dir(&path);
            }
        }
        fs::remove_file(&precious).unwrap();
        b_works(shim).await;
    });
}

/// What a runtime may do in `create` before it fails or lies, as shell text; `$log` and `$pid_file`
/// are its files, and `$PPID` is the shim.
const LIES: [(&str, &str); 22] = [
    (
        "a log of noise",
        r#"head -c 1000000 /dev/urandom >>"$log"; exit 1"#,
    ),
    (
        "a line of 20 MB",
        r#"head -c 20000000 /dev/zero | tr '\0' a >>"$log"; exit 1"#,
    ),
    (
        "records without end",
        r#"yes '{"level":"error","msg":"x"' | head -c 1000000 >>"$log"; exit 1"#,
    ),
    (
        "records in records",
        r#"yes '{"x":' | head -c 1000000 >>"$log"; exit 1"#,
    ),
    (
        "arrays in arrays",
        r#"printf '{"level":' >>"$log"; yes '[' | head -c 200000 | tr -d '\n' >>"$log"; exit 1"#,
    ),
    (
        "words without end",
        r#"{ printf '{"level":"error","msg":"'; head -c 200000 /dev/zero | tr '\0' a; echo '"}'; } >>"$log"; exit 1"#,
    ),
    ("a FIFO for a log", r#"rm "$log"; mkfifo "$log"; exit 1"#),
    (
        "a device for a log",
        r#"rm "$log"; ln -s /dev/zero "$log"; exit 1"#,
    ),
    ("no log", r#"rm "$log"; exit 1"#),
    (
        "a talker",
        r#"head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; exit 1"#,
    ),
    ("an empty pid", r#": >"$pid_file"; exit 0"#),
    ("a negative pid", r#"printf -- -1 >"$pid_file"; exit 0"#),
    ("pid 0", r#"printf 0 >"$pid_file"; exit 0"#),
    ("pid 1", r#"printf 1 >"$pid_file"; exit 0"#),
    ("the shim's pid", r#"printf %s $PPID >"$pid_file"; exit 0"#),
    ("its own pid", r#"printf %s $$ >"$pid_file"; exit 0"#),
    ("a huge pid", r#"printf 4294967297 >"$pid_file"; exit 0"#),
    (
        "digits without end",
        r#"head -c 20000000 /dev/zero | tr '\0' 1 >"$pid_file"; exit 0"#,
    ),
    ("a pid and a NUL", r#"printf '12\0' >"$pid_file"; exit 0"#),
    ("a FIFO for a pid", r#"mkfifo "$pid_file"; exit 0"#),
    (
        "a device for a pid",
        r#"ln -s /dev/zero "$pid_file"; exit 0"#,
    ),
    ("a directory for a pid", r#"mkdir "$pid_file"; exit 0"#),
];

/// A runtime that does `lie` instead of `create`, and is the real one in all else.
fn liar(shim: &Shim, lie: &str) -> Options {
    let path = shim.dir().join("liar");
    let real = &shim.options.binary_name;
    let script = format!(
        r#"#!/bin/sh
log='' pid_file='' before='' create=''
for word; do
    case $before in
    --log) log=$word ;;
    --pid-file) pid_file=$word ;;
    esac
    [ "$word" = create ] && create=yes
    before=$word
done
[ "$create" ] || exec {real} "$@"
{lie}
"#
    );
    // Renamed into its place, from which a shell may be reading.
    let new = path.with_extension("new");
    crate::common::write_program(&new, script);
    fs::rename(&new, &path).unwrap();
    Options {
        binary_name: path.to_string_lossy().into_owned(),
        ..shim.options.clone()
    }
}

#[test]
fn what_a_runtime_says() {
    survives(async |shim| {
        let bundle = shim.bundle_path("b");
        for (what, lie) in LIES {
            let request = CreateTaskRequest {
                options: Some(pack(&liar(shim, lie)).unwrap()).into(),
                ..shim.create_request("b")
            };
            let refusal = shim.tasks.create(&request).await.expect_err(what);
            let message = &refusal.message;
            assert!(message.len() < 300_000, "{what}: {} bytes", message.len());
            let expected = match what.contains("pid") || what.contains("digits") {
                true => "failed to retrieve OCI runtime container pid: ",
                false => "OCI runtime create failed: ",
            };
            assert!(message.starts_with(expected), "{what}: {message:.300}");
            works(shim).await;
            let log = fs::metadata(bundle.join("log.json"));
            let length = log.map_or(0, |log| log.len());
            assert!(length <= 300_000, "{what}: {length} bytes in the log");
            for left in fs::read_dir(&bundle).unwrap() {
                let left = left.unwrap().path();
                let name = left.file_name().unwrap().to_string_lossy().into_owned();
                if name == "init.pid" && left.is_dir() {
                    fs::remove_dir(&left).unwrap();
                } else if name == "log.json" {
                    fs::remove_file(&left).unwrap();
                } else {
                    assert!(
                        ["config.json", "log", "rootfs"].contains(&&*name),
                        "{what}: left {name}"
                    );
                }
            }
        }
        b_works(shim).await;
    });
}

/// A config.json that is JSON, and not one that anybody wrote in earnest.
#[test]
fn what_a_config_says() {
    survives(async |shim| {
        let path = shim.bundle_path("b").join("config.json");
        let good = fs::read_to_string(&path).unwrap();
        let deep = |open: &str, close: &str| {
            let (open, close) = (open.repeat(50_000), close.repeat(50_000));
            good.replacen('{', &format!("{{\"x\":{open}1{close},"), 1)
        };
        let pairs: Vec<String> = (0..100_000).map(|n| format!("\"k{n}\":\"v\"")).collect();
        let with = |field: &str| good.replacen('{', &format!("{{{field},"), 1);
        let cases: [(&str, String); 13] = [
            (
                "no process",
                r#"{"ociVersion":"1.0.2","root":{"path":"/"}}"#.into(),
            ),
            ("deep arrays", deep("[", "]")),
            ("deep objects", deep("{\"x\":", "}")),
            ("the same key twice", with(r#""process":{},"process":{}"#)),
            (
                "many keys, twice",
                with(&format!(
                    "\"annotations\":{{{}}}, \"annotations\":7",
                    pairs.join(",")
                )),
            ),
            ("a process of text", r#"{"process":"x"}"#.into()),
            (
                "a terminal of text",
                r#"{"process":{"terminal":"yes"}}"#.into(),
            ),
            ("annotations in a list", r#"{"annotations":["a"]}"#.into()),
            (
                "an annotation of numbers",
                r#"{"annotations":{"a":7}}"#.into(),
            ),
            (
                "namespaces of text",
                r#"{"linux":{"namespaces":"pid"}}"#.into(),
            ),
            (
                "a namespace of text",
                r#"{"linux":{"namespaces":["pid"]}}"#.into(),
            ),
            (
                "a huge number",
                r#"{"process":{"terminal":1e999999}}"#.into(),
            ),
            (
                "half of a letter",
                r#"{"annotations":{"a":"\ud800"}}"#.into(),
            ),
        ];
        for (what, text) in cases {
            fs::write(&path, text).unwrap();
            match shim.create("b").await {
                Err(refusal) => {
                    assert!(refusal.message.len() < 10_000, "{what}");
                    let state = shim.state("b", "").await.unwrap_err();
                    assert_eq!(state.code, Code::NotFound, "{what}");
                }
                // Neither shim nor runtime looks into fields that they do not know.
                Ok(_) if what.starts_with("deep") => drop(shim.remove("b").await),
                Ok(_) => panic!("{what}: created"),
            }
            works(shim).await;
        }
        fs::write(&path, good).unwrap();
        b_works(shim).await;
    });
}
