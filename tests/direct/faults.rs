//! Whatever happens on the way into the container, the program is run once, and nothing of the attempt is left.

use std::fs;

use serde_json::Value;

use super::common::eventually;
use super::common::shim::{each, run};
use super::steps::{Blow, Steps, is_stub};
use super::world::{KNOWN, World};

/// Tells that it has run, in a place that stays.
fn telling() -> Value {
    World::process(&["sh", "-c", "echo ran >>/run/told; exit 5"], &[])
}

async fn told(world: &World) -> usize {
    let process = World::process(&["cat", "/run/told"], &[]);
    let (_, text) = world.by_runtime(&process).await.unwrap();
    text.lines().filter(|line| *line == "ran").count()
}

fn stubs() -> Vec<i32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_stub(*pid)).collect()
}

/// Before and after each of its calls with one runtime, at some with the others.
#[test]
fn killed_at_each_step() {
    for (runtime, apart) in KNOWN.into_iter().zip([7, 5, 11, 1]) {
        run(async {
            let world = World::new(runtime).await;
            let mut execs = 0;
            for at in (1..).step_by(apart) {
                // Three failures in a row would make all further ones the runtime's.
                world
                    .directly(&World::process(&["true"], &[]))
                    .await
                    .unwrap();
                let before = world.ways().await.direct;
                let steps = Steps::of(world.shim.pid(), at, Blow::Kill);
                let came = world.exec(&telling()).await;
                let (seen, struck) = steps.seen();
                drop(steps);
                execs += 1;
                let is_direct = world.ways().await.direct > before;
                // Killed in the call that makes it the program, it may have been that.
                let was_killed = struck && is_direct && came == Ok((137, String::new()));
                execs -= usize::from(was_killed);
                assert!(
                    was_killed || came == Ok((5, String::new())),
                    "{at}: {came:?}"
                );
                if !struck {
                    assert!(seen > 40 && is_direct, "{at} {seen}");
                    break;
                }
            }
            assert_eq!(told(&world).await, execs);
            world.end().await;
        });
    }
}

/// It takes as long as the stub may, then the runtime.
#[test]
fn stopped_at_some_steps() {
    for (runtime, at) in [("RUNC_1_3", 2), ("RUNC_1_3", 60), ("CRUN_1_28", 30)] {
        run(async {
            let world = World::new(runtime).await;
            world
                .directly(&World::process(&["true"], &[]))
                .await
                .unwrap();
            let steps = Steps::of(world.shim.pid(), at, Blow::Stop);
            let came = world
                .is_the_runtimes(&telling(), "did not end in time")
                .await;
            assert!(steps.seen().1);
            drop(steps);
            assert_eq!(came, Ok((5, String::new())));
            // Once more by the runtime, to compare.
            assert_eq!(told(&world).await, 2);
            world.end().await;
        });
    }
}

/// Nobody is left who could tell of it: what is on its way ends at its next word.
#[test]
fn without_the_shim() {
    for at in [3, 25, 45, 70] {
        run(async {
            let world = World::new("RUNC_1_3").await;
            let shim = world.shim.pid();
            world
                .directly(&World::process(&["true"], &[]))
                .await
                .unwrap();
            let steps = Steps::of(shim, at, Blow::KillShim);
            world.begun_in_vain(&telling()).await;
            assert!(steps.seen().1);
            drop(steps);
            eventually("nothing is on its way", || stubs().is_empty());
            world.gone().await;
        });
    }
}

#[test]
fn many_at_once() {
    for runtime in KNOWN {
        run(async {
            let world = World::new(runtime).await;
            let before = world.ways().await.direct;
            let process = telling();
            each(64, 0..128, async |_| {
                assert_eq!(world.exec(&process).await, Ok((5, String::new())));
            })
            .await;
            assert_eq!(world.ways().await.direct, before + 128);
            assert_eq!(told(&world).await, 128);
            world.end().await;
        });
    }
}
