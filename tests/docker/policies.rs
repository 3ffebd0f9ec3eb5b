//! What the engine does by itself: restart policies and health checks.

use crate::common::{eventually, signal};
use crate::engine::{Case, Engine};

pub const CASES: &[Case] = &[
    ("--restart on-failure:2", on_failure),
    ("--restart always", always),
    ("health checks", health),
];

fn on_failure(engine: &Engine) {
    let flags = ["--restart", "on-failure:2"];
    engine.up("failing", &flags, &["sh", "-c", "echo run; exit 3"]);
    eventually("it was restarted twice and no more", || {
        let seen = engine.inspect("failing");
        seen["RestartCount"] == 2 && seen["State"]["Status"] == "exited"
    });
    assert_eq!(engine.state("failing")["ExitCode"], 3);
    assert_eq!(engine.docker(&["logs", "failing"]).ok(), "run\nrun\nrun\n");
    engine.docker(&["rm", "failing"]).ok();

    engine.up("succeeding", &flags, &["true"]);
    assert_eq!(engine.exited("succeeding"), 0);
    assert_eq!(engine.inspect("succeeding")["RestartCount"], 0);
    engine.docker(&["rm", "succeeding"]).ok();
}

fn always(engine: &Engine) {
    engine.up("always", &["--restart", "always"], &["sleep", "1000"]);
    for count in 1..=3 {
        let pid = engine.pid("always");
        signal(pid, "KILL");
        eventually("it runs again", || {
            let seen = engine.inspect("always");
            let now = &seen["State"]["Pid"];
            seen["RestartCount"] == count && *now != 0 && *now != pid
        });
    }
    assert_eq!(engine.exec(&[], "always", &["echo", "here"]).ok(), "here\n");
    engine.docker(&["stop", "--time", "0", "always"]).ok();
    assert_eq!(engine.exited("always"), 137);
    engine.docker(&["rm", "always"]).ok();
}

fn health(engine: &Engine) {
    let flags = [
        "--health-cmd",
        "cat /tmp/health",
        "--health-interval",
        "200ms",
        "--health-retries",
        "1",
        "--health-timeout",
        "50s",
    ];
    let script = "echo fine >/tmp/health; exec sleep 1000";
    engine.up("health", &flags, &["sh", "-c", script]);
    let is = |status: &str| engine.state("health")["Health"]["Status"] == status;
    eventually("it is healthy", || is("healthy"));
    let log = engine.state("health")["Health"]["Log"].take();
    let good = log.as_array().unwrap().iter().find(|l| l["ExitCode"] == 0);
    assert_eq!(good.unwrap()["Output"], "fine\n", "{log}");

    engine.exec(&[], "health", &["rm", "/tmp/health"]).ok();
    eventually("it is unhealthy", || is("unhealthy"));
    engine.exec(&[], "health", &["touch", "/tmp/health"]).ok();
    eventually("it is healthy again", || is("healthy"));
    engine.remove("health");
}
