//! While things hang: a runtime, a client that has left, a dead manager, a full log.

use cotter::manager::dialect::Dialect;
use cotter::manager::events::EventServer;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;
use cotter::proto::task::{CreateTaskRequest, StartRequest};
use serde_json::Value;

use crate::common::logger::{Logger, READS_LATE};
use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::common::signal;
use crate::disk::Disk;
use crate::runtime::Faulty;
use crate::{ask, file, row, rows, state, taken, tidy};

/// A program may be at work before the thread that started it has been let go on to say so.
async fn known(shim: &Shim, what: &str) {
    while !rows(&state(shim).await, "children")
        .iter()
        .any(|child| child["what"] == what)
    {
        tokio::task::yield_now().await;
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, looked at as it goes on")]
fn a_runtime_that_hangs_is_named_with_its_age() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "good", &["sleep", "1000"]).await;
            let faulty = Faulty::new(&shim, "a");
            shim.create("good").await.unwrap();
            shim.bundle("bad", Spec::new("bad", ["sleep", "1000"]));
            let request = faulty.create_request(&shim, "bad");
            shim.tasks.create(&request).await.unwrap();
            faulty.set("start", "slow-before");
            let start = {
                let (tasks, request) = (shim.tasks.clone(), Default::default());
                let request = StartRequest {
                    id: "bad".into(),
                    ..request
                };
                tokio::spawn(async move { tasks.start(&request).await })
            };
            faulty.arrived("start").await;
            known(&shim, "runtime start bad").await;

            let seen = ask(&shim.endpoint, false).await;
            let call = row(&seen, "requests", &[("method", "start")]);
            assert_eq!(
                (&call["container"], &call["client_gone"]),
                (&"bad".into(), &false.into())
            );
            let child = row(&seen, "children", &[("what", "runtime start bad")]);
            let pid = child["pid"].as_u64().unwrap();
            let pid = u32::try_from(pid).unwrap();
            let argv = crate::common::peek::argv(pid).unwrap().join(" ");
            assert!(argv.contains(" start bad"), "{argv}");
            assert!(
                // It says that it is there just before it waits.
                child["kernel"]
                    .as_str()
                    .is_some_and(|state| state.starts_with(['S', 'R'])),
                "{child}"
            );
            let init = row(&seen, "processes", &[("container", "bad")]);
            assert_eq!(
                (&init["state"], &init["busy_with"]),
                (&"created".into(), &"start".into())
            );
            let start_of = row(&seen, "awaited", &[("what", "start")]);
            assert_eq!(start_of["container"], "bad");
            assert_eq!(seen.section("lifecycle").unwrap()["starts"], 1);
            // It gets older.
            let age = |dump: &cotter::dump::Dump| {
                row(dump, "children", &[("what", "runtime start bad")])["age_ms"].as_u64()
            };
            let mut later = state(&shim).await;
            while age(&later) <= age(&seen) {
                later = state(&shim).await;
            }

            // The client leaves; its work is still there to be seen, by the signal too.
            let bundle = shim.bundle_path("good");
            until("the first file", || taken(&bundle).is_some()).await;
            let first = taken(&bundle);
            start.abort();
            let endpoint = shim.endpoint.clone();
            shim.disconnect();
            let mut seen = ask(&endpoint, true).await;
            while row(&seen, "requests", &[("method", "start")])["client_gone"] != true {
                tokio::task::yield_now().await;
                seen = ask(&endpoint, true).await;
            }
            signal(shim.pid(), "USR1");
            until("a newer file", || taken(&bundle) > first).await;
            let seen = file(&bundle).unwrap();
            row(&seen, "children", &[("what", "runtime start bad")]);
            row(&seen, "requests", &[("method", "start")]);

            faulty.release("slow-before");
            let mut seen = ask(&endpoint, true).await;
            while !rows(&seen, "requests").is_empty() {
                tokio::task::yield_now().await;
                seen = ask(&endpoint, true).await;
            }
            assert_eq!(rows(&seen, "children").len(), 0);
            let bad = row(&seen, "containers", &[("id", "bad")]);
            assert_eq!(bad["state"], "running", "the work came to its end");
            shim.tasks = cotter::manager::client::Tasks::connect(&endpoint)
                .await
                .unwrap();
            tidy(&endpoint, bundle).await;
            shim.remove("bad").await;
            shim.remove("good").await;
            shim.end().await;
        });
    }
}

