//! The sandbox's `delete` after the death of the pod's shim: the manager runs it for no other container of
//! the pod.

use std::fs;

use cotter::manager::client::gone;
use cotter::manager::events::Event;
use cotter::manager::launch::Launch;
use cotter::proto::task::CreateTaskRequest;
use cotter::proto::types::Mount;

use crate::common::LIMIT;
use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::common::{signal, tool, write_program};
use crate::group::{member, pod};

/// Adds a running container with a rootfs that the shim has mounted, noted as a member of `sandbox` as
/// containerd notes it; its pid.
async fn add(shim: &mut Shim, id: &str, sandbox: &str) -> u32 {
    let mut spec = member(id, sandbox);
    let rootfs = shim.dir().join(id).join("rootfs");
    spec.rootfs = rootfs.to_string_lossy().into_owned();
    let bundle = shim.bundle(id, spec);
    fs::write(bundle.join("sandbox"), sandbox).unwrap();
    let request = CreateTaskRequest {
        rootfs: vec![Mount {
            type_: "bind".into(),
            source: tool("ROOTFS").to_string_lossy().into_owned(),
            options: vec!["rbind".into(), "ro".into()],
            ..Default::default()
        }],
        ..shim.create_request(id)
    };
    shim.tasks.create(&request).await.unwrap();
    shim.start_process(id, "").await.unwrap()
}

fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn mounted(shim: &Shim, id: &str) -> bool {
    let rootfs = shim.bundle_path(id).join("rootfs");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.contains(&*rootfs.to_string_lossy())
}

/// `delete` for another container than the one the shim was started for.
async fn delete(shim: &Shim, id: &str) -> String {
    let launch = Launch {
        id: id.into(),
        bundle: shim.bundle_path(id),
        ..shim.launch.clone()
    };
    launch.delete().await.unwrap().warnings
}

/// The end of a test whose shim was killed: what the shim noted in the bundles is for its manager to remove.
async fn end(shim: Shim, ids: &[&str]) {
    for id in ids {
        for name in ["init.pid", "options.json", "runtime"] {
            fs::remove_file(shim.bundle_path(id).join(name)).unwrap();
        }
    }
    shim.end_of_the_gone().await;
}

#[test]
fn are_cleared_away_and_told_of() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = pod(runtime, &[]).await;
            let one = add(&mut shim, "one", "pause").await;
            let two = add(&mut shim, "two", "pause").await;
            let foreign = add(&mut shim, "foreign", "elsewhere").await;
            let started = |e: &Event| matches!(e, Event::Start(s) if s.container_id == "foreign");
            shim.events_until(started).await;
            signal(shim.pid(), "KILL");
            gone(&shim.endpoint, LIMIT).await.unwrap();
            // As a manager of before 2.0 runs it: for each container by itself.
            assert_eq!(delete(&shim, "two").await, "");
            assert!(alive(one) && !alive(two) && alive(foreign));

            assert_eq!(delete(&shim, "pause").await, "");
            until("its processes are gone", || !alive(one)).await;
            assert!(!mounted(&shim, "one"));
            assert!(alive(foreign) && mounted(&shim, "foreign"));
            let told = shim
                .events_until(|e| matches!(e, Event::Delete(d) if d.container_id == "two"))
                .await;
            let told: Vec<_> = told
                .into_iter()
                .map(|told| match told.event {
                    Event::Exit(e) => (told.topic, e.container_id, e.pid, e.exit_status),
                    Event::Delete(d) => (told.topic, d.container_id, d.pid, d.exit_status),
                    other => panic!("{other:?}"),
                })
                .collect();
            let expected = |id: &str, pid| {
                ["/tasks/exit", "/tasks/delete"].map(|topic| (topic.into(), id.into(), pid, 137))
            };
            assert_eq!(told, [expected("one", one), expected("two", two)].concat());

            assert_eq!(delete(&shim, "foreign").await, "");
            assert!(!alive(foreign));
            end(shim, &["pause", "one", "two", "foreign"]).await;
        });
    }
}

