//! One shim for a pod: by the old way, where `start` is run for every container, and by the new, where a
//! manager only connects once more.

use std::fs;

use cotter::manager::client::{Tasks, gone};
use cotter::manager::dialect::{Dialect, Endpoint};
use cotter::manager::events::Event;
use cotter::manager::launch::Launch;
use cotter::manager::spec::Spec;
use cotter::proto::task::{DeleteRequest, KillRequest, StartRequest, WaitRequest};

use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::common::{LIMIT, signal};

/// A spec whose container belongs to the pod of `sandbox`.
pub fn member(id: &str, sandbox: &str) -> Spec {
    let mut spec = Spec::new(id, ["sleep", "1000"]);
    let key = "io.kubernetes.cri.sandbox-id".to_owned();
    spec.annotations.insert(key, sandbox.to_owned());
    spec
}

/// A pod's shim with its first container running.
pub async fn pod(runtime: &str, environment: &[(&str, &str)]) -> Shim {
    let spec = member("pause", "pause");
    let shim = Shim::start_with(Dialect::Proto23, runtime, spec, "pause", environment).await;
    shim.create("pause").await.unwrap();
    shim.start_process("pause", "").await.unwrap();
    shim
}

/// `start` for another container of the pod, as managers before 2.0 run it.
async fn start_again(shim: &Shim, id: &str, dialect: Dialect) -> Endpoint {
    let launch = Launch {
        id: id.into(),
        bundle: shim.bundle_path(id),
        dialect,
        ..shim.launch.clone()
    };
    launch.start().await.unwrap()
}

/// Kill, Wait and Delete over a connection of the container's own.
async fn remove(tasks: &Tasks, id: &str) {
    let id = || id.to_owned();
    let kill = KillRequest {
        id: id(),
        signal: 9,
        ..Default::default()
    };
    tasks.kill(&kill).await.unwrap();
    let wait = WaitRequest {
        id: id(),
        ..Default::default()
    };
    assert_eq!(tasks.wait(&wait).await.unwrap().exit_status, 137);
    let delete = DeleteRequest {
        id: id(),
        ..Default::default()
    };
    tasks.delete(&delete).await.unwrap();
}

/// Three containers over three connections, found in each of the old and the new ways, and deleted in
/// another order than they were made in.
async fn three(runtime: &'static str, order: [&'static str; 3]) {
    let mut shim = pod(runtime, &[]).await;
    let mut connections = vec![("pause", shim.tasks.clone())];
    for (id, dialect) in [("one", None), ("two", Some(Dialect::Json17))] {
        shim.bundle(id, member(id, "pause"));
        let endpoint = match dialect {
            Some(dialect) => start_again(&shim, id, dialect).await,
            None => shim.endpoint.clone(),
        };
        assert_eq!(endpoint.address, shim.endpoint.address);
        let tasks = Tasks::connect(&endpoint).await.unwrap();
        tasks.create(&shim.create_request(id)).await.unwrap();
        let start = StartRequest {
            id: id.into(),
            ..Default::default()
        };
        tasks.start(&start).await.unwrap();
        connections.push((id, tasks));
    }
    assert_eq!(shims(&shim), 1);

    // A client that goes away disturbs no other.
    let gone = connections.iter().position(|(id, _)| *id == order[0]);
    let (_, last) = connections.remove(gone.unwrap());
    let abandoned = tokio::spawn(async move {
        let wait = WaitRequest {
            id: "two".into(),
            ..Default::default()
        };
        last.wait(&wait).await
    });
    shim.exec(order[1], "x", &["true"]).await.unwrap();
    assert_eq!(shim.wait(order[1], "x").await.unwrap().exit_status, 0);
    abandoned.abort();

    let other = Tasks::connect(&shim.endpoint).await.unwrap();
    for id in order {
        let own = connections.iter().find(|(of, _)| *of == id);
        remove(own.map_or(&other, |(_, tasks)| tasks), id).await;
    }
    let all_gone = |e: &Event| matches!(e, Event::Delete(d) if d.container_id == order[2]);
    let told = shim.events_until(all_gone).await;
    let exits = told.iter().filter_map(|told| match &told.event {
        Event::Exit(exit) if exit.id == exit.container_id => Some(exit.id.as_str()),
        _ => None,
    });
    assert_eq!(exits.collect::<Vec<_>>(), order);
    drop((connections, other));
    shim.end().await;
}

