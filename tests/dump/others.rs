//! Shims that are not ours, and ours when it cannot answer: what the tool makes of them.

use std::process::Command;

use cotter::manager::bundle::Bundle;
use cotter::manager::client::{Tasks, gone};
use cotter::manager::dialect::Dialect;
use cotter::manager::launch::Launch;
use cotter::manager::spec::Spec;
use cotter::proto::task::{ConnectRequest, ShutdownRequest};
use serde_json::Value;

use crate::common::census::{MARK, Owner};
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{Done, LIMIT, TempDir, signal, tool, unique};
use crate::{taken, tidy};

/// The tool, with no home of its own.
pub fn cotter(args: &[&str]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cotter"));
    command.env("COTTER_HOME", "/nonexistent");
    crate::common::run(command.arg("dump").args(args))
}

#[test]
fn a_stopped_shim_is_shown_from_outside_with_its_last_dump() {
    run(async {
        let shim = Shim::start(RUNTIMES[1], "c", &["sleep", "1000"]).await;
        let (pid, bundle) = (shim.pid(), shim.bundle_path("c"));
        let init = shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        let path = bundle.to_string_lossy();

        let good = cotter(&[&path]).ok();
        let head = format!("shim of {}: c (pid {pid})", bundle_namespace(&bundle));
        assert!(good.contains(&head), "{good}");
        assert!(good.contains("\ncontainers: 1\n"), "{good}");
        // The tool does not wait for the file.
        crate::common::eventually("the file", || taken(&bundle).is_some());
        let before = taken(&bundle);

        signal(pid, "STOP");
        let done = cotter(&[&path]);
        assert_eq!(done.code, 1, "{done:?}");
        for expected in [
            "no answer within 2s",
            "T (stopped)",
            "what the kernel tells of it",
            "its last dump",
            "\ncontainers: 1\n",
        ] {
            assert!(done.out.contains(expected), "{expected}: {}", done.out);
        }
        let json = cotter(&["--json", &path]);
        assert_eq!(json.code, 1, "{json:?}");
        let read: Value = serde_json::from_str(&json.out).unwrap();
        let only = &read[0];
        assert_eq!((&only["pid"], &only["dump"]), (&pid.into(), &Value::Null));
        let children = only["outside"]["children"].as_array().unwrap();
        assert!(children.iter().any(|child| child["tid"] == init), "{only}");
        assert_eq!(only["outside"]["threads"][0]["state"], "T (stopped)");
        assert!(
            only["outside"]["threads"][0]["syscall"].is_string(),
            "{only}"
        );
        let last = &only["last"]["dump"]["shim"]["taken"];
        assert_eq!(last.as_str(), before.as_deref());

        // The signal was sent, once it can be taken.
        signal(pid, "CONT");
        crate::common::eventually("the file of the signal", || taken(&bundle) > before);
        tidy(&shim.endpoint, bundle).await;
        shim.remove("c").await;
        shim.end().await;
    });
}

fn bundle_namespace(bundle: &std::path::Path) -> String {
    let parent = bundle.parent().unwrap().file_name().unwrap();
    parent.to_string_lossy().into_owned()
}

#[test]
fn a_go_shim_is_told_from_a_stuck_one_and_lives_on() {
    for containerd in ["CONTAINERD_1_6", "CONTAINERD_1_7", "CONTAINERD_2_1"] {
        run(async {
            let dir = TempDir::new("cotter-go");
            let namespace = unique("go");
            let address = dir.path().join("grpc.sock");
            let owner = Owner {
                namespace: namespace.clone(),
                dir: dir.path().to_owned(),
                address: address.clone(),
            };
            let config = Spec::new("c", ["sleep", "1000"]).to_json();
            let bundle = Bundle::create(&dir.path().join("c"), &config).unwrap();
            let binary = tool(containerd).join("containerd-shim-runc-v2");
            let mut launch = Launch::new(binary, Dialect::Json17, "c", bundle.path());
            launch.namespace.clone_from(&namespace);
            launch.grpc_address = address.to_string_lossy().into_owned();
            launch.ttrpc_address = dir.path().join("events").to_string_lossy().into_owned();
            launch.environment.push((MARK.into(), namespace.clone()));
            let endpoint = launch.start().await.unwrap();
            endpoint.save(bundle.path()).unwrap();

            let done = cotter(&[&bundle.path().to_string_lossy()]);
            assert_eq!(done.code, 1, "{done:?}");
            assert!(done.out.contains("this shim knows no dumps"), "{done:?}");
            assert!(done.out.contains("containerd-shim"), "{done:?}");
            let tasks = Tasks::connect(&endpoint).await.unwrap();
            tasks
                .connect_task(&ConnectRequest::default())
                .await
                .unwrap();
            let request = ShutdownRequest {
                id: "c".into(),
                ..Default::default()
            };
            let _ = tasks.shutdown(&request).await;
            gone(&endpoint, LIMIT).await.unwrap();

            // And one that is gone.
            let done = cotter(&[&bundle.path().to_string_lossy()]);
            assert_eq!(done.code, 1, "{done:?}");
            assert!(done.out.contains("no process"), "{done:?}");
            owner.clear(&["c"]);
        });
    }
}
