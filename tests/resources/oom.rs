//! TaskOOM: before the exit it caused, once, whoever was killed.

use cotter::manager::dialect::Dialect;
use cotter::manager::events::{Event, Told};
use cotter::manager::spec::Spec;

use crate::common::has_trap;
use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::{is_delete, topics};

const MIB: i64 = 1 << 20;

/// `tail` keeps all of a line that never ends.
const HUNGRY: &str = "tail /dev/zero";

/// A container of 24 MiB that runs `script`.
async fn limited(runtime: &str, script: &str) -> Shim {
    let mut spec = Spec::new("c", ["sh", "-c", script]);
    spec.memory_limit = Some(24 * MIB);
    let shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
    shim.create("c").await.unwrap();
    shim
}

/// Waits until a shell catches USR1.
pub async fn catches_usr1(pid: u32) {
    until("it has its trap", || has_trap(pid, 10)).await;
}

/// The life of the container, with what was told of its memory.
async fn life(mut shim: Shim) -> Vec<String> {
    let told: Vec<Told> = shim.events_until(is_delete).await;
    let topics = with_details_behind(&told);
    let rest = shim.end().await;
    assert!(rest.is_empty(), "{rest:?}");
    topics
}

/// The topics without `/cotter/oom`, which comes directly behind every TaskOOM. Where processes are killed
/// in a burst, more of it can follow.
pub fn with_details_behind(all: &[Told]) -> Vec<String> {
    let mut kills = 0;
    for (place, told) in all.iter().enumerate() {
        match &told.event {
            Event::Oom(_) => assert!(
                matches!(&all[place + 1].event, Event::OomKill(_)),
                "{all:#?}"
            ),
            Event::OomKill(kill) => {
                kills += kill.kills;
                assert!(kill.kills > 0 && kill.kills_total >= kills, "{all:#?}");
            }
            _ => continue,
        }
        assert_eq!(told.event.container(), "c");
    }
    let topics = topics(all).into_iter().filter(|t| *t != "/cotter/oom");
    topics.map(str::to_owned).collect()
}

/// What is killed is the container's own process.
#[test]
fn an_init_is_killed() {
    for runtime in RUNTIMES {
        for _ in 0..5 {
            run(async {
                let shim = limited(runtime, &format!("exec {HUNGRY}")).await;
                shim.start_process("c", "").await.unwrap();
                assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
                shim.delete("c", "").await.unwrap();
                let seen = life(shim).await;
                // The kernel may be faster than the runtime is with its return from start.
                let of = |life: [&str; 5]| life.map(|t| format!("/tasks/{t}"));
                let expected = of(["create", "start", "oom", "exit", "delete"]);
                let early = of(["create", "oom", "start", "exit", "delete"]);
                assert!(seen == expected || seen == early, "{seen:?}");
            });
        }
    }
}

/// A child that init survives, which nobody but the kernel tells of; and a second one, later.
#[test]
fn a_child_is_killed_and_init_goes_on() {
    for runtime in RUNTIMES {
        run(async {
            let script = format!("trap '{HUNGRY}' USR1; while :; do sleep 0.05; done");
            let mut shim = limited(runtime, &script).await;
            catches_usr1(shim.start_process("c", "").await.unwrap()).await;
            for _ in 0..2 {
                shim.kill("c", "", 10).await.unwrap();
                let told = shim.events_until(|e| matches!(e, Event::OomKill(_))).await;
                assert!(!topics(&told).contains(&"/tasks/exit"));
                with_details_behind(&told);
            }
            shim.remove("c").await;
            assert_eq!(life(shim).await, ["/tasks/exit", "/tasks/delete"]);
        });
    }
}

/// An exec is killed: before its exit, and init's is not another one's.
#[test]
fn an_exec_is_killed() {
    for runtime in RUNTIMES {
        run(async {
            let shim = limited(runtime, "while :; do sleep 0.05; done").await;
            shim.start_process("c", "").await.unwrap();
            shim.exec("c", "x", &["sh", "-c", &format!("exec {HUNGRY}")])
                .await
                .unwrap();
            assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 137);
            shim.delete("c", "x").await.unwrap();
            shim.remove("c").await;
            let seen = life(shim).await;
            // Where the kernel ends the exec before the runtime has told of it, the start comes second.
            let expected = [
                "create",
                "start",
                "exec-added",
                "exec-started",
                "oom",
                "exit",
                "exit",
                "delete",
            ];
            let mut early = expected;
            early.swap(3, 4);
            let of = |life: [&str; 8]| life.map(|t| format!("/tasks/{t}"));
            assert!(seen == of(expected) || seen == of(early), "{seen:?}");
        });
    }
}

/// A limit that is never reached, and a container without one, are not told of.
#[test]
fn nobody_is_killed() {
    run(async {
        let shim = limited("RUNC", "sleep 1000").await;
        shim.start_process("c", "").await.unwrap();
        shim.remove("c").await;
        let expected = ["create", "start", "exit", "delete"];
        assert_eq!(life(shim).await, expected.map(|t| format!("/tasks/{t}")));
    });
}
