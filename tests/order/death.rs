//! Init dies with execs running, being started, or registered.

use std::cell::RefCell;

use cotter::error::Code;

use crate::common::shim::{RUNTIMES, run};
use crate::world::{KILLED, PIDS, Pids, World, each};

#[test]
fn two_hundred_execs_run_when_init_is_killed() {
    for runtime in RUNTIMES {
        for pids in PIDS {
            run(async {
                let world = World::new(runtime, pids, "c", &["sleep", "1000"]).await;
                let init = world.create("c").await;
                world.start("c", "").await.unwrap();
                each(32, 0..200, |i| {
                    let world = &world;
                    async move {
                        let id = format!("x{i}");
                        world.exec("c", &id, &["sleep", "1000"]).await;
                        world.exits_with("c", &id, KILLED);
                    }
                })
                .await;
                world.exits_with("c", "", KILLED);
                world.kill(init);
                world.wait("c", "").await;
                // Before init's exit all others are told, so that none of these waits.
                for i in 0..200 {
                    world.wait("c", &format!("x{i}")).await;
                }
                world.delete("c", "").await;
                world.end().await;
            });
        }
    }
}

/// Clients wait before they start: a start that is refused must not leave them waiting.
#[test]
fn an_exec_that_comes_too_late_is_refused_and_its_waiters_released() {
    for runtime in RUNTIMES {
        run(async {
            let world = World::new(runtime, Pids::Private, "c", &["sleep", "1000"]).await;
            let init = world.create("c").await;
            world.start("c", "").await.unwrap();
            world.add("c", "x", &["true"]).await;
            let (status, ()) = tokio::join!(world.wait("c", "x"), async {
                world.kill(init);
                world.wait("c", "").await;
                let refusal = world.start("c", "x").await.unwrap_err();
                assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal}");
            });
            assert_eq!(status, 0);
            let refusal = world.try_add("c", "y", &["true"]).await.unwrap_err();
            assert!(
                refusal.message.contains("cannot exec in a stopped state"),
                "{refusal}"
            );
            world.delete("c", "").await;
            world.end().await;
        });
    }
}

/// Each round the init dies at another point of the starts of four execs.
#[test]
fn starts_race_with_the_death_of_init() {
    for runtime in RUNTIMES {
        for pids in PIDS {
            run(race(runtime, pids));
        }
    }
}

async fn race(runtime: &str, pids: Pids) {
    const ROUNDS: usize = 50;
    const EXECS: usize = 4;
    let args = &["sleep", "1000"];
    let ids: Vec<String> = (0..ROUNDS).map(|i| format!("c{i}")).collect();
    let mut world = World::new(runtime, pids, "c0", args).await;
    ids.iter().for_each(|id| world.bundle(id, args));
    let outcomes = RefCell::new([0, 0]);
    each(2, ids.iter().enumerate(), |(round, id)| {
        let (world, outcomes) = (&world, &outcomes);
        async move {
            let init = world.create(id).await;
            world.start(id, "").await.unwrap();
            for x in 0..EXECS {
                world.add(id, &x.to_string(), args).await;
            }
            let started = tokio::sync::Semaphore::new(0);
            // Work 0 is the murderer; it strikes once so many starts have been answered.
            each(EXECS + 1, 0..=EXECS, |who| {
                let started = &started;
                async move {
                    if who == 0 {
                        let _strike = started.acquire_many((round % EXECS) as u32).await.unwrap();
                        world.kill(init);
                    } else {
                        let exec = (who - 1).to_string();
                        let answer = world.start(id, &exec).await;
                        outcomes.borrow_mut()[usize::from(answer.is_ok())] += 1;
                        started.add_permits(1);
                    }
                }
            })
            .await;
            assert_eq!(world.wait(id, "").await, KILLED);
            for x in 0..EXECS {
                world.wait(id, &x.to_string()).await;
            }
            // Half of them leave the execs to the container's Delete.
            for x in 0..EXECS * (round % 2) {
                world.delete(id, &x.to_string()).await;
            }
            world.delete(id, "").await;
        }
    })
    .await;
    let [failed, succeeded] = outcomes.into_inner();
    assert!(
        failed > 0 && succeeded > 0,
        "no race: {failed} failed, {succeeded} succeeded"
    );
    world.end().await;
}

#[test]
fn a_created_init_is_killed_while_its_execs_run() {
    for runtime in RUNTIMES {
        for pids in PIDS {
            run(async {
                let args = &["sleep", "1000"];
                let ids: Vec<String> = (0..10).map(|i| format!("c{i}")).collect();
                let mut world = World::new(runtime, pids, "c0", args).await;
                ids.iter().for_each(|id| world.bundle(id, args));
                each(2, &ids, |id| {
                    let world = &world;
                    async move {
                        let init = world.create(id).await;
                        for exec in ["x", "y"] {
                            world.exec(id, exec, args).await;
                            world.exits_with(id, exec, KILLED);
                        }
                        world.exits_with(id, "", KILLED);
                        world.kill(init);
                        world.wait(id, "").await;
                        for exec in ["x", "y"] {
                            world.gone(id, exec).await;
                        }
                        world.delete(id, "").await;
                    }
                })
                .await;
                world.end().await;
            });
        }
    }
}
