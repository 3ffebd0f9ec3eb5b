//! Who may switch it on and off, and which way is counted.

use std::fs;

use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use serde_json::{Value, json};

use super::common::shim::{Shim, run};
use super::world::{KNOWN, World, unknown};

/// How many execs of three the shim does itself, with this in its environment, in the options and in an annotation.
async fn direct(environment: &str, option: &str, annotation: &str) -> Option<u64> {
    let mut spec = Spec::new("c", ["sleep", "1000"]);
    if !annotation.is_empty() {
        spec.annotations
            .insert("io.cotter.exec-by".into(), annotation.into());
    }
    let environment = [("COTTER_EXEC_BY", environment)];
    let mut shim = Shim::start_with(Dialect::Proto23, "RUNC", spec, "c", &environment).await;
    shim.options.exec_by = option.into();
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    for exec in ["x", "y", "z"] {
        shim.exec("c", exec, &["true"]).await.unwrap();
        assert_eq!(shim.wait("c", exec).await.unwrap().exit_status, 0);
        shim.delete("c", exec).await.unwrap();
    }
    let world = World::around(shim);
    let dump = world.dump().await;
    let rows = dump.section("execs by").unwrap().as_array().unwrap();
    let row = rows.iter().find(|row| row["by"] == "shim");
    let counted = row.and_then(|row| row["execs"].as_u64());
    world.end().await;
    counted
}

#[test]
fn the_operator_allows_it_and_a_container_can_take_it_back() {
    run(async {
        for (environment, option, annotation, expected) in [
            ("", "", "", None),
            ("direct", "", "", Some(3)),
            ("", "direct", "", Some(3)),
            ("direct", "runtime", "", None),
            ("direct", "", "runtime", None),
            ("", "", "direct", None),
            // What cannot be understood is told in the log, and asks for nothing.
            ("Direct", "", "", None),
        ] {
            let counted = direct(environment, option, annotation).await;
            assert_eq!(counted, expected, "{environment} {option} {annotation}");
        }
    });
}

#[test]
fn who_cannot_be_understood_makes_nothing() {
    run(async {
        let spec = Spec::new("c", ["sleep", "1000"]);
        let mut shim = Shim::start_with(Dialect::Proto23, "RUNC", spec, "c", &[]).await;
        shim.options.exec_by = "shim".into();
        let why = shim.create("c").await.unwrap_err();
        assert!(
            why.message
                .contains("\"shim\" is neither \"runtime\" nor \"direct\""),
            "{why}"
        );
        assert!(!shim.state_dir().join("c").exists());
        shim.options.exec_by.clear();
        shim.create("c").await.unwrap();
        shim.remove("c").await;
        shim.end().await;
    });
}

#[test]
fn a_version_that_is_not_known() {
    for runtime in unknown() {
        run(async {
            let world = World::new(runtime).await;
            let process = World::process(&["sh", "-c", "exit 4"], &[]);
            let came = world
                .is_the_runtimes(&process, "version of the runtime")
                .await;
            assert_eq!(came, Ok((4, String::new())));
            let log = world.shim.log();
            let told = log
                .iter()
                .filter(|line| line.contains("execs by its runtime: this version"));
            assert_eq!(told.count(), 1, "once, however many there are");
            world.end().await;
        });
    }
}

/// An update of the machine: what is known of the runtime was another's.
#[test]
fn a_runtime_that_is_replaced() {
    for runtime in KNOWN {
        run(async {
            let dir = super::common::TempDir::new("cotter-t");
            let [own, new] = ["runtime", "new"].map(|name| dir.path().join(name));
            for copy in [&own, &new] {
                fs::copy(super::common::tool(runtime), copy).unwrap();
            }
            let world = World::new(own.to_str().unwrap()).await;
            let process = World::process(&["true"], &[]);
            world.directly(&process).await.unwrap();
            fs::rename(new, own).unwrap();
            let came = world.is_the_runtimes(&process, "is another than").await;
            assert_eq!(came, Ok((0, String::new())));
            world.end().await;
        });
    }
}

/// It answers with the version of whom it calls, and may do more.
#[test]
fn a_runtime_that_is_a_script() {
    for runtime in KNOWN {
        run(async {
            let dir = super::common::TempDir::new("cotter-t");
            let own = dir.path().join("runtime");
            let real = super::common::tool(runtime);
            super::common::write_program(
                &own,
                format!("#!/bin/sh\nexec {} \"$@\"\n", real.display()),
            );
            let world = World::new(own.to_str().unwrap()).await;
            let process = World::process(&["true"], &[]);
            let came = world.is_the_runtimes(&process, "is a script").await;
            assert_eq!(came, Ok((0, String::new())));
            world.end().await;
        });
    }
}

/// What the runtime keeps of the container is gone, torn or newer than what is known.
#[test]
fn state_that_cannot_be_understood() {
    for runtime in KNOWN {
        for (change, reason) in [
            ((|_: &mut Value| {}) as fn(&mut Value), ""),
            (
                |state| state["config"]["aNewField"] = json!(true),
                "asks for something",
            ),
            (|state| *state = json!("torn"), "not understood"),
        ] {
            run(async {
                let world = World::new(runtime).await;
                let file = world.shim.state_dir().join("c").join(match runtime {
                    "RUNC" | "RUNC_1_3" => "state.json",
                    _ => "config.json",
                });
                let text = fs::read(&file).unwrap();
                let mut state: Value = serde_json::from_slice(&text).unwrap();
                change(&mut state);
                // crun's copy of the spec has no such part.
                if let Some(part) = state
                    .get("config")
                    .and_then(|part| part.get("aNewField"))
                    .cloned()
                    && !file.ends_with("state.json")
                {
                    state["linux"]["aNewField"] = part;
                }
                fs::write(&file, state.to_string()).unwrap();
                let process = World::process(&["true"], &[]);
                if reason.is_empty() {
                    world.directly(&process).await.unwrap();
                } else {
                    let before = world.ways().await.direct;
                    let _ = world.exec(&process).await;
                    let after = world.ways().await;
                    assert_eq!(after.direct, before);
                    assert!(
                        after.runtime.iter().any(|(why, _)| why.contains(reason)),
                        "{after:?}"
                    );
                }
                fs::write(&file, &text).unwrap();
                world.end().await;
            });
        }
    }
}
