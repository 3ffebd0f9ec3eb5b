//! What fails before the program runs, fails in the runtime's words; and what only looks like a failure is none.

use serde_json::json;

use super::common::shim::run;
use super::steps::{Blow, Steps};
use super::world::{KNOWN, World};

#[test]
fn in_the_runtimes_words() {
    for runtime in KNOWN {
        run(async {
            let world = World::new(runtime).await;
            let user = ("user", json!({ "uid": 1000, "gid": 1000 }));
            for (args, changes, reason) in [
                (&["no-such-program"][..], vec![], "could not be run"),
                (&["/no/such/program"], vec![], "could not be run"),
                (&["/etc/passwd"], vec![], "could not be run"),
                (&["/etc"], vec![], "could not be run"),
                (
                    &["true"],
                    vec![("cwd", json!("/no/such/directory"))],
                    "directory could not be entered",
                ),
                (
                    &["true"],
                    vec![("cwd", json!("/etc/passwd"))],
                    "directory could not be entered",
                ),
                (&["/etc/passwd/x"], vec![], "could not be run"),
                (
                    &["true"],
                    vec![
                        ("cwd", json!("/root")),
                        user.clone(),
                        ("capabilities", json!({})),
                    ],
                    "",
                ),
                (&["./true"], vec![], "no plain path"),
                (&["true"], vec![("cwd", json!("relative"))], "no plain path"),
                (
                    &["true"],
                    vec![("env", json!(["PATH=bin"]))],
                    "PATH is read differently",
                ),
                (&["true"], vec![("env", json!(["A=b"]))], "has no PATH"),
                (&[], vec![("args", json!([]))], "no arguments"),
            ] {
                let process = World::process(args, &changes);
                if reason.is_empty() {
                    let came = world.exec(&process).await;
                    assert_eq!(came, world.by_runtime(&process).await, "{process}");
                    continue;
                }
                world.is_the_runtimes(&process, reason).await.ok();
                let good = World::process(&["true"], &[]);
                assert_eq!(world.directly(&good).await, Ok((0, String::new())));
            }
            world.end().await;
        });
    }
}

/// After some failures in a row the shim does not try any more: each costs both ways.
#[test]
fn after_three_failures_in_a_row() {
    for runtime in KNOWN {
        run(async {
            let world = World::new(runtime).await;
            let good = World::process(&["true"], &[]);
            let fine = Ok((0, String::new()));
            let fails = async || {
                let steps = Steps::of(world.shim.pid(), 7, Blow::Kill);
                let came = world.is_the_runtimes(&good, "the stub was ended").await;
                drop(steps);
                assert_eq!(came, fine);
            };
            for _ in 0..2 {
                fails().await;
            }
            assert_eq!(world.directly(&good).await, fine);
            // What fails because of what was asked for does not count.
            let bad = World::process(&["no-such-program"], &[]);
            for _ in 0..4 {
                world
                    .is_the_runtimes(&bad, "could not be run")
                    .await
                    .unwrap_err();
            }
            assert_eq!(world.directly(&good).await, fine);
            for _ in 0..3 {
                fails().await;
            }
            let came = world.is_the_runtimes(&good, "too many attempts").await;
            assert_eq!(came, fine);
            world.end().await;
        });
    }
}

/// Paused by another hand, which the shim does not know of: whether that takes an exec is the runtime's to say.
#[test]
fn in_a_container_that_is_frozen() {
    for runtime in KNOWN {
        run(async {
            let world = World::new(runtime).await;
            let process = World::process(&["true"], &[]);
            world.directly(&process).await.unwrap();
            world.by_hand("pause");
            let came = world.is_the_runtimes(&process, "is frozen").await;
            assert!(came.unwrap_err().contains("pause"));
            world.by_hand("resume");
            world.directly(&process).await.unwrap();
            world.end().await;
        });
    }
}
