//! `-info`: what the program says of itself and of the runtime it is given.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use cotter::proto::runc_options::{CheckpointOptions, Options};
use cotter::proto::types::RuntimeInfo;
use cotter::proto::{Any, pack, runtime_options};
use protobuf::Message;
use serde_json::Value;

use crate::common::{tool, write_program};
use crate::harness::*;

/// With a limit that nothing should come to, or that of a test which waits for its end.
fn info_of(stdin: &[u8], limit: &str) -> Output {
    let mut command = Command::new(SHIM);
    command
        .arg("-info")
        .env("COTTER_LIMIT_RUNTIME_CALL", limit)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    run(command, stdin)
}

fn told(stdin: &[u8]) -> RuntimeInfo {
    told_within(stdin, "1m")
}

fn told_within(stdin: &[u8], limit: &str) -> RuntimeInfo {
    let output = info_of(stdin, limit);
    succeeded(&output);
    let info = RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(info.name, "io.containerd.cotter.v2");
    assert_eq!(info.version.version, env!("CARGO_PKG_VERSION"));
    assert!(info.annotations.is_empty());
    info
}

fn refusal(stdin: &[u8]) -> String {
    let output = info_of(stdin, "1m");
    assert_eq!((output.status.code(), output.stdout), (Some(1), vec![]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

fn runc(binary: &str) -> Any {
    let options = Options {
        binary_name: binary.into(),
        ..Options::default()
    };
    pack(&options).unwrap()
}

fn toml(path: &str, body: &str) -> Any {
    let options = runtime_options::Options {
        config_path: path.into(),
        config_body: body.into(),
        ..Default::default()
    };
    pack(&options).unwrap()
}

fn features(info: &RuntimeInfo) -> Option<Value> {
    let any = info.features.as_ref()?;
    let url = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
    assert_eq!(any.type_url, url);
    Some(serde_json::from_slice(&any.value).unwrap())
}

/// A program in a directory of its own.
fn script(manager: &Manager, name: &str, text: &str) -> String {
    let path = manager.dir.join(name);
    write_program(&path, text);
    path.to_str().unwrap().to_owned()
}

/// Runtimes are built for CRIU on machines that have none.
fn without_criu(features: &mut Value) {
    let mut which = Command::new("/bin/sh");
    which.args(["-c", "command -v criu"]).stdout(Stdio::null());
    if which.status().unwrap().success() {
        return;
    }
    let annotations = features["annotations"].as_object_mut();
    for (name, value) in annotations.into_iter().flatten() {
        if name.contains("checkpoint") {
            *value = "false".into();
        }
    }
}

#[test]
fn checkpoints_are_claimed_where_there_is_a_criu() {
    let manager = Manager::new("info-criu");
    let told = |path: &str| {
        let mut command = Command::new(SHIM);
        command.arg("-info").env("PATH", path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let any = runc(tool("RUNC_1_3").to_str().unwrap());
        let output = run(command, &any.write_to_bytes().unwrap());
        let info = RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
        features(&info).unwrap()["annotations"]["org.opencontainers.runc.checkpoint.enabled"]
            .clone()
    };
    let criu = script(&manager, "criu", "#!/bin/sh\n");
    let dir = manager.dir.to_str().unwrap();
    assert_eq!(told(&format!("/nonexistent:{dir}")), "true");
    fs::set_permissions(&criu, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(told(dir), "false");
    assert_eq!(told(""), "false");
}

#[test]
fn the_features_are_the_runtimes_own() {
    for name in ["RUNC", "CRUN", "RUNC_1_3", "CRUN_1_21"] {
        let binary = tool(name).to_str().unwrap().to_owned();
        // runc 1.1 and crun 1.8.6 are the first to know the command.
        let own = Command::new(&binary).arg("features").output().unwrap();
        let mut own: Option<Value> = own
            .status
            .success()
            .then(|| serde_json::from_slice(&own.stdout).unwrap());
        if let Some(own) = &mut own {
            without_criu(own);
        }
        for any in [runc(&binary), toml("", &format!("BinaryName = '{binary}'"))] {
            let info = told(&any.write_to_bytes().unwrap());
            assert_eq!(features(&info), own, "{binary}");
            assert_eq!(*info.options, any);
        }
    }
    // What a manager asks for is runc, when it asks for nothing.
    let info = told(b"");
    assert!(info.options.is_none());
    assert_eq!(
        features(&info),
        features(&told(&runc("").write_to_bytes().unwrap()))
    );
    let features = features(&info).unwrap();
    assert!(features["ociVersionMin"].is_string(), "{features}");
}

#[test]
fn a_runtime_that_cannot_tell_has_none() {
    let manager = Manager::new("info-silent");
    for (name, text) in [
        (
            "fails",
            "#!/bin/sh\necho '{}'; echo unknown command features >&2; exit 1\n",
        ),
        ("prints-text", "#!/bin/sh\necho no JSON\n"),
        ("prints-a-list", "#!/bin/sh\necho '[]'\n"),
        ("prints-half", "#!/bin/sh\nprintf '{\"ociVersionMin\":'\n"),
        ("prints-nothing", "#!/bin/sh\n"),
        ("dies", "#!/bin/sh\nkill -9 $$\n"),
        ("floods", "#!/bin/sh\nexec head -c 3000000 /dev/zero\n"),
    ] {
        let any = runc(&script(&manager, name, text));
        let info = told(&any.write_to_bytes().unwrap());
        assert_eq!(features(&info), None, "{name}");
        assert_eq!(*info.options, any);
    }
}

#[test]
fn a_runtime_that_hangs_is_not_waited_for() {
    let manager = Manager::new("info-hangs");
    for (name, text) in [
        ("hangs", "echo '{}'; echo $$ >$0.pid; exec sleep 600"),
        ("waits", "sleep 600 & echo $! >$0.pid; wait"),
    ] {
        let path = script(&manager, name, &format!("#!/bin/sh\n{text}\n"));
        let any = runc(&path);
        let begin = Instant::now();
        let info = told_within(&any.write_to_bytes().unwrap(), "1s");
        assert!(begin.elapsed() < Duration::from_secs(60), "{name}");
        assert_eq!(features(&info), None, "{name}");
        let pid = fs::read_to_string(format!("{path}.pid")).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        eventually("the runtime to be gone", || {
            let stat = fs::read_to_string(&stat).unwrap_or_default();
            !stat.contains("(sleep)") || stat.contains(") Z ")
        });
    }
}

#[test]
fn what_it_cannot_understand_is_refused() {
    let manager = Manager::new("info-refusals");
    let plain = manager.dir.join("plain").to_str().unwrap().to_owned();
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    let checkpoint = pack(&CheckpointOptions {
        exit: true,
        ..Default::default()
    });
    let foreign = Any {
        type_url: "io.containerd.runhcs.v1.Options".into(),
        value: vec![8, 1],
        ..Any::default()
    };
    for (any, words) in [
        (
            runc("/nonexistent/runc"),
            "run /nonexistent/runc features: no such file",
        ),
        (
            runc("no-such-runtime"),
            "run no-such-runtime features: no such file",
        ),
        (runc(&plain), "permission denied"),
        (
            toml("/nonexistent/x.toml", ""),
            "read /nonexistent/x.toml: no such file",
        ),
        (
            toml("", "BinaryNam = 'crun'"),
            "there is no option \"BinaryNam\"",
        ),
        (
            checkpoint.unwrap(),
            "type with url containerd.runc.v1.CheckpointOptions: not found",
        ),
        (
            foreign,
            "type with url io.containerd.runhcs.v1.Options: not found",
        ),
    ] {
        let stderr = refusal(&any.write_to_bytes().unwrap());
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    assert!(refusal(b"\xff\xff").contains("read options from standard input"));
    assert!(refusal(&vec![0; (10 << 20) + 1]).contains("longer than"));
}
