//! Shims that misbehave: what containerd would stumble over is an error that says so.

use std::fs;
use std::process::Command;

use cotter::error::Result;
use cotter::manager::bundle::Bundle;
use cotter::manager::client::Tasks;
use cotter::manager::command::output;
use cotter::manager::dialect::{Dialect, Endpoint};
use cotter::manager::launch::Launch;
use cotter::manager::spec::Spec;

use super::{Home, LIMIT};

/// Starts a shim that is a shell script.
async fn start(home: &Home, name: &str, script: &str) -> (Bundle, Result<Endpoint>) {
    let shim = home.path().join(format!("{name}.sh"));
    // Written by another process: a fork in another test would inherit a descriptor of ours that
    // is open for writing, and such a file cannot be executed.
    let mut write = Command::new("/bin/sh");
    write.args(["-c", "cat >$0 && chmod 755 $0"]).arg(&shim);
    let text = format!("#!/bin/sh\n{script}\n");
    let written = output(write, text.as_bytes(), LIMIT).await.unwrap();
    assert!(written.status.success());
    let path = home.path().join(name);
    let bundle = Bundle::create(&path, &Spec::new(name, ["true"]).to_json()).unwrap();
    let launch = Launch::new(&shim, Dialect::Plain16, name, &path);
    let result = launch.start().await;
    (bundle, result)
}

#[tokio::test]
async fn a_failure_is_told_with_all_that_was_said() {
    let home = Home::new("bad");
    for (name, script, phrase) in [
        ("fails", "echo no luck >&2; exit 1", "no luck"),
        ("silent", "exit 3", "exit status: 3"),
        ("dies", "kill -9 $$", "signal: 9"),
        ("mute", "exit 0", "no address"),
        (
            "chatty",
            "echo unix:///a; echo hint >&2",
            "standard error: unix:///a\nhint",
        ),
        ("odd", "echo hello", "no address: \"hello"),
        ("missing", "exec /no/such/program", "not found"),
    ] {
        let (bundle, result) = start(&home, name, script).await;
        let why = result.expect_err(name).to_string();
        assert!(why.contains(phrase), "{name}: {why}");
        assert!(Endpoint::load(bundle.path()).is_err(), "{name}");
    }
    // The bundles are gone with their owners, the scripts are the test's own.
    let left = fs::read_dir(home.path()).unwrap();
    assert!(
        left.into_iter()
            .all(|entry| entry.unwrap().path().is_file())
    );
}

#[tokio::test]
async fn an_address_where_nobody_listens() {
    let home = Home::new("nobody");
    let socket = home.path().join("s");
    let script = format!("printf unix://{}", socket.display());
    let (_bundle, result) = start(&home, "liar", &script).await;
    let why = Tasks::connect(&result.unwrap()).await.err().unwrap();
    assert_eq!(why.code, cotter::error::Code::Unavailable, "{why}");
}

/// The shim inherits what containerd's would, and stands where it would.
#[tokio::test]
async fn the_environment_of_a_start() {
    let home = Home::new("env");
    let script = r#"{ pwd; echo "$TTRPC_ADDRESS|$GRPC_ADDRESS|$NAMESPACE|$GOMAXPROCS"; cat; } >seen
                    printf unix:///nowhere"#;
    let (bundle, result) = start(&home, "looks", script).await;
    assert_eq!(result.unwrap().version, 2);
    let seen = fs::read_to_string(bundle.path().join("seen")).unwrap();
    assert_eq!(seen, format!("{}\n|||2\n", bundle.path().display()));
}

/// A log that nobody reads line by line would block a shim sooner or later.
#[tokio::test]
async fn the_log_is_read_and_its_tail_kept() {
    let home = Home::new("log");
    let script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done >log
                  printf unix:///nowhere";
    let (bundle, result) = start(&home, "writes", script).await;
    result.unwrap();
    while bundle.log().last().map(String::as_str) != Some("line 4999") {
        tokio::task::yield_now().await;
    }
    assert_eq!(bundle.log().len(), 1000);
    assert_eq!(bundle.log()[0], "line 4000");
}
