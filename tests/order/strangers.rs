//! Processes that nobody asked for, and whose parent is gone: with the host's pids they come to the
//! shim. It has to reap them and tell nobody.

use std::fs;

use crate::common::shim::{RUNTIMES, run, until};
use crate::world::{KILLED, Pids, World, each};

const ORPHANS: usize = 500;
/// Forks twice for each, so that the parent is gone at once.
const SCRIPT: &str =
    "i=0; while [ $i -lt 500 ]; do (sleep 1000 &); i=$((i+1)); done; exec sleep 2000";

/// State and parent of a process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat.rsplit_once(") ")?.1.split(' ');
    let state = words.next()?.chars().next()?;
    Some((state, words.next()?.parse().ok()?))
}

/// All children of `parent`, zombies too.
fn children(parent: u32) -> Vec<(u32, char)> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let (state, ppid) = stat(pid)?;
        (ppid == parent).then_some((pid, state))
    })
    .collect()
}

#[test]
fn five_hundred_orphans_die_at_once() {
    for runtime in RUNTIMES {
        run(async {
            let world = World::new(runtime, Pids::Host, "c", &["sh", "-c", SCRIPT]).await;
            let init = world.create("c").await;
            world.start("c", "").await.unwrap();
            let shim = world.shim.pid();
            let orphans = || children(shim).into_iter().filter(|(pid, _)| *pid != init);
            until("the orphans are the shim's", || {
                orphans().count() == ORPHANS
            })
            .await;

            // Starts are in flight when they die, so that the shim has to take note of them.
            let dying: Vec<u32> = orphans().map(|(pid, _)| pid).collect();
            each(8, 0..16, |i| {
                let (world, dying) = (&world, &dying);
                async move {
                    let id = format!("x{i}");
                    world.add("c", &id, &["true"]).await;
                    world.exits_with("c", &id, 0);
                    if i == 8 {
                        dying.iter().for_each(|pid| world.kill(*pid));
                    }
                    world.start("c", &id).await.unwrap();
                    world.gone("c", &id).await;
                }
            })
            .await;
            until("only init is left", || {
                children(shim).iter().all(|(pid, _)| *pid == init)
            })
            .await;
            world.exits_with("c", "", KILLED);
            world.kill(init);
            world.wait("c", "").await;
            world.delete("c", "").await;
            until("no child is left", || children(shim).is_empty()).await;
            world.end().await;
        });
    }
}
