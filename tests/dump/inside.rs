//! What the request tells of a shim that works.

use cotter::manager::spec::Spec;
use serde_json::Value;
use tokio::net::unix::pipe;

use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::common::signal;
use crate::{ask, file, remove, row, rows, state, taken};

#[test]
#[expect(clippy::too_many_lines, reason = "one dump, field by field")]
fn containers_processes_streams_and_requests() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "one", &["sleep", "1000"]).await;
            let pid = shim.create("one").await.unwrap();
            shim.start_process("one", "").await.unwrap();
            shim.bundle("two", Spec::new("two", ["sleep", "1000"]));
            shim.create("two").await.unwrap();
            let fifos = shim.fifos("x", true);
            let reader = pipe::OpenOptions::new()
                .open_receiver(&fifos.stdout)
                .unwrap();
            let script = "head -c 5000 /dev/zero; exec sleep 1000";
            let args = ["sh", "-c", script];
            let exec = shim.exec_with("one", "x", &args, &fifos);
            let exec = exec.await.unwrap();
            let wait = {
                let (tasks, request) = (shim.tasks.clone(), Default::default());
                let request = cotter::proto::task::WaitRequest {
                    id: "one".into(),
                    exec_id: "x".into(),
                    ..request
                };
                tokio::spawn(async move { tasks.wait(&request).await })
            };
            // Nobody reads the output: it is in the FIFO.
            let mut seen = state(&shim).await;
            while row(&seen, "streams", &[("stream", "stdout")])["moved_bytes"] != 5000
                || rows(&seen, "requests").is_empty()
            {
                tokio::task::yield_now().await;
                seen = state(&shim).await;
            }

            let one = row(&seen, "containers", &[("id", "one")]);
            assert_eq!(
                (&one["state"], &one["pid"]),
                (&"running".into(), &pid.into())
            );
            assert_eq!(one["execs"], 1);
            let two = row(&seen, "containers", &[("id", "two")]);
            assert_eq!(two["state"], "created");
            let x = row(&seen, "processes", &[("container", "one"), ("exec", "x")]);
            assert_eq!((&x["pid"], &x["exit"]), (&exec.into(), &Value::Null));
            assert_eq!((&x["waiters"], &x["busy_with"]), (&1.into(), &Value::Null));
            assert!(x["kernel"].as_str().unwrap().starts_with(['S', 'R']), "{x}");
            let stdout = row(&seen, "streams", &[("exec", "x"), ("stream", "stdout")]);
            assert_eq!(stdout["unread_bytes"], 5000);
            assert_eq!(stdout["waits_for"], "the container to write");
            assert_eq!(stdout["target"], fifos.stdout);
            let stdin = row(&seen, "streams", &[("exec", "x"), ("stream", "stdin")]);
            assert_eq!(stdin["waits_for"], "the client to write");

            let call = row(&seen, "requests", &[("method", "wait")]);
            assert_eq!(
                (&call["container"], &call["exec"]),
                (&"one".into(), &"x".into())
            );
            assert_eq!(call["client_gone"], false);
            assert_eq!(rows(&seen, "children").len(), 0, "no runtime call is left");
            let census = seen.section("lifecycle").unwrap();
            assert_eq!(
                (&census["running"], &census["containers"]),
                (&3.into(), &2.into())
            );
            assert_eq!(rows(&seen, "awaited").len(), 3);
            let me = seen.section("shim").unwrap();
            assert_eq!(
                (&me["pid"], &me["threads"]),
                (&shim.pid().into(), &1.into())
            );
            // The manager's and this one at least; the ones before may just be ending.
            assert!(me["connections"].as_u64().unwrap() >= 2, "{me}");
            for count in ["tasks", "fds", "rss_bytes", "anonymous_bytes"] {
                assert!(me[count].as_u64().unwrap() > 2, "{count}: {me}");
            }
            assert_eq!(seen.section("limits").unwrap()["exec_drain_ms"], 10_000);

            // The failure of a request and a word of the log are remembered.
            shim.kill("one", "nobody", 9).await.unwrap_err();
            let seen = state(&shim).await;
            let failed = rows(&seen, "failed requests").last().unwrap();
            let text = failed["text"].as_str().unwrap();
            assert!(text.starts_with("kill one/nobody: "), "{text}");

            shim.kill("one", "x", 9).await.unwrap();
            wait.await.unwrap().unwrap();
            let seen = state(&shim).await;
            let x = row(&seen, "processes", &[("exec", "x")]);
            assert_eq!((&x["state"], &x["exit"]), (&"stopped".into(), &137.into()));
            assert_eq!(x["kernel"], Value::Null, "its pid is another's by now");
            drop(reader);
            shim.remove("one").await;
            shim.remove("two").await;
            shim.end().await;
        });
    }
}

#[test]
fn the_request_is_kept_unless_it_is_quiet() {
    run(async {
        let mut shim = Shim::start(RUNTIMES[1], "c", &["sleep", "1000"]).await;
        let bundle = shim.bundle_path("c");
        state(&shim).await;
        assert!(!shim.log().iter().any(|line| line.contains("dump:")));
        let told = ask(&shim.endpoint, false).await;
        until("the file", || file(&bundle).is_some()).await;
        assert_eq!(file(&bundle).unwrap(), told);
        until("the log", || {
            let log = shim.log();
            let has = |what: &str| log.iter().any(|line| line.contains(what));
            has("dump: containers: none") && has("dump: written to ")
        })
        .await;
        remove(bundle.clone());

        // With the shim's own bundle gone, to that of a container it serves.
        let other = shim.bundle("d", Spec::new("d", ["sleep", "1000"]));
        shim.create("d").await.unwrap();
        let away = bundle.with_extension("away");
        std::fs::rename(&bundle, &away).unwrap();
        signal(shim.pid(), "USR1");
        until("the other file", || taken(&other).is_some()).await;
        std::fs::rename(&away, &bundle).unwrap();
        remove(other);
        shim.remove("d").await;
        shim.end().await;
    });
}

#[test]
fn after_the_end_of_everything() {
    run(async {
        let shim = Shim::start(RUNTIMES[1], "c", &["true"]).await;
        let bundle = shim.bundle_path("c");
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        shim.remove("c").await;
        let away = bundle.with_extension("away");
        std::fs::rename(&bundle, &away).unwrap();
        signal(shim.pid(), "USR1");
        // Quiet: a second one to be kept could be written when the bundle is back.
        let mut seen = state(&shim).await;
        let refused = |line: &Value| {
            let text = line["text"].as_str().unwrap();
            text.contains("not written to any bundle") && text.contains("no such file")
        };
        while !rows(&seen, "log").iter().any(refused) {
            tokio::task::yield_now().await;
            seen = state(&shim).await;
        }
        for empty in ["containers", "processes", "streams", "awaited", "children"] {
            assert_eq!(rows(&seen, empty).len(), 0, "{empty}");
        }
        std::fs::rename(&away, &bundle).unwrap();
        shim.end().await;
    });
}
