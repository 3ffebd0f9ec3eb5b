//! Limits of processes: whoever's fork is refused, it is told at once, of the right limit and with the right
//! number; a failed exec says so; and a limit is there where one was asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use cotter::cgroup::Version;
use cotter::error::Code;
use cotter::manager::dialect::Dialect;
use cotter::manager::events::{Event, Told};
use cotter::manager::spec::Spec;
use cotter::proto::cotter_pids::{PidsLevel, PidsLimit};

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{containers, eventually, unique};
use crate::{cgroup, read};

/// Forks until it is refused, and once more: then there is no room at all.
pub const BOMB: &str = "sh -c 'while :; do sleep 1000 & done'; sleep 1000 & exec sleep 1000";

pub fn limited(id: &str, limit: i64, script: &str) -> Spec {
    let mut spec = Spec::new(id, ["sh", "-c", script]);
    spec.pids_limit = Some(limit);
    spec
}

fn pids_limit(told: Told) -> Option<PidsLimit> {
    assert_eq!(
        told.topic == "/cotter/pids-limit",
        matches!(told.event, Event::PidsLimit(_))
    );
    match told.event {
        Event::PidsLimit(event) => Some(event),
        _ => None,
    }
}

pub async fn next(shim: &mut Shim) -> PidsLimit {
    let told = shim
        .events_until(|e| matches!(e, Event::PidsLimit(_)))
        .await;
    told.into_iter().find_map(pids_limit).unwrap()
}

fn hits(pid: u32) -> u64 {
    hits_in(&read(&cgroup(pid), "pids", "pids.events"))
}

/// Waits until a [`BOMB`] is done, and there is no room.
fn full(pid: u32) {
    eventually("the last fork", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n"
    });
    let file = |file| read(&cgroup(pid), "pids", file);
    assert_eq!(file("pids.current"), file("pids.max"));
}

fn hits_in(text: &str) -> u64 {
    text.trim().strip_prefix("max ").unwrap().parse().unwrap()
}

/// A cgroup that a manager made for a pod.
struct Pod {
    path: String,
    dir: PathBuf,
}

impl Pod {
    fn new(limit: u64) -> Self {
        let path = format!("/{}", unique("cotter-pod"));
        let root = match cgroup(1).version() {
            Version::V1 => PathBuf::from("/sys/fs/cgroup/pids"),
            Version::V2 => {
                let root = PathBuf::from("/sys/fs/cgroup");
                fs::write(root.join("cgroup.subtree_control"), "+pids").unwrap();
                root
            }
        };
        let dir = root.join(&path[1..]);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("pids.max"), limit.to_string()).unwrap();
        Self { path, dir }
    }

    fn container(&self, id: &str, script: &str) -> Spec {
        let mut spec = Spec::new(id, ["sh", "-c", script]);
        spec.cgroups_path = format!("{}/{id}", self.path);
        let sandbox = "io.kubernetes.cri.sandbox-id".to_owned();
        spec.annotations.insert(sandbox, "pod".to_owned());
        spec
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = fs::remove_dir(entry.path().join(&self.path[1..]));
        }
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The first at once, the rest counted, none twice.
#[test]
fn a_fork_bomb_hits_its_containers_limit() {
    for runtime in RUNTIMES {
        run(async {
            let spec = limited("c", 20, BOMB);
            let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            let pid = shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let dir = cgroup(pid).dir("pids").unwrap().to_owned();

            let first = next(&mut shim).await;
            assert_eq!(first.container_id, "c");
            assert_eq!(first.level, PidsLevel::PIDS_LEVEL_CONTAINER.into());
            assert_eq!(Path::new(&first.cgroup), dir);
            assert_eq!((first.limit, first.hits, first.total), (20, 1, 1));
            assert!((19..=20).contains(&first.current), "{first:?}");
            assert!(first.time.seconds > 0);

            full(pid);
            // What runtimes do themselves when there is no room differs; what they were refused counts.
            for n in 0..3 {
                let exec = format!("x{n}");
                let _ = shim.exec("c", &exec, &["sh", "-c", "sleep 1 &"]).await;
                if shim.state("c", &exec).await.unwrap().pid > 0 {
                    shim.wait("c", &exec).await.unwrap();
                }
            }
            let expected = hits(pid);
            assert!(expected > 3, "{expected}");
            let mut told = first.hits;
            loop {
                let event = next(&mut shim).await;
                assert!(event.hits > 0);
                told += event.hits;
                assert_eq!(told, event.total);
                if event.total == expected {
                    break;
                }
                assert!(event.total < expected, "{event:?} {expected}");
            }
            shim.remove("c").await;
            let rest: Vec<_> = shim
                .end()
                .await
                .into_iter()
                .filter_map(pids_limit)
                .collect();
            assert!(rest.is_empty(), "{rest:?}");
        });
    }
}

