//! Pids that are used again at once: a signal and an exit belong to the process, not to its number.
//!
//! Each test runs once more by itself in a pid namespace of its own, where it says which pid comes
//! next, so that new processes get the numbers of those that have just ended.

use std::collections::BTreeMap;
use std::fs;

use cotter::error::Code;
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::proto::task::{KillRequest, PidsRequest, Status};

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::world::{GOOD, alive, alone, good_works, says, world};

/// Where the pids of a test begin, above all that was there before.
const FIRST: u32 = 20_000;
/// More than it takes: a runtime needs about a dozen pids for each process.
const TRIES: usize = 60;

/// Whether this is the inner run; outside, runs it and expects it to pass.
fn inside(test: &str) -> bool {
    alone(
        &format!("recycled::{test}"),
        &["--pid", "--fork", "--kill-child", "--mount-proc"],
    )
}

/// The next process gets this pid, or the first free one above it.
fn next_pid(pid: u32) {
    fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
}

async fn status(shim: &Shim, id: &str, exec: &str) -> Status {
    let state = shim.state(id, exec).await.unwrap();
    state.status.enum_value().unwrap()
}

/// Events about a process, by kind, up to the exit of `last`.
async fn exits_until(shim: &mut Shim, last: &str) -> Vec<(String, u32, u32)> {
    let is = |event: &Event| matches!(event, Event::Exit(exit) if exit.id == last);
    let told = shim.events_until(is).await;
    told.into_iter()
        .filter_map(|told| match told.event {
            Event::Exit(exit) => Some((exit.id, exit.pid, exit.exit_status)),
            _ => None,
        })
        .collect()
}

#[test]
fn by_execs() {
    if !inside("by_execs") {
        return;
    }
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, _) = world(runtime, &[]).await;
            // Ended and not deleted, by their pids.
            let mut ended = BTreeMap::<u32, String>::new();
            let mut pairs = 0;
            for n in 0..TRIES {
                next_pid(FIRST);
                let id = format!("x{n}");
                let args = ["sleep", "1000"];
                let pid = shim.exec(GOOD, &id, &args).await.unwrap();
                if let Some(old) = ended.remove(&pid) {
                    pairs += 1;
                    it_is_another(&shim, &old, &id, pid).await;
                }
                shim.kill(GOOD, &id, 9).await.unwrap();
                assert_eq!(shim.wait(GOOD, &id).await.unwrap().exit_status, 137);
                let exits = exits_until(&mut shim, &id).await;
                assert_eq!(exits, [(id.clone(), pid, 137)]);
                ended.insert(pid, id);
                if pairs == 5 {
                    break;
                }
            }
            assert_eq!(pairs, 5, "pids were used again");

            // And some that end before the runtime has told their pids, or just then.
            let mut seen = BTreeMap::new();
            for n in 0..20_u32 {
                next_pid(FIRST);
                let (id, script) = (format!("y{n}"), format!("exit {}", n + 1));
                let pid = shim.exec(GOOD, &id, &["sh", "-c", &script]).await.unwrap();
                assert_eq!(shim.wait(GOOD, &id).await.unwrap().exit_status, n + 1);
                let exits = exits_until(&mut shim, &id).await;
                assert_eq!(exits, [(id, pid, n + 1)]);
                *seen.entry(pid).or_insert(0) += 1;
            }
            assert!(seen.len() < 20, "pids were used again: {seen:?}");
            good_works(&shim).await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// `old` has ended, and `new` has its pid now.
async fn it_is_another(shim: &Shim, old: &str, new: &str, pid: u32) {
    let gone = "process already finished";
    for signal in [9, 15, 0] {
        let error = shim.kill(GOOD, old, signal).await.unwrap_err();
        says(&error, Code::NotFound, &[gone]);
    }
    assert_eq!(status(shim, GOOD, old).await, Status::STOPPED);
    assert_eq!(shim.wait(GOOD, old).await.unwrap().exit_status, 137);
    assert_eq!(shim.delete(GOOD, old).await.unwrap().pid, pid);
    assert_eq!(status(shim, GOOD, new).await, Status::RUNNING);
    assert!(alive(pid));
    let request = PidsRequest {
        id: GOOD.into(),
        ..Default::default()
    };
    let pids = shim.tasks.pids(&request).await.unwrap().processes;
    assert!(pids.iter().any(|p| p.pid == pid), "{pids:?}");
}

