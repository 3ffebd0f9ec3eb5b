//! A process on the machine that holds up whoever reads its arguments, environment or memory map
//! ([`crate::held_up`]). It is nobody's business here.

use cotter::manager::client::{Tasks, gone};

use crate::common::shim::{RUNTIMES, run};
use crate::common::{LIMIT, signal};
use crate::gone::{delete, nothing_left};
use crate::held_up::{FILE, Locked, held};
use crate::world::{alive, bundle, later, until, world};

/// Not a test but the process that is held, when it is asked to be.
#[test]
fn the_held_process() {
    if let Some(file) = std::env::var_os(FILE) {
        held(&file);
    }
}

/// `delete` of a container whose shim died in the middle of a call: it has to find that call.
#[test]
fn holds_up_no_delete() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            let good = shim.state(crate::world::GOOD, "").await.unwrap().pid;
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
            let call = shim.owner().processes().into_iter();
            let call = call.filter(|process| process.argv.contains(&script));
            let call: Vec<u32> = call.map(|process| process.pid).collect();
            assert_eq!(call.len(), 1);

            let locked = Locked::new(&["--exact", "locked::the_held_process", "--nocapture"]);
            let reader = locked.reader();
            // Within the time that managers give it.
            let deleted = delete(&shim, "c").await;
            assert!(!reader.is_finished(), "its reader waits");
            assert!(alive(good));
            let left = alive(call[0]);
            drop(locked);
            reader.join().unwrap();
            assert_eq!((deleted.warnings.as_str(), left), ("", false));
            assert_eq!(delete(&shim, crate::world::GOOD).await.warnings, "");
            until("its init is dead", || !alive(good)).await;
            nothing_left(&shim).await;
        });
    }
}
