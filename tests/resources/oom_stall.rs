//! Memory that is short without anybody being killed: told when it begins and when it is over.

use std::fs;

use cotter::cgroup::Version;
use cotter::manager::dialect::Dialect;
use cotter::manager::events::{Event, Told};
use cotter::manager::spec::Spec;
use cotter::proto::cotter_oom::OomKill;
use cotter::proto::cotter_oom::oom_kill::Stall;

use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::common::signal;
use crate::oom::catches_usr1;
use crate::{cgroup, is_delete, topics};

/// Writes its memory itself: what cannot be had for the kernel's own writing to it is an error of a call.
const HUNGRY: &str = r#"awk 'BEGIN { a = 7; while (1) a = a a }'"#;

/// Has the kernel kill nobody of it: asked to on v1, and as it can be on v2.
fn spare(pid: u32) {
    let group = cgroup(pid);
    match group.version() {
        Version::V1 => {
            let file = group.dir("memory").unwrap().join("memory.oom_control");
            fs::write(file, "1").unwrap();
        }
        Version::V2 => fs::write(format!("/proc/{pid}/oom_score_adj"), "-1000").unwrap(),
    }
}

/// The container's process that eats memory.
async fn hungry(pid: u32) -> u32 {
    let mut found = None;
    until("it eats", || {
        let pids = cgroup(pid).procs().unwrap_or_default();
        found = pids.into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "awk\n")
        });
        found.is_some()
    })
    .await;
    found.unwrap().as_raw().cast_unsigned()
}

async fn stall(shim: &mut Shim, expected: Stall) -> Vec<Told> {
    let is = |e: &Event| matches!(e, Event::OomKill(kill) if kill.stall == expected.into());
    shim.events_until(is).await
}

fn last(told: &[Told]) -> &OomKill {
    match &told.last().unwrap().event {
        Event::OomKill(kill) => kill,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_shortage_without_a_kill_is_told_when_it_begins_and_ends() {
    for runtime in RUNTIMES {
        for host_pids in [false, true] {
            run(async {
                let script = format!(
                    "eat() {{ {HUNGRY} & wait; }}; trap eat USR1; while :; do sleep 0.05; done"
                );
                let mut spec = Spec::new("c", ["sh", "-c", &script]);
                spec.memory_limit = Some(24 << 20);
                spec.host_pids = host_pids;
                let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
                shim.run("good", &["sleep", "1000"]).await;
                let pid = shim.create("c").await.unwrap();
                spare(pid);
                shim.start_process("c", "").await.unwrap();
                catches_usr1(pid).await;

                shim.kill("c", "", 10).await.unwrap();
                let told = stall(&mut shim, Stall::STALL_BEGAN).await;
                let all = topics(&told);
                assert_eq!(&all[all.len() - 2..], ["/tasks/oom", "/cotter/oom"]);
                assert_eq!((last(&told).kills, &*last(&told).container_id), (0, "c"));
                // Everything else goes on.
                let state = shim.state("c", "").await.unwrap();
                assert_eq!(state.pid, pid);
                shim.exec("good", "x", &["sh", "-c", "exit 7"])
                    .await
                    .unwrap();
                assert_eq!(shim.wait("good", "x").await.unwrap().exit_status, 7);

                signal(hungry(pid).await, "KILL");
                let told = stall(&mut shim, Stall::STALL_ENDED).await;
                assert!(!topics(&told).contains(&"/tasks/oom"), "{told:#?}");

                // Once more, which the end of the container ends.
                shim.kill("c", "", 10).await.unwrap();
                let told = stall(&mut shim, Stall::STALL_BEGAN).await;
                let ooms = topics(&told).iter().filter(|t| **t == "/tasks/oom").count();
                assert_eq!(ooms, 1, "{told:#?}");
                shim.kill("c", "", 9).await.unwrap();
                assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
                shim.delete("c", "").await.unwrap();
                let told = shim.events_until(is_delete).await;
                assert_eq!(
                    topics(&told),
                    ["/cotter/oom", "/tasks/exit", "/tasks/delete"]
                );
                shim.remove("good").await;
                shim.end().await;
            });
        }
    }
}
