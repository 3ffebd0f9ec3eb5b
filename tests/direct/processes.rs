//! Fixed processes in a usual container.

use serde_json::{Value, json};

use super::common::shim::run;
use super::world::{KNOWN, World};

#[test]
#[expect(clippy::too_many_lines, reason = "a list")]
fn each_is_the_same() {
    let none = json!({});
    let of = |names: &[&str]| {
        json!(
            names
                .iter()
                .map(|name| format!("CAP_{name}"))
                .collect::<Vec<_>>()
        )
    };
    let some = of(&["KILL", "CHOWN"]);
    let cases: Vec<Vec<(&str, Value)>> = vec![
        vec![],
        vec![("noNewPrivileges", json!(false))],
        vec![("user", json!({ "uid": 1000, "gid": 1000 }))],
        vec![
            ("user", json!({ "uid": 1000, "gid": 0 })),
            ("noNewPrivileges", json!(false)),
        ],
        vec![(
            "user",
            json!({ "uid": 0, "gid": 5, "additionalGids": [7, 5, 1 << 30] }),
        )],
        vec![(
            "user",
            json!({ "uid": 2_147_483_647, "gid": 2_147_483_647 }),
        )],
        vec![("user", json!({ "uid": 0, "gid": 0, "umask": 0o77 }))],
        vec![("capabilities", none.clone())],
        vec![
            ("capabilities", none),
            ("user", json!({ "uid": 7, "gid": 0 })),
        ],
        vec![
            (
                "capabilities",
                json!({ "bounding": some, "effective": of(&["KILL"]), "permitted": some }),
            ),
            ("user", json!({ "uid": 1000, "gid": 1000 })),
        ],
        vec![
            (
                "capabilities",
                json!({ "bounding": some, "effective": some, "permitted": some,
                "inheritable": some, "ambient": of(&["KILL"]) }),
            ),
            (
                "user",
                json!({ "uid": 1000, "gid": 1000, "additionalGids": [0] }),
            ),
            ("noNewPrivileges", json!(false)),
        ],
        vec![("env", json!(["PATH=/bin"]))],
        vec![(
            "env",
            json!(["PATH=/bin", "HOME=/somewhere", "A=", "B= x=y ", "ä=ö\nü"]),
        )],
        vec![("env", json!(["Z=1", "PATH=/none:/usr/bin:/bin", "A=2"]))],
        vec![(
            "env",
            json!(["PATH=/bin", format!("LONG={}", "x".repeat(60_000))]),
        )],
        vec![("cwd", json!("/tmp"))],
        vec![
            ("cwd", json!("/run")),
            ("user", json!({ "uid": 1000, "gid": 1000 })),
        ],
        vec![("oomScoreAdj", json!(700))],
        vec![
            ("terminal", json!(false)),
            ("consoleSize", json!({ "height": 10, "width": 20 })),
        ],
        vec![(
            "rlimits",
            json!([
                { "type": "RLIMIT_NOFILE", "hard": 2000, "soft": 2000 },
                { "type": "RLIMIT_CORE", "hard": 0, "soft": 0 },
                { "type": "RLIMIT_MEMLOCK", "hard": 65536, "soft": 4096 },
                { "type": "RLIMIT_SIGPENDING", "hard": 99, "soft": 98 },
            ]),
        )],
    ];
    for runtime in KNOWN {
        run(async {
            let world = World::new(runtime).await;
            for case in &cases {
                world.is_same(case).await;
            }
            world.end().await;
        });
    }
}

/// How a process is called, and where it is found.
#[test]
fn names_and_places_are_the_same() {
    for runtime in KNOWN {
        run(async {
            let world = World::new(runtime).await;
            for args in [
                &["/bin/sh", "-c", super::seen::PROBE, "a b", "", "ä\n"][..],
                &["sh", "-c", super::seen::PROBE],
                &["busybox", "sh", "-c", super::seen::PROBE],
            ] {
                world.is_same_process(&World::process(args, &[])).await;
            }
            for (args, status) in [
                (&["true"][..], 0),
                (&["false"], 1),
                (&["sh", "-c", "kill -9 $$"], 137),
            ] {
                let process = World::process(args, &[]);
                let expected = Ok((status, String::new()));
                assert_eq!(world.directly(&process).await, expected);
                assert_eq!(world.by_runtime(&process).await, expected);
            }
            world.end().await;
        });
    }
}

/// runc 1.1 raises the limit of open files that it has, before or after it is given the exec's.
#[test]
fn limits_that_a_runtime_raises() {
    let lower = json!([{ "type": "RLIMIT_NOFILE", "hard": 2000, "soft": 64 }]);
    for runtime in KNOWN {
        run(async {
            let world = World::new(runtime).await;
            world.is_same(&[("rlimits", json!([]))]).await;
            let lower = [("rlimits", lower.clone())];
            if runtime == "RUNC" {
                let process = World::process(&["true"], &lower);
                let came = world.is_the_runtimes(&process, "limit of open files").await;
                assert_eq!(came, Ok((0, String::new())));
            } else {
                world.is_same(&lower).await;
            }
            world.end().await;
        });
    }
}