/// Serving processes of this pod.
pub fn shims(shim: &Shim) -> usize {
    let name = shim.launch.shim.to_string_lossy().into_owned();
    let all = shim.processes();
    all.iter().filter(|p| p.argv.starts_with(&name)).count()
}

#[test]
fn three_containers_end_in_any_order() {
    for runtime in RUNTIMES {
        for order in [
            ["pause", "one", "two"],
            ["two", "pause", "one"],
            ["one", "two", "pause"],
        ] {
            run(three(runtime, order));
        }
    }
}

/// The first container of a group may be deleted long before the others: nothing of the shim stays in
/// its bundle.
#[test]
fn the_first_bundle_is_free_once_its_container_is() {
    run(async {
        let mut shim = pod("RUNC", &[]).await;
        shim.bundle("app", member("app", "pause"));
        shim.create("app").await.unwrap();
        shim.start_process("app", "").await.unwrap();
        shim.remove("pause").await;
        let first = shim.bundle_path("pause");
        let shim_pid = shim.pid();
        let holds = |name: &str| {
            let links = fs::read_dir(format!("/proc/{shim_pid}/{name}"));
            let to = links
                .unwrap()
                .flatten()
                .filter_map(|l| fs::read_link(l.path()).ok());
            to.filter(|to| to.starts_with(&first)).collect::<Vec<_>>()
        };
        // The log FIFO is the only way to be heard, and its manager removes it when it wants.
        assert_eq!(holds("fd"), [first.join("log")]);
        let cwd = fs::read_link(format!("/proc/{shim_pid}/cwd")).unwrap();
        assert!(!cwd.starts_with(&first), "{}", cwd.display());
        shim.remove("app").await;
        until("only the shim is left", || shims(&shim) == 1).await;
        shim.end().await;
    });
}

/// Either annotation names a group, containerd's own before the CRI's, whatever its text, but for what would lead to another
/// namespace's (tests/bootstrap/trust.rs). Its socket is not
/// named after a container, and goes with the shim all the same, also with one that was killed.
#[test]
fn a_group_has_any_name() {
    let long = "g".repeat(5000);
    for name in ["web", "..x..", "a b\"ä%2f", &long] {
        for killed in [false, true] {
            run(async {
                let of = |id: &str| {
                    let mut spec = member(id, &format!("sandbox-of-{id}"));
                    let key = "io.containerd.runc.v2.group".to_owned();
                    spec.annotations.insert(key, name.to_owned());
                    spec
                };
                let mut shim = Shim::start_as(Dialect::Json17, "RUNC", of("one"), "one").await;
                let socket = shim.endpoint.socket().to_owned();
                shim.bundle("two", of("two"));
                let endpoint = start_again(&shim, "two", Dialect::Json17).await;
                assert_eq!(endpoint.address, shim.endpoint.address, "{name:?}");
                assert_eq!(shims(&shim), 1);
                for id in ["one", "two"] {
                    shim.create(id).await.unwrap();
                    shim.start_process(id, "").await.unwrap();
                }
                assert!(socket.exists());
                if !killed {
                    shim.remove("one").await;
                    shim.remove("two").await;
                    shim.end().await;
                    assert!(!socket.exists(), "{name:?}");
                    return;
                }
                signal(shim.pid(), "KILL");
                gone(&shim.endpoint, LIMIT).await.unwrap();
                assert!(socket.exists());
                for id in ["one", "two"] {
                    let launch = Launch {
                        id: id.into(),
                        bundle: shim.bundle_path(id),
                        ..shim.launch.clone()
                    };
                    assert_eq!(launch.delete().await.unwrap().warnings, "");
                }
                assert!(!socket.exists(), "{name:?}");
                for id in ["one", "two"] {
                    for file in ["init.pid", "options.json", "runtime"] {
                        fs::remove_file(shim.bundle_path(id).join(file)).unwrap();
                    }
                }
                shim.end_of_the_gone().await;
            });
        }
    }
}