/// The pod has a limit and the container none: whoever counts it, it is the pod's.
#[test]
fn a_fork_bomb_hits_its_pods_limit() {
    for runtime in RUNTIMES {
        run(async {
            let pod = Pod::new(30);
            let spec = pod.container("c", BOMB);
            let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            shim.bundle("other", pod.container("other", "sleep 1000"));
            for id in ["c", "other"] {
                shim.create(id).await.unwrap();
            }
            for id in ["other", "c"] {
                shim.start_process(id, "").await.unwrap();
            }
            let event = next(&mut shim).await;
            assert_eq!(event.container_id, "c");
            assert_eq!(event.level, PidsLevel::PIDS_LEVEL_POD.into());
            assert_eq!(Path::new(&event.cgroup), pod.dir);
            assert_eq!(event.limit, 30);
            for id in ["c", "other"] {
                shim.remove(id).await;
            }
            shim.end().await;
        });
    }
}

/// A limit that is not the pod's: a level above.
#[test]
fn a_limit_above_without_a_pod_is_a_higher_one() {
    run(async {
        let above = Pod::new(10);
        let mut spec = above.container("c", BOMB);
        spec.annotations.clear();
        let mut shim = Shim::start_as(Dialect::Proto23, "CRUN", spec, "c").await;
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        let event = next(&mut shim).await;
        assert_eq!(event.level, PidsLevel::PIDS_LEVEL_HIGHER.into());
        assert_eq!(Path::new(&event.cgroup), above.dir);
        shim.remove("c").await;
        shim.end().await;
    });
}

