//! The shim is killed while its manager is away or deaf: what it had seen and not told comes from its
//! `delete` action, once, in order, and true.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cotter::events::journal;
use cotter::manager::client::gone;
use cotter::manager::events::{Event, EventServer};
use cotter::manager::launch::Deleted;
use cotter::manager::spec::Spec;
use cotter::proto::task::WaitResponse;

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{LIMIT, signal};
use crate::gone::delete;
use crate::world::{GOOD, until, world};

/// How the manager is absent.
#[derive(Clone, Copy, Debug)]
pub enum Absence {
    /// Nobody has its socket.
    Away,
    /// It accepts connections and never answers.
    Deaf,
}

/// Replaces the events server by an absence; the path it was at, and what keeps the absence up.
pub async fn absent(shim: &mut Shim, how: Absence) -> (PathBuf, Option<UnixListener>) {
    let path = PathBuf::from(shim.events.address());
    let nobody = EventServer::listen(&path.with_extension("away")).await;
    let server = std::mem::replace(&mut shim.events, nobody.unwrap());
    server.stop().await;
    let deaf = match how {
        Absence::Away => None,
        Absence::Deaf => Some(UnixListener::bind(&path).unwrap()),
    };
    (path, deaf)
}

pub fn kept(bundle: &Path) -> usize {
    journal::read(bundle).unwrap().len()
}

/// Brings the events server back for the `delete` action.
pub async fn back(shim: &mut Shim, path: &Path, deaf: Option<UnixListener>) {
    if deaf.is_some() {
        std::fs::remove_file(path).unwrap();
    }
    drop(deaf);
    shim.events = EventServer::listen(path).await.unwrap();
}

fn time(deleted: &Deleted) -> SystemTime {
    deleted.response.exited_at.clone().unwrap().into()
}

fn describe(event: &Event) -> String {
    match event {
        Event::Start(e) => format!("start {}", e.container_id),
        Event::ExecAdded(e) => format!("added {}", e.exec_id),
        Event::ExecStarted(e) => format!("started {}", e.exec_id),
        Event::Exit(e) => format!("exit {} {}", e.id, e.exit_status),
        other => format!("{other:?}"),
    }
}

/// Ends a program that ends at SIGTERM, once it listens.
async fn terminated(shim: &Shim, id: &str) -> WaitResponse {
    let ended = shim.wait(id, "");
    let mut ended = std::pin::pin!(ended);
    loop {
        // It may have ended between two.
        let _ = shim.kill(id, "", 15).await;
        match tokio::time::timeout(Duration::from_millis(100), ended.as_mut()).await {
            Ok(exit) => return exit.unwrap(),
            Err(_) => continue,
        }
    }
}

#[test]
fn what_was_not_told_comes_from_delete() {
    for (runtime, how) in RUNTIMES.iter().zip([Absence::Away, Absence::Deaf]) {
        run(async {
            let (mut shim, _faulty) = world(runtime, &[]).await;
            let program = "trap 'exit 7' TERM; while :; do sleep 0.05; done";
            shim.bundle("c", Spec::new("c", ["sh", "-c", program]));
            shim.create("c").await.unwrap();
            let created = |e: &Event| matches!(e, Event::Create(c) if c.container_id == "c");
            shim.events_until(created).await;

            let (path, deaf) = absent(&mut shim, how).await;
            shim.start_process("c", "").await.unwrap();
            let mut expected = vec!["start c".to_owned()];
            for n in 0..10 {
                let (id, script) = (format!("x{n}"), format!("exit {n}"));
                shim.exec("c", &id, &["sh", "-c", &script]).await.unwrap();
                let exit = shim.wait("c", &id).await.unwrap();
                assert_eq!(exit.exit_status, n);
                let events = [
                    format!("added {id}"),
                    format!("started {id}"),
                    format!("exit {id} {n}"),
                ];
                expected.extend(events);
            }
            let exit = terminated(&shim, "c").await;
            let dir = shim.bundle_path("c");
            // All of it, and the init's exit.
            until("it is all in the bundle", || {
                kept(&dir) == expected.len() + 1
            })
            .await;
            let good = shim.bundle_path(GOOD);
            assert_eq!(kept(&good), 0, "nothing happened to the other");

            signal(shim.pid(), "KILL");
            gone(&shim.endpoint, LIMIT).await.unwrap();
            back(&mut shim, &path, deaf).await;
            let deleted = delete(&shim, "c").await;
            assert_eq!(deleted.warnings, "");
            assert_eq!(deleted.response.exit_status, exit.exit_status);
            assert_eq!(deleted.response.exit_status, 7);
            let at: SystemTime = exit.exited_at.clone().unwrap().into();
            assert_eq!(time(&deleted), at);

            let last = |e: &Event| describe(e) == "exit x9 9";
            let told = shim.events_until(last).await;
            let told: Vec<String> = told.iter().map(|told| describe(&told.event)).collect();
            assert_eq!(told, expected);
            // Told once: the manager may ask again.
            let again = delete(&shim, "c").await;
            assert_eq!(again.response, deleted.response);
            assert_eq!(kept(&dir), 0);
            delete(&shim, GOOD).await;
            for id in [GOOD, "c"] {
                for name in ["init.pid", "options.json", "runtime"] {
                    std::fs::remove_file(shim.bundle_path(id).join(name)).unwrap();
                }
            }
            assert!(shim.end_of_the_gone().await.is_empty());
        });
    }
}

/// Nobody told the shim's exit twice, so the manager that comes back to a living shim has it all from it,
/// and the bundle is as before.
#[test]
fn a_shim_that_lives_tells_it_itself() {
    run(async {
        let (mut shim, _faulty) = world(RUNTIMES[0], &[]).await;
        let (path, deaf) = absent(&mut shim, Absence::Away).await;
        shim.exec(GOOD, "x", &["true"]).await.unwrap();
        shim.wait(GOOD, "x").await.unwrap();
        let dir = shim.bundle_path(GOOD);
        until("it is kept", || kept(&dir) == 3).await;
        let file = dir.join(journal::NAME);
        // The manager may run the action at any time.
        assert_eq!(delete_beside(&mut shim).await.warnings, "");
        assert_eq!(kept(&dir), 3);
        back(&mut shim, &path, deaf).await;
        let last = |e: &Event| describe(e) == "exit x 0";
        let told = shim.events_until(last).await;
        let told: Vec<String> = told.iter().map(|told| describe(&told.event)).collect();
        assert_eq!(told, ["added x", "started x", "exit x 0"]);
        until("it is kept no longer", || !file.exists()).await;
        shim.remove(GOOD).await;
        shim.end().await;
    });
}

/// `delete` for a container that the shim does not have, in whose bundle somebody has put what the shim
/// keeps for its own: a living shim's is not touched.
async fn delete_beside(shim: &mut Shim) -> Deleted {
    let good = shim.bundle_path(GOOD);
    let other = shim.bundle("other", Spec::new("other", ["true"]));
    for name in ["address", "bootstrap.json", journal::NAME] {
        // The dialect decides which of the first two there is.
        if good.join(name).exists() {
            std::fs::copy(good.join(name), other.join(name)).unwrap();
        }
    }
    let deleted = delete(shim, "other").await;
    assert!(other.join(journal::NAME).exists());
    std::fs::remove_file(other.join(journal::NAME)).unwrap();
    deleted
}
