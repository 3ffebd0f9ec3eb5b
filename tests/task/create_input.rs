//! Bad input on every field of Create: refused with a clear word, while another container runs and
//! goes on running, and then the same id from the same bundle works.

use std::fs;
use std::path::Path;

use cotter::error::Code::{self, InvalidArgument, NotFound, Unknown};
use cotter::manager::spec::Spec;
use cotter::proto::runc_options::{CheckpointOptions, Options};
use cotter::proto::task::CreateTaskRequest;
use cotter::proto::{Any, pack, types};

use crate::client::{SLEEP, WORKS, contents, create, mounts, refused, with_each_runtime, works};
use crate::common::shim::Shim;

with_each_runtime! { ids, bundles, configs, streams, options, the_rest, }

/// A shim with a running container `c` and a bundle for `b`.
pub async fn running(runtime: &str) -> Shim {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    shim.bundle("b", Spec::new("b", SLEEP));
    shim
}

/// Checks that Create refuses `request`, that nothing has changed, and that nobody was told.
pub async fn refuses(shim: &Shim, request: &CreateTaskRequest, code: Code, words: &str) {
    let bundle = shim.bundle_path("b");
    let before = (
        contents(&bundle),
        mounts(shim.dir()),
        contents(&shim.state_dir()),
    );
    refused(create(shim, request).await, code, words);
    let after = (
        contents(&bundle),
        mounts(shim.dir()),
        contents(&shim.state_dir()),
    );
    assert_eq!(without_log(after), without_log(before), "{request:?}");
    if !request.id.is_empty() && request.id != "c" {
        refused(
            shim.state(&request.id, "").await,
            NotFound,
            "container not created: not found",
        );
        refused(
            shim.delete(&request.id, "").await,
            NotFound,
            "container not created: not found",
        );
    }
}

type Left = (
    Vec<(String, u64, String)>,
    Vec<String>,
    Vec<(String, u64, String)>,
);

/// The runtime's log may stay: it says why.
fn without_log((mut bundle, mounts, state): Left) -> Left {
    bundle.retain(|(name, ..)| name != "log.json");
    (bundle, mounts, state)
}

/// `c` still works, `b` can be made now, and of the refused ones there were no events.
pub async fn end(mut shim: Shim) {
    works(&shim, "c").await;
    shim.create("b").await.unwrap();
    shim.start_process("b", "").await.unwrap();
    works(&shim, "b").await;
    shim.remove("b").await;
    shim.remove("c").await;
    let deleted = |event: &cotter::manager::events::Event| matches!(event, cotter::manager::events::Event::Delete(delete) if delete.container_id == "c");
    let told = shim.events_until(deleted).await;
    let topics: Vec<&str> = told.iter().map(|told| &told.topic[..]).collect();
    let mut expected = vec!["/tasks/create", "/tasks/start"];
    expected.extend(WORKS);
    expected.extend(["/tasks/create", "/tasks/start"]);
    expected.extend(WORKS);
    expected.extend([
        "/tasks/exit",
        "/tasks/delete",
        "/tasks/exit",
        "/tasks/delete",
    ]);
    assert_eq!(topics, expected);
    assert_eq!(shim.end().await, []);
}

async fn ids(runtime: &'static str) {
    let shim = running(runtime).await;
    let long = "x".repeat(300);
    let longer = "x".repeat(1 << 20);
    for id in [
        "", ".", "..", "../c", "a/b", "/", "/etc", "-x", "--help", "a b", " ", "a\0b", "\0", "a\n",
        "\u{202e}", "ä", "c\u{301}", "%2e%2e", "a:b", "a\\b", ".hidden", &long, &longer,
    ] {
        let request = CreateTaskRequest {
            id: id.into(),
            ..shim.create_request("b")
        };
        refuses(&shim, &request, InvalidArgument, "container id").await;
    }
    end(shim).await;
}

async fn bundles(runtime: &'static str) {
    let shim = running(runtime).await;
    let bundle = shim.bundle_path("b");
    let file = bundle.join("config.json").to_string_lossy().into_owned();
    let empty = shim.dir().join("empty");
    fs::create_dir(&empty).unwrap();
    let cases: [(&str, Code, &str); 9] = [
        ("", InvalidArgument, "not an absolute path"),
        ("b", InvalidArgument, "not an absolute path"),
        ("./b", InvalidArgument, "not an absolute path"),
        ("../b", InvalidArgument, "not an absolute path"),
        ("/nonexistent", NotFound, "/nonexistent/config.json"),
        ("/a\0b", Unknown, ""),
        (&file, Unknown, "not a directory"),
        (empty.to_str().unwrap(), NotFound, "config.json"),
        ("/proc/self/fd", NotFound, "config.json"),
    ];
    for (bundle, code, words) in cases {
        let request = CreateTaskRequest {
            bundle: bundle.into(),
            ..shim.create_request("b")
        };
        refuses(&shim, &request, code, words).await;
    }
    assert_eq!(contents(&empty), []);
    end(shim).await;
}

