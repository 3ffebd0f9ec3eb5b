//! Init's exit is held back for execs that are being started, and only so long.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use crate::common::LIMIT;
use crate::common::shim::{RUNTIMES, run, until};
use crate::world::{KILLED, PIDS, Pids, World};

const DRAIN: Duration = Duration::from_millis(500);
const SHORT: [(&str, &str); 1] = [("COTTER_LIMIT_EXEC_DRAIN", "500ms")];
const SLEEP: [&str; 2] = ["sleep", "1000"];

/// A running container whose exec `x` is registered and will stop at gate `g`.
async fn begin(runtime: &str, pids: Pids, when: &str, env: &[(&str, &str)]) -> (World, u32) {
    let world = World::hooked(runtime, pids, &SLEEP, env).await;
    world.hook("c", "exec", when, "gate g");
    let init = world.create("c").await;
    world.exits_with("c", "", KILLED);
    world.start("c", "").await.unwrap();
    world.add("c", "x", &SLEEP).await;
    (world, init)
}

async fn reaped(pid: u32) {
    until("init is reaped", || {
        !Path::new(&format!("/proc/{pid}")).exists()
    })
    .await;
}

#[test]
fn an_exec_that_comes_up_in_time_exits_first() {
    for runtime in RUNTIMES {
        for pids in PIDS {
            run(async {
                let (world, init) = begin(runtime, pids, "after", &[]).await;
                world.exits_with("c", "x", KILLED);
                let (answer, over) = tokio::join!(world.start("c", "x"), async {
                    world.reached("g").await;
                    world.kill(init);
                    reaped(init).await;
                    let over = SystemTime::now();
                    world.open("g");
                    over
                });
                answer.unwrap();
                world.wait("c", "").await;
                assert!(world.exited_at("c", "") <= over, "not when it was reaped");
                world.gone("c", "x").await;
                world.delete("c", "").await;
                world.end().await;
            });
        }
    }
}

/// Killed at `when` of the runtime's exec, the init is told as over before the gate opens.
async fn waited_out(runtime: &str, pids: Pids, when: &str) {
    let (world, init) = begin(runtime, pids, when, &SHORT).await;
    world.is_late("c", "x");
    let killed = Instant::now();
    let (answer, ()) = tokio::join!(world.start("c", "x"), async {
        world.reached("g").await;
        world.kill(init);
        world.wait("c", "").await;
        assert!(killed.elapsed() >= DRAIN, "not held back");
        world.open("g");
    });
    // Made before init died: it is told, late. Made after: it can't be made.
    assert_eq!(answer.is_ok(), when == "after", "{answer:?}");
    if when == "after" {
        world.exits_with("c", "x", KILLED);
    }
    world.gone("c", "x").await;
    world.delete("c", "").await;
    world.end().await;
}

#[test]
fn an_exec_that_comes_up_too_late_does_not_hold_init_back() {
    for runtime in RUNTIMES {
        for pids in PIDS {
            for when in ["before", "after"] {
                run(waited_out(runtime, pids, when));
            }
        }
    }
}

#[test]
fn a_container_is_deleted_while_an_exec_hangs() {
    for runtime in RUNTIMES {
        for pids in PIDS {
            run(async {
                let (world, init) = begin(runtime, pids, "after", &SHORT).await;
                let (answer, ()) = tokio::join!(world.start("c", "x"), async {
                    world.reached("g").await;
                    world.kill(init);
                    world.gone("c", "").await;
                    world.open("g");
                });
                // Nobody is told of it any more.
                answer.unwrap_err();
                world.end().await;
            });
        }
    }
}

#[test]
fn a_runtime_that_never_returns_is_no_reason_to_hold_back() {
    for runtime in RUNTIMES {
        run(async {
            let env = [SHORT[0], ("COTTER_LIMIT_RUNTIME_CALL", "5s")];
            let (world, init) = begin(runtime, Pids::Private, "before", &env).await;
            let (answer, ()) = tokio::join!(world.start("c", "x"), async {
                world.reached("g").await;
                world.kill(init);
                tokio::time::timeout(LIMIT, world.wait("c", ""))
                    .await
                    .unwrap();
            });
            let refusal = answer.unwrap_err();
            assert!(refusal.message.contains("did not end within"), "{refusal}");
            assert_eq!(world.gone("c", "x").await, 0);
            world.delete("c", "").await;
            world.end().await;
        });
    }
}
