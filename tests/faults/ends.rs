//! Ends that no fault of a runtime reaches: of a shim that is asked to go while others want something of
//! it, and of an init that does not go although it was killed.

use std::path::PathBuf;
use std::time::SystemTime;

use cotter::container::exit_file;
use cotter::error::Code;
use cotter::manager::client::Tasks;
use cotter::manager::events::EventServer;
use cotter::manager::request;
use cotter::manager::spec::Spec;
use cotter::monitor::Exit;

use crate::common::shim::{RUNTIMES, run};
use crate::common::signal;
use crate::gone::delete;
use crate::world::{GOOD, alive, good_works, later, says, until, world};

/// A client waits and stays, and no manager takes the events: each has its limit, the shim ends and says
/// what it has left undone.
#[test]
fn a_shim_goes_whoever_wants_something_of_it() {
    run(async {
        let limits = [
            ("COTTER_LIMIT_ANSWERS", "300ms"),
            ("COTTER_LIMIT_LAST_EVENTS", "300ms"),
        ];
        let (mut shim, _) = world(RUNTIMES[0], &limits).await;
        let path = PathBuf::from(shim.events.address());
        let away = EventServer::listen(&path.with_extension("away")).await;
        std::mem::replace(&mut shim.events, away.unwrap())
            .stop()
            .await;
        shim.exec(GOOD, "x", &["true"]).await.unwrap();
        shim.wait(GOOD, "x").await.unwrap();
        let asked = later(&shim.tasks, |tasks: Tasks| async move {
            tasks.wait(&request::wait(GOOD, "")).await.map(drop)
        });
        // Answered after the Wait before it has arrived.
        shim.tasks.connect_task(&Default::default()).await.unwrap();
        let (pid, init) = (shim.pid(), shim.state(GOOD, "").await.unwrap().pid);
        signal(pid, "TERM");
        until("the shim ends", || !alive(pid)).await;
        asked.await.unwrap().unwrap_err();
        assert!(alive(init));
        let log = shim.log();
        for said in [
            "ended with requests under way",
            // Exec's three.
            "ending with 3 events that no manager took",
        ] {
            assert!(log.iter().any(|line| line.contains(said)), "{log:#?}");
        }
        delete(&shim, GOOD).await;
        until("its init is dead", || !alive(init)).await;
    });
}

/// The runtime says that it has deleted a container and leaves its init: Delete fails at its limit, and
/// succeeds once the init has gone.
#[test]
fn a_killed_init_that_does_not_exit() {
    for runtime in RUNTIMES {
        run(async {
            let limits = [("COTTER_LIMIT_KILLED_EXIT", "300ms")];
            let (mut shim, faulty) = world(runtime, &limits).await;
            shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
            let request = faulty.create_request(&shim, "c");
            let pid = shim.tasks.create(&request).await.unwrap().pid;
            faulty.set("delete", "forgets");
            for _ in 0..2 {
                let error = shim.delete("c", "").await.unwrap_err();
                let why = "its init was killed but did not exit in 300ms";
                says(&error, Code::DeadlineExceeded, &["container c: ", why]);
                assert!(alive(pid));
                good_works(&shim).await;
            }
            signal(pid, "KILL");
            let exit = shim.wait("c", "").await.unwrap();
            let deleted = shim.delete("c", "").await.unwrap();
            assert_eq!((exit.exit_status, deleted.exit_status), (137, 137));
            assert_eq!(deleted.pid, pid);
            // The runtime has forgotten these too.
            for cgroups in shim.owner().cgroups() {
                let _ = std::fs::remove_dir(cgroups.join("c"));
            }
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// A bundle in which a container has ended before is a new container's: how that one ended is forgotten.
#[test]
fn an_exit_before_its_time() {
    run(async {
        let (mut shim, _) = world(RUNTIMES[0], &[]).await;
        let dir = shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
        let exit = Exit {
            pid: 1,
            status: 3,
            at: SystemTime::now(),
        };
        exit_file::write(&dir, exit).unwrap();
        shim.create("c").await.unwrap();
        assert_eq!(exit_file::read(&dir).unwrap(), None);
        shim.start_process("c", "").await.unwrap();
        shim.remove("c").await;
        assert_eq!(exit_file::read(&dir).unwrap().unwrap().status, 137);
        shim.remove(GOOD).await;
        shim.end().await;
    });
}
