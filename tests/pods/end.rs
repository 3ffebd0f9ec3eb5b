//! When a shim ends without being told, and when it does not.

use std::time::Duration;

use cotter::error::Code;
use cotter::manager::client::Tasks;
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::proto::task::ShutdownRequest;

use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::group::{member, pod, shims};

const SOON: &str = "200ms";
const NEVER: &str = "20m";

/// Long against [`SOON`]: what has not ended by then does not.
async fn long_after() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

async fn shutdown(shim: &Shim) {
    let request = ShutdownRequest {
        id: shim.launch.id.clone(),
        ..Default::default()
    };
    shim.tasks.shutdown(&request).await.unwrap();
}

/// It has gone by itself, and left nothing.
async fn has_gone(shim: Shim) {
    // Looked at from outside: a connection would keep it.
    until("the shim has ended", || shims(&shim) == 0).await;
    assert!(!shim.endpoint.socket().exists());
    shim.end_of_the_gone().await;
}

/// The pod's first container is deleted before the others, as containerd 2 does it: its Shutdown is the
/// only one there will be.
#[test]
fn a_shutdown_that_comes_too_early_is_remembered() {
    for runtime in RUNTIMES {
        run(async {
            let environment = [("COTTER_LIMIT_LEAVE", SOON), ("COTTER_LIMIT_ORPHAN", NEVER)];
            let mut shim = pod(runtime, &environment).await;
            for id in ["one", "two"] {
                shim.bundle(id, member(id, "pause"));
                shim.create(id).await.unwrap();
                shim.start_process(id, "").await.unwrap();
            }
            shim.remove("pause").await;
            shutdown(&shim).await;
            shim.remove("one").await;
            // It does not count while there are containers, however long that is.
            long_after().await;
            shim.exec("two", "x", &["true"]).await.unwrap();
            assert_eq!(shim.wait("two", "x").await.unwrap().exit_status, 0);
            shim.remove("two").await;
            has_gone(shim).await;
        });
    }
}

/// A container that comes after it is served like any other, and the shim ends after that one.
#[test]
fn a_container_after_an_early_shutdown_is_served() {
    run(async {
        let environment = [("COTTER_LIMIT_LEAVE", "2s"), ("COTTER_LIMIT_ORPHAN", NEVER)];
        let mut shim = pod("RUNC", &environment).await;
        shutdown(&shim).await;
        shim.bundle("late", member("late", "pause"));
        shim.create("late").await.unwrap();
        shim.start_process("late", "").await.unwrap();
        shim.remove("pause").await;
        shim.exec("late", "x", &["true"]).await.unwrap();
        assert_eq!(shim.wait("late", "x").await.unwrap().exit_status, 0);
        shim.remove("late").await;
        has_gone(shim).await;
    });
}

/// After a Shutdown without containers nothing is begun any more.
#[test]
fn a_create_after_the_last_shutdown_is_refused() {
    run(async {
        let shim = pod("RUNC", &[]).await;
        shim.remove("pause").await;
        let again = shim.create_request("pause");
        let request = ShutdownRequest {
            id: "pause".into(),
            ..Default::default()
        };
        // On one connection, so that both are there before the server goes down.
        let (asked, created) =
            tokio::join!(shim.tasks.shutdown(&request), shim.tasks.create(&again));
        let _ = asked;
        if let Err(refused) = created {
            assert_eq!(refused.code, Code::Unavailable, "{refused}");
        } else {
            // It came first, so the Shutdown was too early.
            shim.remove("pause").await;
        }
        has_gone(shim).await;
    });
}

/// The manager dies between `start` and its first Create.
#[test]
fn without_containers_and_connections() {
    run(async {
        let environment = [("COTTER_LIMIT_ORPHAN", SOON)];
        let spec = Spec::new("c", ["true"]);
        let mut shim = Shim::start_with(Dialect::Proto23, "RUNC", spec, "c", &environment).await;
        // Connected, it is not alone.
        long_after().await;
        shim.disconnect();
        has_gone(shim).await;
    });
}

/// All tasks deleted, the connection gone, the Shutdown lost with it.
#[test]
fn after_a_shutdown_that_was_lost() {
    run(async {
        let mut shim = pod("CRUN", &[("COTTER_LIMIT_ORPHAN", SOON)]).await;
        shim.remove("pause").await;
        shim.disconnect();
        has_gone(shim).await;
    });
}

/// With a container it waits for a manager for ever.
#[test]
fn not_with_a_container() {
    run(async {
        let mut shim = pod("RUNC", &[("COTTER_LIMIT_ORPHAN", SOON)]).await;
        shim.disconnect();
        long_after().await;
        shim.tasks = Tasks::connect(&shim.endpoint).await.unwrap();
        shim.exec("pause", "x", &["true"]).await.unwrap();
        assert_eq!(shim.wait("pause", "x").await.unwrap().exit_status, 0);
        shim.remove("pause").await;
        shim.end().await;
    });
}