/// runc's own process needs threads in the container; crun's needs none.
#[test]
fn an_exec_that_fails_says_why() {
    run(async {
        let spec = limited("c", 20, BOMB);
        let mut shim = Shim::start_as(Dialect::Proto23, "RUNC", spec, "c").await;
        let pid = shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        next(&mut shim).await;
        full(pid);
        // Where runc's own threads are there before it joins, it gets through.
        let mut failed = None;
        for n in 0..200 {
            let exec = format!("x{n}");
            match shim.exec("c", &exec, &["true"]).await {
                Ok(_) => shim.wait("c", &exec).await.map(drop).unwrap(),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let error = failed.expect("no exec of 200 failed");
        let dir = cgroup(pid).dir("pids").unwrap().display().to_string();
        let cause = format!(": container's limit of 20 processes (pids.max of {dir}) was reached");
        assert!(error.message.ends_with(&cause), "{error}");
        assert_eq!(error.message.lines().count(), 1, "{error}");
        // Another reason is told as it is.
        shim.kill("c", "", 9).await.unwrap();
        shim.wait("c", "").await.unwrap();
        let error = shim.exec("c", "y", &["true"]).await.unwrap_err();
        assert!(!error.message.contains("limit of"), "{error}");
        shim.remove("c").await;
        shim.end().await;
    });
}

/// Processes that nobody waits for fill the limit, and are named.
#[test]
fn zombies_are_counted() {
    for runtime in RUNTIMES {
        run(async {
            // `sleep` waits for none of the children that it has from before its exec.
            let script = "for i in 1 2 3 4 5; do true & done; \
                          (sleep 0.3; sh -c 'while :; do sleep 1000 & done') & exec sleep 1000";
            let spec = limited("c", 20, script);
            let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let event = next(&mut shim).await;
            assert!((5..=8).contains(&event.zombies), "{event:?}");
            let log = shim.log().join("\n");
            assert!(
                log.contains("have ended and nobody waits for them"),
                "{log}"
            );
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// By annotation, option and environment; the spec's word stands, and what is above.
#[test]
fn a_limit_where_one_was_asked_for() {
    const ANNOTATION: &str = "io.cotter.pids-limit";
    for runtime in RUNTIMES {
        run(async {
            let pod = Pod::new(100);
            let mut first = Spec::new("env", ["sleep", "1000"]);
            first.pids_limit = None;
            let environment = [("COTTER_PIDS_LIMIT", "auto")];
            let dialect = Dialect::Proto23;
            let mut shim = Shim::start_with(dialect, runtime, first, "env", &environment).await;
            let online = thread::available_parallelism().unwrap().get().max(6) * 1024;
            let auto = online.to_string();
            let mut asked = |id: &str, annotation: Option<&str>, limit: Option<i64>| {
                let mut spec = Spec::new(id, ["sleep", "1000"]);
                spec.pids_limit = limit;
                let annotation = annotation.map(|a| (ANNOTATION.to_owned(), a.to_owned()));
                spec.annotations.extend(annotation);
                shim.bundle(id, spec);
            };
            asked("annotation", Some("17"), None);
            asked("option", None, None);
            asked("both", Some("17"), Some(0));
            asked("spec", Some("17"), Some(9));
            asked("unlimited", Some("17"), Some(-1));
            asked("bad", Some("-17"), None);
            asked("bad-option", None, None);
            let mut capped = pod.container("capped", "sleep 1000");
            capped.annotations.insert(ANNOTATION.into(), "1000".into());
            shim.bundle("capped", capped);
            for (id, option, expected) in [
                ("env", "", &*auto),
                ("annotation", "", "17"),
                ("option", "23", "23"),
                ("both", "23", "17"),
                ("spec", "23", "9"),
                ("unlimited", "23", "max"),
                ("capped", "", "100"),
            ] {
                if (id, runtime) == ("unlimited", "CRUN") {
                    // It fails by itself: it writes -1 to pids.max.
                    continue;
                }
                shim.options.pids_limit = option.to_owned();
                let pid = shim.create(id).await.unwrap();
                assert_eq!(
                    read(&cgroup(pid), "pids", "pids.max").trim(),
                    expected,
                    "{id}"
                );
                shim.start_process(id, "").await.unwrap();
                assert_eq!(
                    read(&cgroup(pid), "pids", "pids.max").trim(),
                    expected,
                    "{id}"
                );
                // The manager's file stays the manager's.
                shim.remove(id).await;
            }
            for (id, option) in [("bad", ""), ("bad-option", "many")] {
                shim.options.pids_limit = option.to_owned();
                let error = shim.create(id).await.unwrap_err();
                assert_eq!(error.code, Code::InvalidArgument, "{error}");
                assert!(
                    error.message.contains("neither \"auto\" nor a number"),
                    "{error}"
                );
                let error = shim.state(id, "").await.unwrap_err();
                assert_eq!(error.code, Code::NotFound, "{error}");
            }
            shim.end().await;
        });
    }
}

/// The cgroup vanishes under us: nobody is told anything, and the container can be deleted.
#[test]
fn a_cgroup_that_is_gone_is_watched_no_more() {
    run(async {
        let mut shim = Shim::start_as(
            Dialect::Proto23,
            "RUNC",
            limited("c", 20, "sleep 1000"),
            "c",
        )
        .await;
        let pid = shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        let dir = cgroup(pid).dir("pids").unwrap().to_owned();
        shim.kill("c", "", 9).await.unwrap();
        shim.wait("c", "").await.unwrap();
        eventually("rmdir", || fs::remove_dir(&dir).is_ok());
        shim.state("c", "").await.unwrap();
        shim.remove("c").await;
        let told = shim.events_until(crate::is_delete).await;
        assert!(told.into_iter().filter_map(pids_limit).next().is_none());
        shim.end().await;
    });
}

/// Fifty containers in one shim, whose limits are hit one after the other. Prints how long it took from the
/// refused fork to our event, as the manager has it.
#[test]
fn fifty_containers_in_one_shim() {
    // On v1, where Linux since 6.11 notifies nobody, each may take a second.
    let count = containers(match cgroup(1).version() {
        Version::V1 => 10,
        Version::V2 => 50,
    });
    run(async {
        let ids: Vec<String> = (0..count).map(|n| format!("c{n}")).collect();
        let spec = limited(&ids[0], 10, BOMB);
        let mut shim = Shim::start_as(Dialect::Proto23, "CRUN", spec, &ids[0]).await;
        let mut files = Vec::new();
        for id in &ids {
            if *id != ids[0] {
                shim.bundle(id, limited(id, 10, BOMB));
            }
            let pid = shim.create(id).await.unwrap();
            files.push(cgroup(pid).dir("pids").unwrap().join("pids.events"));
        }
        let mut took = Vec::new();
        for (id, file) in ids.iter().zip(files) {
            let refused = thread::spawn(move || {
                let end = Instant::now() + Duration::from_secs(60);
                while Instant::now() < end {
                    if hits_in(&fs::read_to_string(&file).unwrap()) > 0 {
                        return Instant::now();
                    }
                    thread::sleep(Duration::from_micros(200));
                }
                panic!("no fork was refused");
            });
            shim.start_process(id, "").await.unwrap();
            let told = shim
                .events_until(|e| matches!(e, Event::PidsLimit(_)))
                .await;
            let told = told.last().unwrap();
            assert_eq!(told.event.container(), id);
            let refused = refused.join().unwrap();
            took.push(told.received.saturating_duration_since(refused));
        }
        took.sort();
        eprintln!(
            "refused fork to event, {count} containers in one shim: p50 {:?} p99 {:?} max {:?}",
            took[count / 2],
            took[count * 99 / 100],
            took[count - 1]
        );
        for id in &ids {
            shim.remove(id).await;
        }
        shim.end().await;
    });
}