#[test]
fn by_inits() {
    if !inside("by_inits") {
        return;
    }
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, _) = world(runtime, &[]).await;
            for id in ["old", "new"] {
                shim.bundle(id, Spec::new(id, ["sleep", "1000"]));
            }
            next_pid(FIRST);
            let pid = shim.create("old").await.unwrap();
            shim.start_process("old", "").await.unwrap();
            shim.kill("old", "", 9).await.unwrap();
            shim.wait("old", "").await.unwrap();
            let mut tries = 0;
            loop {
                // From both sides of the number in question: how many a runtime needs before it varies.
                next_pid(FIRST - 4 + u32::try_from(tries % 9).unwrap());
                if shim.create("new").await.unwrap() == pid {
                    break;
                }
                shim.delete("new", "").await.unwrap();
                tries += 1;
                assert!(tries < TRIES, "pid {pid} was not used again");
            }
            shim.start_process("new", "").await.unwrap();
            exits_until_started(&mut shim, pid).await;

            for all in [false, true] {
                let request = KillRequest {
                    id: "old".into(),
                    signal: 9,
                    all,
                    ..Default::default()
                };
                let killed = shim.tasks.kill(&request).await;
                // With `all` it is up to the runtime whether nobody is an error.
                assert!(all || killed.is_err());
                assert!(alive(pid));
            }
            assert_eq!(shim.delete("old", "").await.unwrap().pid, pid);
            assert!(alive(pid));

            // Nor does what clears away after a shim take the number for the process.
            let dead = shim.bundle("dead", Spec::new("dead", ["sleep", "1000"]));
            fs::write(dead.join("init.pid"), pid.to_string()).unwrap();
            let mut launch = shim.launch.clone();
            (launch.id, launch.bundle) = ("dead".into(), dead.clone());
            let deleted = launch.delete().await.unwrap();
            assert_eq!((deleted.response.pid, &*deleted.warnings), (pid, ""));
            fs::remove_file(dead.join("init.pid")).unwrap();
            assert!(alive(pid));
            assert_eq!(status(&shim, "new", "").await, Status::RUNNING);

            shim.kill("new", "", 9).await.unwrap();
            assert_eq!(shim.wait("new", "").await.unwrap().exit_status, 137);
            let exits = exits_until(&mut shim, "new").await;
            assert_eq!(exits, [("new".to_owned(), pid, 137)]);
            shim.delete("new", "").await.unwrap();
            good_works(&shim).await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// The process that a start has made is over, and another has had its number, or has it now, before the
/// runtime returns: its exit is the first one's, and the other is no business of anybody's.
#[test]
fn by_strangers_while_a_start_is_under_way() {
    if !inside("by_strangers_while_a_start_is_under_way") {
        return;
    }
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            shim.bundle("a", Spec::new("a", ["sleep", "1000"]));
            shim.bundle("b", Spec::new("b", ["sleep", "1000"]));
            next_pid(FIRST);
            let request = faulty.create_request(&shim, "a");
            shim.tasks.create(&request).await.unwrap();
            shim.start_process("a", "").await.unwrap();
            for fault in ["recycled=ended", "recycled=living"] {
                let living = fault == "recycled=living";
                let others = |pid: u32| {
                    assert_eq!(alive(pid), living, "{fault}");
                    if living {
                        crate::common::signal(pid, "KILL");
                    }
                };
                faulty.set("exec", fault);
                for (id, script, status) in [("x", "exit 0", 0), ("y", "exit 7", 7)] {
                    let args = ["sh", "-c", script];
                    let started = shim.exec("a", id, &args);
                    let (pid, ()) = tokio::join!(started, good_works(&shim));
                    let pid = pid.unwrap();
                    assert_eq!(shim.wait("a", id).await.unwrap().exit_status, status);
                    let exits = exits_until(&mut shim, id).await;
                    assert!(exits.contains(&(id.to_owned(), pid, status)), "{exits:?}");
                    assert_eq!(shim.delete("a", id).await.unwrap().exit_status, status);
                    others(pid);
                }
                faulty.clear("exec");

                faulty.set("create", fault);
                let request = faulty.create_request(&shim, "b");
                let pid = shim.tasks.create(&request).await.unwrap().pid;
                assert_eq!(shim.wait("b", "").await.unwrap().exit_status, 137);
                assert!(shim.kill("b", "", 9).await.is_err());
                assert_eq!(shim.delete("b", "").await.unwrap().pid, pid);
                faulty.clear("create");
                others(pid);
                good_works(&shim).await;
            }
            shim.remove("a").await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// Takes all events up to the start of `new`.
async fn exits_until_started(shim: &mut Shim, pid: u32) {
    let is =
        |event: &Event| matches!(event, Event::Start(s) if s.container_id == "new" && s.pid == pid);
    shim.events_until(is).await;
}
