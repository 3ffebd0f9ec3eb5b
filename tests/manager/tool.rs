//! The `cotter` tool, as a person uses it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

use super::{Home, LIMIT, dialects};

#[tokio::test]
async fn runs_a_command_and_returns_its_status() {
    let home = Home::new("status");
    for runtime in ["runc", "crun"] {
        let line = format!("run --runtime {runtime} -- sh -c");
        let script = "echo out; echo err >&2; exit 7";
        let (status, stdout, stderr) = home.run(&line, &[script], b"").await;
        assert_eq!((stdout.as_str(), stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(status, 7);
    }
    home.is_left_clean();
}

#[tokio::test]
async fn speaks_every_dialect() {
    let home = Home::new("dialects");
    for (name, _) in dialects() {
        let line = format!("run --dialect {name} -- echo {name}");
        let expected = (0, format!("{name}\n"), String::new());
        assert_eq!(home.run(&line, &[], b"").await, expected);
    }
    home.is_left_clean();
}

#[tokio::test]
async fn input_and_output_pass_unchanged() {
    let home = Home::new("bytes");
    let text: String = (0..200_000).map(|line| format!("{line}\n")).collect();
    let (status, stdout, stderr) = home.run("run -- cat", &[], text.as_bytes()).await;
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(stdout == text, "{} bytes came back", stdout.len());
    home.is_left_clean();
}

#[tokio::test]
async fn shows_the_events_in_order() {
    let home = Home::new("events");
    let (status, _, stderr) = home.run("run --events -- sh -c", &["exit 3"], b"").await;
    assert_eq!(status, 3);
    let topics: Vec<&str> = stderr
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    let expected = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ];
    assert_eq!(topics, expected, "{stderr}");
    assert!(stderr.contains("status 3"), "{stderr}");
    home.is_left_clean();
}

#[tokio::test]
async fn says_why_a_command_cannot_be_run() {
    let home = Home::new("why");
    let (status, stdout, stderr) = home.run("run -- no-such-command", &[], b"").await;
    assert_eq!((status, stdout.as_str()), (127, ""));
    assert!(stderr.contains("no-such-command"), "{stderr}");

    let (status, _, stderr) = home
        .run("run --rootfs /no/such/directory -- true", &[], b"")
        .await;
    assert_eq!(status, 125);
    assert!(stderr.contains("/no/such/directory"), "{stderr}");

    let (status, _, stderr) = home.run("run --id ../up -- true", &[], b"").await;
    assert_eq!(status, 125);
    assert!(stderr.contains("container id"), "{stderr}");
    home.is_left_clean();
}

#[tokio::test]
async fn takes_a_bundle_as_it_is() {
    let home = Home::new("bundle");
    let bundle = home.path().join("bundle");
    let root = bundle.join("root");
    fs::create_dir_all(&root).unwrap();
    cotter::manager::rootfs::fill(&root).await.unwrap();
    let mut spec = cotter::manager::spec::Spec::new("b", ["echo", "from", "the", "bundle"]);
    spec.rootfs = "root".into();
    spec.terminal = true;
    let config = spec.to_json().to_string();
    fs::write(bundle.join("config.json"), &config).unwrap();

    let line = format!("run --bundle {}", bundle.display());
    let said = home.run(&line, &[], b"").await;
    assert_eq!(said, (0, "from the bundle\n".into(), String::new()));
    let said = home.run(&line, &["echo", "mine"], b"").await;
    assert_eq!(said, (0, "mine\n".into(), String::new()));

    // As it was: no file more, none changed.
    assert_eq!(fs::read_dir(&bundle).unwrap().count(), 2);
    assert_eq!(
        fs::read_to_string(bundle.join("config.json")).unwrap(),
        config
    );
    home.is_left_clean();
}

#[test]
fn passes_signals_on() {
    let home = Home::new("signals");
    let script = "trap 'echo hup' HUP; trap 'echo term; exit 9' TERM; echo ready; \
                  while :; do sleep 0.01; done";
    let mut tool = home
        .cotter("run -- sh -c")
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(tool.id().cast_signed());
    let mut lines = BufReader::new(tool.stdout.take().unwrap()).lines();
    let mut says = |expected: &str| assert_eq!(lines.next().unwrap().unwrap(), expected);
    says("ready");
    kill(pid, Signal::SIGHUP).unwrap();
    says("hup");
    kill(pid, Signal::SIGTERM).unwrap();
    says("term");
    assert_eq!(tool.wait().unwrap().code(), Some(9));
    home.is_left_clean();
}

#[test]
fn a_third_request_to_end_kills() {
    let home = Home::new("third");
    let mut tool = home
        .cotter("run -- sh -c")
        .arg("trap 'echo no' INT TERM; echo ready; while :; do sleep 0.01; done")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(tool.id().cast_signed());
    let mut lines = BufReader::new(tool.stdout.take().unwrap()).lines();
    for (expected, signal) in [
        ("ready", Signal::SIGINT),
        ("no", Signal::SIGTERM),
        ("no", Signal::SIGINT),
    ] {
        assert_eq!(lines.next().unwrap().unwrap(), expected);
        kill(pid, signal).unwrap();
    }
    assert_eq!(tool.wait().unwrap().code(), Some(137));
    home.is_left_clean();
}

#[test]
fn a_reader_that_has_enough_ends_it() {
    let home = Home::new("enough");
    let mut tool = home
        .cotter("run -- yes")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = tool.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 2]).unwrap();
    drop(stdout);
    assert_eq!(tool.wait().unwrap().code(), Some(137));
    home.is_left_clean();
}