/// A config.json that is missing, is none, or is not a file.
async fn configs(runtime: &'static str) {
    let shim = running(runtime).await;
    let path = shim.bundle_path("b").join("config.json");
    let request = shim.create_request("b");
    let good = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    refuses(&shim, &request, NotFound, "config.json").await;
    for broken in [
        "",
        "{",
        "[]",
        "null",
        "7",
        "\"x\"",
        "{]",
        "\u{feff}{}",
        &good[..good.len() / 2],
        "\0",
    ] {
        fs::write(&path, broken).unwrap();
        refuses(&shim, &request, Unknown, "").await;
    }
    // Well-formed, and not what a runtime can use.
    for useless in [
        "{}",
        r#"{"ociVersion":"1.0.2"}"#,
        r#"{"process":7}"#,
        r#"{"ociVersion":"1.0.2","process":{},"root":{"path":"nowhere"},"linux":{}}"#,
    ] {
        fs::write(&path, useless).unwrap();
        refuses(&shim, &request, Unknown, "").await;
    }
    let mut deep = "[".repeat(100_000);
    deep.insert_str(0, r#"{"x":"#);
    fs::write(&path, &deep).unwrap();
    refuses(&shim, &request, Unknown, "").await;
    fs::write(&path, vec![b' '; 11 << 20]).unwrap();
    refuses(&shim, &request, InvalidArgument, "longer than").await;
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refuses(&shim, &request, Unknown, "config.json").await;
    fs::remove_dir(&path).unwrap();
    // Would be opened for ever.
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refuses(&shim, &request, Unknown, "").await;
    fs::remove_file(&path).unwrap();
    fs::write(&path, good).unwrap();
    end(shim).await;
}

async fn streams(runtime: &'static str) {
    let shim = running(runtime).await;
    let fifos = shim.fifos("f", true);
    let long = format!("/{}", "x".repeat(5000));
    let cases: [(&str, Code, &str); 15] = [
        ("npipe:////./pipe/x", Unknown, "unknown STDIO scheme npipe"),
        (
            "ttrpc+unix:///s?streaming_id=1",
            Unknown,
            "unknown STDIO scheme ttrpc+unix",
        ),
        ("file://host/x", InvalidArgument, "file:///path"),
        (
            "binary:///bin/cat?=b",
            InvalidArgument,
            "binary:///bin/cat?=b",
        ),
        ("binary-v2://bin/cat", InvalidArgument, "binary-v2://"),
        ("relative", InvalidArgument, "not an absolute path"),
        ("../up", InvalidArgument, "not an absolute path"),
        ("://", InvalidArgument, "not an absolute path"),
        ("\n", InvalidArgument, "not an absolute path"),
        ("/a\0b", InvalidArgument, "NUL"),
        ("fifo://host/x", InvalidArgument, "fifo:///path"),
        ("fifo:///%00", InvalidArgument, "NUL"),
        (&long, InvalidArgument, "too long"),
        ("/nonexistent/fifo", NotFound, "/nonexistent/fifo"),
        ("/etc/passwd/x", Unknown, "/etc/passwd/x"),
    ];
    for (uri, code, words) in cases {
        for stream in 0..3 {
            let mut request = shim.create_request("b");
            (request.stdin, request.stdout, request.stderr) = (
                fifos.stdin.clone(),
                fifos.stdout.clone(),
                fifos.stderr.clone(),
            );
            *[&mut request.stdin, &mut request.stdout, &mut request.stderr][stream] = uri.into();
            refuses(&shim, &request, code, words).await;
        }
    }
    let request = CreateTaskRequest {
        terminal: true,
        stdout: "binary:///nonexistent/logger".into(),
        ..shim.create_request("b")
    };
    refuses(&shim, &request, NotFound, "/nonexistent/logger").await;
    end(shim).await;
}

async fn options(runtime: &'static str) {
    let shim = running(runtime).await;
    let any = |url: &str, value: &[u8]| Any {
        type_url: url.into(),
        value: value.into(),
        ..Default::default()
    };
    let options = |change: fn(&mut Options)| {
        let mut options = shim.options.clone();
        change(&mut options);
        pack(&options).unwrap()
    };
    // The Go shim panics at this one: a known type, and not the one that is meant.
    let checkpoint = pack(&CheckpointOptions {
        exit: true,
        ..Default::default()
    })
    .unwrap();
    const NAME: &str = "containerd.runc.v1.Options";
    let cases = [
        (
            any("nope.Foo", b"\x08\x01"),
            Unknown,
            "type with url nope.Foo: not found",
        ),
        (any("", b"\x08\x01"), Unknown, "type with url : not found"),
        (
            checkpoint,
            Unknown,
            "type with url containerd.runc.v1.CheckpointOptions: not found",
        ),
        (any(NAME, b"\xff\xff\xff"), InvalidArgument, NAME),
        (any(NAME, b"\x32\x7fx"), InvalidArgument, NAME),
        (any(NAME, b"\x32\x02\xc3\x28"), InvalidArgument, NAME),
        (
            options(|o| o.binary_name = "/nonexistent/runtime".into()),
            Unknown,
            "/nonexistent/runtime",
        ),
        (
            options(|o| o.binary_name = "no-such-runtime".into()),
            Unknown,
            "no-such-runtime",
        ),
        (
            options(|o| o.binary_name = "/etc/passwd".into()),
            Unknown,
            "/etc/passwd",
        ),
        (options(|o| o.binary_name = "a\0b".into()), Unknown, ""),
        (
            options(|o| o.binary_name = "/bin/false".into()),
            Unknown,
            "OCI runtime create failed: ",
        ),
        (
            options(|o| o.binary_name = "/bin/true".into()),
            NotFound,
            "OCI runtime container pid",
        ),
        (
            options(|o| o.root = "/proc/nonexistent".into()),
            Unknown,
            "OCI runtime create failed: ",
        ),
        (options(|o| o.root = "a\0b".into()), Unknown, ""),
    ];
    for (options, code, words) in cases {
        let request = CreateTaskRequest {
            options: Some(options).into(),
            ..shim.create_request("b")
        };
        refuses(&shim, &request, code, words).await;
    }
    end(shim).await;
}

#[expect(clippy::too_many_lines, reason = "a table")]
async fn the_rest(runtime: &'static str) {
    let shim = running(runtime).await;
    let request = || shim.create_request("b");
    let checkpoint = CreateTaskRequest {
        checkpoint: "/nonexistent/image".into(),
        ..request()
    };
    refuses(
        &shim,
        &checkpoint,
        NotFound,
        "checkpoint /nonexistent/image: ",
    )
    .await;
    let mount = |kind: &str, source: &str, target: &str, options: &[&str]| types::Mount {
        type_: kind.into(),
        source: source.into(),
        target: target.into(),
        options: options.iter().map(|option| (*option).into()).collect(),
        ..Default::default()
    };
    for bad in [
        types::Mount::default(),
        mount("nosuchfs", "none", "", &[]),
        mount("bind", "/nonexistent", "", &["rbind"]),
        mount("bind", "", "", &["rbind"]),
        mount("bind", "/a\0b", "", &["rbind"]),
        mount("tmp\0fs", "none", "", &[]),
        mount("tmpfs", "none", "nonexistent", &[]),
        mount("tmpfs", "none", "", &["size=garbage"]),
        mount("tmpfs", "none", "", &["size=1\0"]),
        mount("overlay", "overlay", "", &["lowerdir=/nonexistent"]),
        mount(
            "overlay",
            "overlay",
            "",
            &["lowerdir=/tmp", &format!("upperdir=/{}", "x".repeat(9000))],
        ),
    ] {
        let request = CreateTaskRequest {
            rootfs: vec![bad],
            ..request()
        };
        refuses(
            &shim,
            &request,
            Unknown,
            "failed to mount rootfs component: ",
        )
        .await;
    }
    for (bad, code) in [
        (
            mount("tmpfs", "none", "", &["X-containerd.unknown=1"]),
            InvalidArgument,
        ),
        (mount("ext4", "/etc/passwd", "", &["loop", "ro"]), Unknown),
        (mount("ext4", "/dev/null", "", &["loop"]), Unknown),
        (mount("fuse.no-such-program", "x", "", &[]), Unknown),
        (mount("fuse.", "x", "", &[]), InvalidArgument),
        (
            mount("bind", "/", "", &["bind", "uidmap=0:1:1"]),
            InvalidArgument,
        ),
    ] {
        let request = CreateTaskRequest {
            rootfs: vec![bad],
            ..request()
        };
        refuses(&shim, &request, code, "failed to mount rootfs component: ").await;
    }
    // A link in the place of the rootfs, wherever it leads.
    let rootfs = shim.bundle_path("b").join("rootfs");
    fs::remove_dir(&rootfs).unwrap();
    let elsewhere = shim.dir().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for target in [Path::new("/nonexistent"), &elsewhere] {
        std::os::unix::fs::symlink(target, &rootfs).unwrap();
        let linked = CreateTaskRequest {
            rootfs: vec![mount("tmpfs", "t", "", &[])],
            ..request()
        };
        refuses(
            &shim,
            &linked,
            Unknown,
            "failed to mount rootfs component: ",
        )
        .await;
        assert!(!Path::new("/nonexistent").exists());
        assert!(cotter::mount::nothing_mounted(&elsewhere));
        fs::remove_file(&rootfs).unwrap();
    }
    // Made by the failed Create, it goes with it.
    let failing = CreateTaskRequest {
        rootfs: vec![mount("nosuchfs", "n", "", &[])],
        ..request()
    };
    refuses(
        &shim,
        &failing,
        Unknown,
        "failed to mount rootfs component: ",
    )
    .await;
    fs::create_dir(&rootfs).unwrap();
    end(shim).await;
}