/// A runtime that hangs for each of them: the answer comes while the manager waits for it, and of each that
/// is left its processes are dead, its rootfs is gone and its end is told.
#[test]
fn share_the_time_that_there_is() {
    run(async {
        let ids = ["pause", "one", "three", "two"];
        let mut shim = pod("RUNC", &[]).await;
        let mut pids = Vec::new();
        for id in &ids[1..] {
            pids.push(add(&mut shim, id, "pause").await);
        }
        let started = |e: &Event| matches!(e, Event::Start(s) if s.container_id == "two");
        shim.events_until(started).await;
        signal(shim.pid(), "KILL");
        gone(&shim.endpoint, LIMIT).await.unwrap();
        let hangs = shim.dir().join("hangs");
        write_program(&hangs, "#!/bin/sh\nexec sleep 1000\n");
        let noted = ids.map(|id| shim.bundle_path(id).join("runtime"));
        let runtime = fs::read_to_string(&noted[0]).unwrap();
        for note in &noted {
            fs::write(note, hangs.to_str().unwrap()).unwrap();
        }

        let warnings = delete(&shim, "pause").await;
        let lines: Vec<&str> = warnings.lines().collect();
        assert_eq!(lines.len(), ids.len(), "{warnings}");
        for (line, id) in lines.iter().zip(ids) {
            let told = format!("{} delete --force {id} hangs since 2", hangs.display());
            assert!(line.starts_with(&told), "{line}");
        }
        until("its processes are gone", || {
            !pids.iter().any(|pid| alive(*pid))
        })
        .await;
        let last = |e: &Event| matches!(e, Event::Delete(d) if d.container_id == "two");
        let told = shim.events_until(last).await;
        let told: Vec<_> = told
            .iter()
            .map(|told| (told.topic.as_str(), told.event.container()))
            .collect();
        let expected = ids[1..].iter();
        let expected = expected.flat_map(|id| [("/tasks/exit", *id), ("/tasks/delete", *id)]);
        assert_eq!(told, expected.collect::<Vec<_>>());
        for id in &ids[1..] {
            assert!(!mounted(&shim, id), "{id}");
        }

        for note in &noted {
            fs::write(note, &runtime).unwrap();
        }
        for id in ids {
            assert_eq!(delete(&shim, id).await, "", "{id}");
        }
        end(shim, &ids).await;
    });
}

/// The sandbox is deleted first, as in every orderly end of a pod: the others live on in the shim.
#[test]
fn are_spared_while_the_shim_lives() {
    run(async {
        let mut shim = pod("RUNC", &[]).await;
        let one = add(&mut shim, "one", "pause").await;
        shim.remove("pause").await;
        assert_eq!(delete(&shim, "pause").await, "");
        assert!(alive(one) && mounted(&shim, "one"));
        shim.exec("one", "x", &["true"]).await.unwrap();
        assert_eq!(shim.wait("one", "x").await.unwrap().exit_status, 0);
        shim.remove("one").await;
        shim.end().await;
    });
}

/// What only looks like one is left alone: a link to a bundle elsewhere, a note that is a link or a
/// directory or far too long.
#[test]
fn are_not_what_only_looks_like_it() {
    run(async {
        let mut shim = pod("RUNC", &[]).await;
        let one = add(&mut shim, "one", "pause").await;
        let note = shim.bundle_path("one").join("sandbox");
        let elsewhere = shim.dir().join("note");
        signal(shim.pid(), "KILL");
        gone(&shim.endpoint, LIMIT).await.unwrap();

        fs::rename(&note, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &note).unwrap();
        assert_eq!(delete(&shim, "pause").await, "");
        assert!(alive(one));
        fs::remove_file(&note).unwrap();
        fs::create_dir(&note).unwrap();
        assert_eq!(delete(&shim, "pause").await, "");
        assert!(alive(one));
        fs::remove_dir(&note).unwrap();
        fs::write(&note, "pause".repeat(1000)).unwrap();
        assert_eq!(delete(&shim, "pause").await, "");
        assert!(alive(one));

        fs::remove_file(&elsewhere).unwrap();
        fs::remove_file(&note).unwrap();
        assert_eq!(delete(&shim, "one").await, "");
        assert!(!alive(one));
        end(shim, &["pause", "one"]).await;
    });
}
