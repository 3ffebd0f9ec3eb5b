//! While no manager takes events, the end of an exec that a Wait has told is kept; and when one comes back,
//! what it has taken is not told again.

use cotter::events::journal;
use cotter::manager::client::gone;
use cotter::manager::events::{Event, EventServer, Told};
use cotter::manager::spec::Spec;

use crate::common::shim::{Shim, run};
use crate::common::{LIMIT, signal};
use crate::gone::delete;
use crate::outage::{Absence, absent, back, kept};
use crate::told::{Memory, waiting};
use crate::world::{GOOD, good_works, until, world};

/// A machine that has others to serve is no reason to tell an exit before its record.
const ENVIRONMENT: [(&str, &str); 2] = [
    ("COTTER_LIMIT_RECORD", "60s"),
    ("COTTER_LIMIT_MANAGER_SETTLING", "1ms"),
];
const EXECS: usize = 12;

/// One is called as its container is.
fn name(n: usize) -> String {
    match n {
        0 => "c".to_owned(),
        n => format!("x{n}"),
    }
}

/// Execs in `c` that have all ended at once, and been told by Wait.
async fn ended(shim: &Shim) {
    let mut pids = Vec::new();
    let mut waits = Vec::new();
    for n in 0..EXECS {
        let id = name(n);
        pids.push(shim.exec("c", &id, &["sleep", "1000"]).await.unwrap());
        waits.push(waiting(shim, "c", &id));
    }
    for pid in pids {
        signal(pid, "TERM");
    }
    for wait in waits {
        assert_eq!(wait.await.unwrap().unwrap().exit_status, 143);
    }
}

/// The exits of the execs of `c` among these.
fn exits(told: &[Told]) -> Vec<String> {
    let exit = |told: &Told| match &told.event {
        Event::Exit(exit) if exit.container_id == "c" && exit.exit_status == 143 => {
            Some(exit.id.clone())
        }
        _ => None,
    };
    told.iter().filter_map(exit).collect()
}

fn all() -> Vec<String> {
    let mut all: Vec<String> = (0..EXECS).map(name).collect();
    all.sort();
    all
}

/// What the manager has been told so far.
fn so_far(shim: &mut Shim) -> Vec<Told> {
    std::iter::from_fn(|| shim.events.take()).collect()
}

async fn container(shim: &mut Shim, host_pids: bool) {
    let mut spec = Spec::new("c", ["sleep", "1000"]);
    spec.host_pids = host_pids;
    shim.bundle("c", spec);
}

async fn begun(shim: &mut Shim) {
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    let started = |e: &Event| matches!(e, Event::Start(start) if start.container_id == "c");
    shim.events_until(started).await;
}

async fn end(shim: Shim) {
    for id in ["c", GOOD] {
        for name in ["init.pid", "options.json", "runtime"] {
            let _ = std::fs::remove_file(shim.bundle_path(id).join(name));
        }
    }
    shim.end_of_the_gone().await;
}

#[test]
fn what_wait_told_comes_from_delete() {
    let worlds = [
        ("RUNC", Absence::Away, false, false),
        ("CRUN", Absence::Deaf, true, false),
        ("RUNC", Absence::Deaf, true, true),
        ("CRUN", Absence::Away, false, true),
    ];
    for (runtime, how, host_pids, in_memory) in worlds {
        run(async {
            let (mut shim, _) = world(runtime, &ENVIRONMENT).await;
            container(&mut shim, host_pids).await;
            let memory = in_memory.then(|| Memory::in_place_of(&shim.bundle_path("c")));
            begun(&mut shim).await;
            let (path, deaf) = absent(&mut shim, how).await;
            good_works(&shim).await;
            let good = shim.bundle_path(GOOD);
            until("the outage is known", || kept(&good) == 3).await;
            let server = shim.pid();
            ended(&shim).await;
            signal(server, "KILL");
            gone(&shim.endpoint, LIMIT).await.unwrap();
            back(&mut shim, &path, deaf).await;
            assert_eq!(delete(&shim, "c").await.warnings, "");
            let mut told = exits(&so_far(&mut shim));
            told.sort();
            assert_eq!(told, all(), "{runtime} {how:?} {in_memory}");
            delete(&shim, GOOD).await;
            let probe = |t: &Told| matches!(&t.event, Event::Exit(e) if e.id == "probe" && e.exit_status == 7);
            let good = so_far(&mut shim);
            assert_eq!(good.iter().filter(|told| probe(told)).count(), 1);
            drop(memory);
            end(shim).await;
        });
    }
}

/// Killed as the manager comes back: told twice is at most the one that was on its way.
#[test]
fn what_was_taken_is_not_told_again() {
    let worlds = [
        ("RUNC", Absence::Away, false),
        ("CRUN", Absence::Deaf, true),
        ("RUNC", Absence::Away, true),
    ];
    for (runtime, how, in_memory) in worlds {
        run(async {
            let (mut shim, _) = world(runtime, &ENVIRONMENT).await;
            container(&mut shim, false).await;
            let memory = in_memory.then(|| Memory::in_place_of(&shim.bundle_path("c")));
            begun(&mut shim).await;
            let (path, deaf) = absent(&mut shim, how).await;
            good_works(&shim).await;
            ended(&shim).await;
            let server = shim.pid();
            back(&mut shim, &path, deaf).await;
            let mut taken = Vec::new();
            while exits(&taken).len() < 2 {
                taken.push(shim.events.next_within(LIMIT).await.unwrap());
            }
            signal(server, "KILL");
            gone(&shim.endpoint, LIMIT).await.unwrap();
            let nobody = EventServer::listen(&path.with_extension("away")).await;
            let before = std::mem::replace(&mut shim.events, nobody.unwrap());
            taken.extend(before.stop().await);
            shim.events = EventServer::listen(&path).await.unwrap();

            delete(&shim, GOOD).await;
            assert_eq!(delete(&shim, "c").await.warnings, "");
            let told = so_far(&mut shim);
            let same = |a: &Told, b: &Told| a.event == b.event && a.timestamp == b.timestamp;
            let again = taken.iter().filter(|a| told.iter().any(|b| same(a, b)));
            let again: Vec<&Told> = again.collect();
            assert!(again.len() <= 1, "of {} taken: {again:#?}", taken.len());
            let mut exits = exits(&[taken, told].concat());
            exits.sort();
            exits.dedup();
            assert_eq!(exits, all());
            assert!(!shim.bundle_path("c").join(journal::NAME).exists());
            drop(memory);
            end(shim).await;
        });
    }
}
