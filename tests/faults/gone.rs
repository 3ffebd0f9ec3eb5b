//! The end of the shim itself with containers running: by SIGKILL, and in order by SIGTERM. Its
//! containers live on, and the `delete` action takes them away.

use std::path::Path;

use cotter::manager::client::{Tasks, gone};
use cotter::manager::events::{Event, EventServer};
use cotter::manager::launch::{Deleted, Launch};

use crate::common::census::entries;
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{LIMIT, signal};
use crate::runtime::Faulty;
use crate::world::{GOOD, alive, bundle, good_works, later, nothing_new, until, world};

/// The `delete` action for a container of the shim.
pub async fn delete(shim: &Shim, id: &str) -> Deleted {
    let launch = Launch {
        id: id.into(),
        bundle: shim.bundle_path(id),
        ..shim.launch.clone()
    };
    launch.delete().await.unwrap()
}

/// A second container, with a mount; answers both inits.
async fn two(shim: &mut Shim, faulty: &Faulty) -> [u32; 2] {
    let request = bundle(shim, faulty, "c");
    let second = shim.tasks.create(&request).await.unwrap().pid;
    shim.start_process("c", "").await.unwrap();
    shim.exec("c", "x", &["sleep", "1000"]).await.unwrap();
    [shim.state(GOOD, "").await.unwrap().pid, second]
}

async fn cleared(shim: &Shim, id: &str, pid: u32) {
    for _ in 0..2 {
        let deleted = delete(shim, id).await;
        assert_eq!(deleted.warnings, "");
        assert_eq!(
            (deleted.response.pid, deleted.response.exit_status),
            (pid, 137)
        );
        assert!(deleted.response.exited_at.seconds > 0);
        until("its init is dead", || !alive(pid)).await;
    }
}

/// A shim of the same id takes over the bundles, as if nothing had been.
async fn again(shim: &mut Shim, faulty: &Faulty) {
    shim.endpoint = shim.launch.start().await.unwrap();
    shim.tasks = Tasks::connect(&shim.endpoint).await.unwrap();
    shim.create(GOOD).await.unwrap();
    shim.start_process(GOOD, "").await.unwrap();
    two(shim, faulty).await;
    good_works(shim).await;
    shim.remove("c").await;
    shim.remove(GOOD).await;
}

#[test]
fn killed() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            let [good, second] = two(&mut shim, &faulty).await;
            signal(shim.pid(), "KILL");
            gone(&shim.endpoint, LIMIT).await.unwrap();
            assert!(alive(good) && alive(second));
            cleared(&shim, GOOD, good).await;
            assert!(alive(second));
            cleared(&shim, "c", second).await;
            nothing_left(&shim).await;
            again(&mut shim, &faulty).await;
            shim.end().await;
        });
    }
}

#[test]
fn terminated() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            let [good, second] = two(&mut shim, &faulty).await;
            // Nobody listens when the events come.
            let path = std::path::PathBuf::from(shim.events.address());
            let nobody = EventServer::listen(&path.with_extension("away"))
                .await
                .unwrap();
            std::mem::replace(&mut shim.events, nobody).stop().await;
            for i in 0..10 {
                shim.exec(GOOD, &format!("x{i}"), &["true"]).await.unwrap();
                shim.wait(GOOD, &format!("x{i}")).await.unwrap();
            }
            let pid = shim.pid();
            signal(pid, "TERM");
            let socket = shim.endpoint.socket().to_owned();
            until("it lets nobody in", || !Path::new(&socket).exists()).await;
            shim.events = EventServer::listen(&path).await.unwrap();
            gone(&shim.endpoint, LIMIT).await.unwrap();
            until("the shim ends", || !alive(pid)).await;
            assert!(alive(good) && alive(second));
            let last = |e: &Event| matches!(e, Event::Exit(exit) if exit.id == "x9");
            let told = shim.events_until(last).await;
            let exits = told
                .iter()
                .filter(|t| matches!(t.event, Event::Exit(_)))
                .count();
            assert_eq!(exits, 10, "every event went out before the end");
            cleared(&shim, GOOD, good).await;
            cleared(&shim, "c", second).await;
            nothing_left(&shim).await;
            again(&mut shim, &faulty).await;
            shim.end().await;
        });
    }
}

/// No process, mount, socket or cgroup.
pub async fn nothing_left(shim: &Shim) {
    let none = crate::common::census::Census::default();
    nothing_new(shim, &none, "after delete").await;
    let left = entries(&shim.state_dir());
    assert!(left.is_empty(), "{left:?}");
}

/// A call of the runtime that its shim's end has left behind ends with everything else: it would
/// make a container of which nobody knows.
#[test]
fn killed_in_the_middle_of_a_call() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            let good = shim.state(GOOD, "").await.unwrap().pid;
            let request = bundle(&mut shim, &faulty, "c");
            faulty.set("create", "slow-before");
            let create = later(&shim.tasks, |tasks: Tasks| async move {
                tasks.create(&request).await.map(drop)
            });
            faulty.arrived("create").await;
            signal(shim.pid(), "KILL");
            create.await.unwrap().unwrap_err();
            gone(&shim.endpoint, LIMIT).await.unwrap();
            let script = faulty.binary().to_string_lossy().into_owned();
            let calls = || {
                let all = shim.processes().into_iter();
                all.filter(|p| p.argv.contains(&script)).count()
            };
            assert_eq!(calls(), 1);
            // The other container's is none of its business.
            cleared(&shim, GOOD, good).await;
            assert_eq!(calls(), 1);
            // As if it had come that far.
            let cgroups = shim.owner().cgroups();
            assert!(!cgroups.is_empty());
            let made = || cgroups.iter().map(|dir| dir.join("c"));
            made().for_each(|dir| std::fs::create_dir_all(dir).unwrap());
            assert_eq!(delete(&shim, "c").await.warnings, "");
            assert_eq!(calls(), 0);
            let left: Vec<_> = made().filter(|dir| dir.exists()).collect();
            assert!(left.is_empty(), "{left:?}");
            faulty.clear("create");
            again(&mut shim, &faulty).await;
            shim.end().await;
        });
    }
}