#[test]
fn a_create_that_hangs_is_a_container_in_the_making() {
    run(async {
        let mut shim = Shim::start(RUNTIMES[1], "good", &["sleep", "1000"]).await;
        let faulty = Faulty::new(&shim, "a");
        shim.bundle("bad", Spec::new("bad", ["sleep", "1000"]));
        let request = faulty.create_request(&shim, "bad");
        faulty.set("create", "slow-before");
        let tasks = shim.tasks.clone();
        let create = tokio::spawn(async move { tasks.create(&request).await });
        faulty.arrived("create").await;
        known(&shim, "runtime create bad").await;
        let seen = state(&shim).await;
        let bad = row(&seen, "containers", &[("id", "bad")]);
        assert_eq!(
            (&bad["state"], &bad["pid"]),
            (&"creating".into(), &serde_json::Value::Null)
        );
        row(&seen, "awaited", &[("what", "create")]);
        row(&seen, "children", &[("what", "runtime create bad")]);
        faulty.release("slow-before");
        create.await.unwrap().unwrap();
        shim.remove("bad").await;
        shim.end().await;
    });
}

#[test]
fn work_on_a_dead_disk_is_named_for_as_long_as_it_hangs() {
    run(async {
        let limits = [("COTTER_LIMIT_DISK", "300ms")];
        let first = Spec::new("good", ["sleep", "1000"]);
        let dialect = Dialect::Proto23;
        let mut shim = Shim::start_with(dialect, RUNTIMES[1], first, "good", &limits).await;
        shim.create("good").await.unwrap();
        let disk = Disk::new();
        let log = disk.path().join("log");
        shim.bundle("bad", Spec::new("bad", ["sleep", "1000"]));
        let request = CreateTaskRequest {
            stdout: format!("file://{}", log.display()),
            ..shim.create_request("bad")
        };
        disk.dies();
        shim.tasks.create(&request).await.unwrap_err();
        let hanging = "work that hangs";
        let log = log.display();
        let what = format!("open stdout {log}, stderr {log}");
        let mut seen = state(&shim).await;
        let hung = row(&seen, hanging, &[("what", &what)]);
        assert!(hung["since"].as_str().unwrap().starts_with('2'), "{hung}");
        disk.is_back();
        while !rows(&seen, hanging).is_empty() {
            tokio::task::yield_now().await;
            seen = state(&shim).await;
        }
        shim.remove("good").await;
        shim.end().await;
    });
}

#[test]
fn the_events_of_a_dead_manager_are_counted() {
    run(async {
        let mut shim = Shim::start(RUNTIMES[1], "c", &["sleep", "1000"]).await;
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        let path = std::path::PathBuf::from(shim.events.address());
        let path = path.strip_prefix("unix://").map(Into::into).unwrap_or(path);
        let nobody = EventServer::listen(&path.with_extension("away")).await;
        std::mem::replace(&mut shim.events, nobody.unwrap())
            .stop()
            .await;
        for n in 0..5 {
            let exec = format!("x{n}");
            shim.exec("c", &exec, &["true"]).await.unwrap();
            shim.wait("c", &exec).await.unwrap();
            shim.delete("c", &exec).await.unwrap();
        }
        let mut seen = state(&shim).await;
        let tries = |dump: &cotter::dump::Dump| {
            dump.section("publisher").unwrap()["failures"]
                .as_u64()
                .unwrap()
        };
        while tries(&seen) < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            seen = state(&shim).await;
        }
        let queue = seen.section("queue").unwrap();
        // At least added, started and exited of each.
        assert!(queue["events"].as_u64().unwrap() >= 15, "{queue}");
        assert_eq!(
            (&queue["dropped"], &queue["head_container"]),
            (&0.into(), &"c".into())
        );
        assert!(queue["size_bytes"].as_u64().unwrap() > 15 * 100, "{queue}");
        assert!(queue["head_age_ms"].as_u64().is_some());
        let publisher = seen.section("publisher").unwrap();
        assert_eq!(publisher["connected"], false);
        let why = publisher["last_error"].as_str().unwrap();
        assert!(why.contains("events.sock"), "{why}");

        shim.events = EventServer::listen(&path).await.unwrap();
        shim.remove("c").await;
        shim.end().await;
    });
}

