//! Init dies before it is started, while it is, or before anybody knows its pid.

use crate::common::census::Process;
use crate::common::shim::{RUNTIMES, run, until};
use crate::world::{KILLED, PIDS, Pids, World, each};

/// `rounds` containers that run `args`, each with this life.
async fn rounds(
    runtime: &str,
    pids: Pids,
    rounds: usize,
    args: &[&str],
    life: impl AsyncFn(&World, &str),
) {
    let ids: Vec<String> = (0..rounds).map(|i| format!("c{i}")).collect();
    let mut world = World::new(runtime, pids, "c0", args).await;
    ids.iter().for_each(|id| world.bundle(id, args));
    each(2, &ids, |id| life(&world, id)).await;
    world.end().await;
}

#[test]
fn killed_between_create_and_start() {
    for runtime in RUNTIMES {
        for pids in PIDS {
            run(rounds(
                runtime,
                pids,
                20,
                &["sleep", "1000"],
                async |world, id| {
                    let init = world.create(id).await;
                    world.exits_with(id, "", KILLED);
                    world.kill(init);
                    // It fails, or is in time for one that is still dying.
                    let _ = world.start(id, "").await;
                    world.gone(id, "").await;
                },
            ));
        }
    }
}

#[test]
fn killed_and_waited_for_before_any_start() {
    for runtime in RUNTIMES {
        for pids in PIDS {
            run(rounds(
                runtime,
                pids,
                10,
                &["sleep", "1000"],
                async |world, id| {
                    let init = world.create(id).await;
                    world.exits_with(id, "", KILLED);
                    world.kill(init);
                    world.wait(id, "").await;
                    let refusal = world.start(id, "").await.unwrap_err();
                    assert!(
                        refusal.message.contains("cannot start a stopped process"),
                        "{refusal}"
                    );
                    world.delete(id, "").await;
                },
            ));
        }
    }
}

#[test]
fn killed_before_the_runtime_starts_it() {
    for runtime in RUNTIMES {
        for pids in PIDS {
            run(async {
                let world = World::hooked(runtime, pids, &["sleep", "1000"], &[]).await;
                world.hook("c", "start", "before", "gate g");
                let init = world.create("c").await;
                world.exits_with("c", "", KILLED);
                let (answer, ()) = tokio::join!(world.start("c", ""), async {
                    world.reached("g").await;
                    world.kill(init);
                    world.open("g");
                });
                answer.unwrap_err();
                world.gone("c", "").await;
                world.end().await;
            });
        }
    }
}

#[test]
fn killed_before_its_start_is_announced() {
    for runtime in RUNTIMES {
        for pids in PIDS {
            run(async {
                let world = World::hooked(runtime, pids, &["sleep", "1000"], &[]).await;
                world.hook("c", "start", "after", "gate g");
                let init = world.create("c").await;
                world.exits_with("c", "", KILLED);
                let (answer, ()) = tokio::join!(world.start("c", ""), async {
                    world.reached("g").await;
                    world.kill(init);
                    world.open("g");
                });
                answer.unwrap();
                world.gone("c", "").await;
                world.end().await;
            });
        }
    }
}

#[test]
fn killed_before_its_create_is_announced() {
    for runtime in RUNTIMES {
        for pids in PIDS {
            run(async {
                let world = World::hooked(runtime, pids, &["sleep", "1000"], &[]).await;
                // Returns when the shim has collected the exit.
                world.hook("c", "create", "after", "kill_made");
                world.create("c").await;
                world.exits_with("c", "", KILLED);
                world.gone("c", "").await;
                world.end().await;
            });
        }
    }
}

#[test]
fn an_exec_killed_before_its_start_is_announced() {
    for runtime in RUNTIMES {
        for pids in PIDS {
            run(async {
                let world = World::hooked(runtime, pids, &["sleep", "1000"], &[]).await;
                world.hook("c", "exec", "after", "kill_made");
                let init = world.create("c").await;
                world.start("c", "").await.unwrap();
                for exec in ["x", "y"] {
                    world.exec("c", exec, &["sleep", "1000"]).await;
                    world.exits_with("c", exec, KILLED);
                    world.gone("c", exec).await;
                }
                world.kill(init);
                world.gone("c", "").await;
                world.end().await;
            });
        }
    }
}

/// What runs in a container, from its cgroup.
fn members(world: &World, id: &str) -> Vec<Process> {
    let cgroup = format!("/{}/{id}", world.shim.namespace);
    let within = |p: &Process| {
        let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", p.pid));
        let cgroups = cgroups.unwrap_or_default();
        cgroups.lines().any(|line| line.ends_with(&cgroup))
    };
    world.shim.processes().into_iter().filter(within).collect()
}

/// With the host's pids nobody but the shim ends what init leaves behind.
#[test]
fn no_child_of_an_early_init_outlives_it() {
    for runtime in RUNTIMES {
        let args = &["sh", "-c", "sleep 1000 & sleep 1000 & exit 3"];
        run(rounds(runtime, Pids::Host, 30, args, async |world, id| {
            world.create(id).await;
            world.exits_with(id, "", 3);
            world.start(id, "").await.unwrap();
            world.wait(id, "").await;
            // Half of the managers delete at once, half later.
            if id.ends_with(['0', '2', '4', '6', '8']) {
                until("its children have gone", || members(world, id).is_empty()).await;
                world.delete(id, "").await;
            } else {
                world.delete(id, "").await;
                let left = members(world, id);
                assert!(left.is_empty(), "{left:?} outlived {id}");
            }
        }));
    }
}

/// What a container is was settled when it was created: a config.json that is changed or gone later
/// does not make the shim spare what init leaves behind.
#[test]
fn a_config_changed_later_changes_nothing() {
    let private = r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#;
    for runtime in RUNTIMES {
        for changed in [Some(private), Some("no JSON"), None] {
            run(async {
                let args = ["sh", "-c", "sleep 1000 & sleep 1000"];
                let world = World::new(runtime, Pids::Host, "c", &args).await;
                let init = world.create("c").await;
                world.exits_with("c", "", KILLED);
                world.start("c", "").await.unwrap();
                until("its child is there", || members(&world, "c").len() == 2).await;
                let config = world.shim.bundle_path("c").join("config.json");
                match changed {
                    Some(json) => std::fs::write(config, json).unwrap(),
                    None => std::fs::remove_file(config).unwrap(),
                }
                world.kill(init);
                world.wait("c", "").await;
                until("its child has gone", || members(&world, "c").is_empty()).await;
                world.delete("c", "").await;
                world.end().await;
            });
        }
    }
}
