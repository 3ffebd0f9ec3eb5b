//! Many at once, and a manager that is away meanwhile.

use std::time::{Duration, Instant};

use cotter::manager::events::EventServer;

use crate::common::shim::{RUNTIMES, run};
use crate::world::{KILLED, Pids, World, each};

/// Exec number `i` of a load: what it runs and how it ends.
fn program(i: u32) -> (Vec<String>, u32) {
    match i % 4 {
        0 => {
            let status = i % 256;
            let exit = format!("exit {status}");
            (["sh", "-c", &exit].map(str::to_owned).into(), status)
        }
        1 => (vec!["false".into()], 1),
        _ => (vec!["true".into()], 0),
    }
}

/// The whole life of an exec.
async fn exec(world: &World, i: u32) {
    let (id, (args, status)) = (format!("x{i}"), program(i));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    world.add("c", &id, &args).await;
    world.exits_with("c", &id, status);
    world.start("c", &id).await.unwrap();
    assert_eq!(world.gone("c", &id).await, status, "{id}");
}

/// The whole life of a container that runs `true`.
async fn init(world: &World, id: &str) {
    world.create(id).await;
    world.exits_with(id, "", 0);
    world.start(id, "").await.unwrap();
    assert_eq!(world.gone(id, "").await, 0, "{id}");
}

#[test]
fn two_thousand_execs_64_at_a_time() {
    for runtime in RUNTIMES {
        run(async {
            let world = World::new(runtime, Pids::Private, "c", &["sleep", "1000"]).await;
            let init = world.create("c").await;
            world.start("c", "").await.unwrap();
            each(64, 0..2000, |i| exec(&world, i)).await;
            world.kill(init);
            assert_eq!(world.gone("c", "").await, KILLED);
            world.end().await;
        });
    }
}

#[test]
fn two_hundred_inits_of_one_shim() {
    for runtime in RUNTIMES {
        for (pids, count) in [(Pids::Private, 200), (Pids::Host, 100)] {
            run(async {
                let ids: Vec<String> = (0..count).map(|i| format!("c{i}")).collect();
                let mut world = World::new(runtime, pids, "c0", &["true"]).await;
                ids.iter().for_each(|id| world.bundle(id, &["true"]));
                each(16, &ids, |id| init(&world, id)).await;
                world.end().await;
            });
        }
    }
}

#[test]
fn a_storm_of_exits() {
    // To make one takes runc twice as long.
    for (runtime, count) in RUNTIMES.into_iter().zip([250, 500]) {
        run(async {
            let world = World::new(runtime, Pids::Private, "c", &["sleep", "1000"]).await;
            let init = world.create("c").await;
            world.start("c", "").await.unwrap();
            let pids = std::cell::RefCell::new(Vec::new());
            each(32, 0..count, |i| {
                let (world, pids) = (&world, &pids);
                async move {
                    let id = format!("x{i}");
                    let pid = world.exec("c", &id, &["sleep", "1000"]).await;
                    world.exits_with("c", &id, KILLED);
                    pids.borrow_mut().push(pid);
                }
            })
            .await;
            pids.borrow().iter().for_each(|pid| world.kill(*pid));
            each(64, 0..count, |i| {
                let world = &world;
                async move {
                    world.gone("c", &format!("x{i}")).await;
                }
            })
            .await;
            world.kill(init);
            world.gone("c", "").await;
            world.end().await;
        });
    }
}

#[test]
fn the_manager_is_away_meanwhile() {
    for runtime in RUNTIMES {
        run(async {
            let mut world = World::new(runtime, Pids::Private, "c", &["sleep", "1000"]).await;
            let init = world.create("c").await;
            world.start("c", "").await.unwrap();
            each(8, 0..50, |i| exec(&world, i)).await;

            let away = Instant::now();
            let address = world.manager_leaves().await;
            each(8, 50..150, |i| exec(&world, i)).await;
            // Long enough for the shim to try again, and again less often.
            tokio::time::sleep(Duration::from_secs(2).saturating_sub(away.elapsed())).await;
            world.shim.events = EventServer::listen(address.as_ref()).await.unwrap();

            each(8, 150..200, |i| exec(&world, i)).await;
            world.kill(init);
            world.gone("c", "").await;
            world.end().await;
        });
    }
}