#[test]
fn output_that_nobody_reads_is_shown_where_it_waits() {
    run(async {
        let shim = Shim::start(RUNTIMES[1], "c", &["cat", "/dev/zero"]).await;
        let fifos = shim.fifos("c", false);
        shim.create_with("c", &fifos).await.unwrap();
        shim.start_process("c", "").await.unwrap();
        let stdout = |dump: &cotter::dump::Dump| {
            row(dump, "streams", &[("container", "c"), ("stream", "stdout")]).clone()
        };
        let mut seen = stdout(&state(&shim).await);
        while seen["buffered_bytes"] == 0 {
            tokio::task::yield_now().await;
            seen = stdout(&state(&shim).await);
        }
        let waits = seen["waits_for"].as_str().unwrap();
        assert!(waits.starts_with("a reader to come back"), "{seen}");
        assert!(seen["unread_bytes"].as_u64().unwrap() >= 64 << 10, "{seen}");
        assert!(seen["stuck_ms"].is_u64(), "{seen}");
        shim.remove("c").await;
        shim.end().await;
    });
}

/// The shim has no part in such a pipe: what is told is what each look finds.
#[test]
fn a_logger_that_does_not_read_is_shown_with_what_waits_for_it() {
    for runtime in RUNTIMES {
        run(async {
            let script = "head -c 200000 /dev/zero; exec sleep 1000";
            let shim = Shim::start(runtime, "c", &["sh", "-c", script]).await;
            let logger = Logger::new(&shim, "l", READS_LATE);
            let uri = logger.uri("binary");
            let streams = Fifos {
                stdin: String::new(),
                stdout: uri.clone(),
                stderr: uri,
            };
            shim.create_with("c", &streams).await.unwrap();
            let stream = |dump: &cotter::dump::Dump, name: &str| {
                row(dump, "streams", &[("stream", name)]).clone()
            };
            let seen = stream(&state(&shim).await, "stdout by logger");
            assert_eq!(seen["waits_for"], "the logging program");
            assert_eq!(
                (&seen["unread_bytes"], &seen["stuck_ms"]),
                (&0.into(), &Value::Null)
            );

            shim.start_process("c", "").await.unwrap();
            let waits = "the logging program to read; the container waits";
            let mut dump = state(&shim).await;
            while stream(&dump, "stdout by logger")["waits_for"] != waits {
                tokio::task::yield_now().await;
                dump = state(&shim).await;
            }
            let first = stream(&dump, "stdout by logger");
            assert_eq!(first["unread_bytes"], 64 << 10);
            let idle = stream(&dump, "stderr by logger");
            assert_eq!(idle["waits_for"], "the logging program");
            assert_eq!(idle["stuck_ms"], Value::Null);
            let age = |row: &Value| row["stuck_ms"].as_u64().unwrap();
            // It grows as long as nothing is read, and begins anew afterwards.
            let mut again = first.clone();
            while age(&again) <= age(&first) {
                tokio::task::yield_now().await;
                again = stream(&state(&shim).await, "stdout by logger");
            }
            // The looks have left nobody a write end: the streams end with the container.
            logger.go();
            until("all is logged", || logger.out().len() == 200_000).await;
            let read = stream(&state(&shim).await, "stdout by logger");
            assert_eq!(
                (&read["unread_bytes"], &read["stuck_ms"]),
                (&0.into(), &Value::Null)
            );
            shim.kill("c", "", 9).await.unwrap();
            shim.wait("c", "").await.unwrap();
            until("it has seen the end", || logger.pids(&shim).is_empty()).await;
            shim.delete("c", "").await.unwrap();
            shim.end().await;
        });
    }
}
