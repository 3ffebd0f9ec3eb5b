//! A container in which one process after another is killed for want of memory costs few events, in which all
//! are counted.

use cotter::cgroup::{Cgroup, Version};
use cotter::manager::dialect::Dialect;
use cotter::manager::events::{Event, Told};
use cotter::manager::spec::Spec;
use tokio::time::Instant;

use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::{cgroup, is_delete, read};

/// How many have been killed, as the kernel counts.
fn killed_in(group: &Cgroup) -> u64 {
    let file = match group.version() {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    };
    let text = read(group, "memory", file);
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.unwrap().parse().unwrap()
}

fn kills(told: &[Told]) -> Vec<u64> {
    let of = |told: &Told| match &told.event {
        Event::OomKill(kill) if kill.container_id == "c" => {
            assert!(kill.victims.len() <= 8, "{kill:?}");
            Some(kill.kills)
        }
        _ => None,
    };
    told.iter().filter_map(of).collect()
}

#[test]
fn a_loop_of_kills_is_told_once_a_second_and_counted() {
    for runtime in RUNTIMES {
        run(async {
            let script = "while :; do tail /dev/zero; done";
            let mut spec = Spec::new("c", ["sh", "-c", script]);
            spec.memory_limit = Some(16 << 20);
            let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            shim.run("good", &["sleep", "1000"]).await;
            let pid = shim.create("c").await.unwrap();
            let group = cgroup(pid);
            let begun = Instant::now();
            shim.start_process("c", "").await.unwrap();
            until("it kills many", || killed_in(&group) >= 60).await;
            // Beside it another is told of at once, and works.
            shim.exec("good", "x", &["sh", "-c", "exit 7"])
                .await
                .unwrap();
            assert_eq!(shim.wait("good", "x").await.unwrap().exit_status, 7);
            // An exec that is killed by hand is none of them; what came before its exit is told before it.
            shim.exec("c", "y", &["sleep", "1000"]).await.unwrap();
            shim.kill("c", "y", 9).await.unwrap();
            assert_eq!(shim.wait("c", "y").await.unwrap().exit_status, 137);
            shim.kill("c", "", 9).await.unwrap();
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
            // Nobody is left who could be killed.
            let counted = killed_in(&group);
            shim.delete("c", "").await.unwrap();
            let all = shim.events_until(is_delete).await;
            let seconds = begun.elapsed().as_secs() + 1;
            let told = kills(&all);
            let sum: u64 = told.iter().sum();
            assert_eq!(sum, counted, "{told:?}");
            let last = all.iter().rev().find_map(|told| match &told.event {
                Event::OomKill(kill) => Some(kill.kills_total),
                _ => None,
            });
            assert_eq!(last, Some(sum));
            // One a second, and one before each exit.
            assert!(
                told.len() as u64 <= seconds + 2,
                "{} in {seconds} s",
                told.len()
            );
            let ooms = all
                .iter()
                .filter(|told| matches!(told.event, Event::Oom(_)));
            assert!(ooms.count() <= told.len());
            shim.remove("good").await;
            shim.end().await;
        });
    }
}