#[tokio::test]
async fn a_detached_container_lives_until_it_is_removed() {
    let home = Home::new("detach");
    let (status, stdout, stderr) = home.run("run -d --id web -- sleep 1000", &[], b"").await;
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "web\n", ""));

    let rows = async || home.run("ps", &[], b"").await.1;
    assert!(rows().await.contains("running"));
    let (status, _, stderr) = home.run("run -d --id web -- sleep 1000", &[], b"").await;
    assert_eq!(status, 125);
    assert!(stderr.contains("already exists"), "{stderr}");
    let (status, _, stderr) = home.run("rm web", &[], b"").await;
    assert_eq!(status, 125);
    assert!(stderr.contains("is running"), "{stderr}");
    assert!(rows().await.contains("running"));

    assert_eq!(home.run("kill web KILL", &[], b"").await.0, 0);
    while rows().await.contains("running") {}
    assert!(rows().await.contains("stopped (137)"));
    assert_eq!(
        home.run("rm web", &[], b"").await,
        (0, String::new(), String::new())
    );
    let (status, _, stderr) = home.run("rm web", &[], b"").await;
    assert_eq!(status, 125);
    assert!(stderr.contains("not found"), "{stderr}");
    home.is_left_clean();
}

#[tokio::test]
async fn a_running_container_can_be_removed_by_force() {
    let home = Home::new("force");
    for id in ["a", "b"] {
        let line = format!("run -d --id {id} -- sleep 1000");
        assert_eq!(home.run(&line, &[], b"").await.0, 0);
    }
    assert_eq!(home.run("rm -f a", &[], b"").await.0, 0);
    assert_eq!(home.containers(), ["b"]);
    assert_eq!(home.run("rm -f b", &[], b"").await.0, 0);
    home.is_left_clean();
}

#[tokio::test]
async fn shows_what_a_container_uses() {
    let home = Home::new("stats");
    // The program that takes the shell's place does not know of the child it got.
    let script = "sleep 0 & exec sleep 1000";
    let line = "run -d --id s --runtime runc -- sh -c";
    let (status, _, stderr) = home.run(line, &[script], b"").await;
    assert_eq!((status, stderr.as_str()), (0, ""));
    let zombie = async || {
        let (status, stdout, stderr) = home.run("stats --json s", &[], b"").await;
        assert_eq!((status, stderr.as_str()), (0, ""));
        let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(
            (&json["id"], &json["status"]),
            (&"s".into(), &"running".into())
        );
        assert!(json["cpu"]["usage_usec"].as_u64().unwrap() > 0, "{json}");
        assert!(json["memory"]["usage"].as_u64().unwrap() > 0, "{json}");
        assert_eq!(json["memory"]["oom_kills"], 0, "{json}");
        json["pids"]["zombies"] == 1
    };
    timeout(LIMIT, async { while !zombie().await {} })
        .await
        .unwrap();
    let (status, stdout, stderr) = home.run("stats s", &[], b"").await;
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("s  running, pid "), "{stdout}");
    assert!(stdout.contains("1 zombies"), "{stdout}");

    home.run("kill s KILL", &[], b"").await;
    let stopped = async || {
        let (status, _, stderr) = home.run("stats s", &[], b"").await;
        (status, stderr.contains("container s has stopped (137)"))
    };
    timeout(LIMIT, async { while stopped().await != (125, true) {} })
        .await
        .unwrap();
    home.run("rm s", &[], b"").await;
    let (status, _, stderr) = home.run("stats s", &[], b"").await;
    assert_eq!(status, 125);
    assert!(stderr.contains("container s"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
    home.is_left_clean();
}
