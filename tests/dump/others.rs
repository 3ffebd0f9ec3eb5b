//! Shims that are not ours, and ours when it cannot answer: what the tool makes of them.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
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

/// `cotter dump`, with no home of its own.
pub fn cotter(args: &[&str]) -> Done {
    verb("dump", args)
}

/// The tool, with no home of its own.
pub fn verb(verb: &str, args: &[&str]) -> Done {
    let mut command = Command::new(crate::common::cotter::cotter());
    command.env("COTTER_HOME", "/nonexistent");
    crate::common::run(command.arg(verb).args(args))
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
            let mut done = cotter(&[&bundle.path().to_string_lossy()]);
            crate::common::eventually("its end is over, too", || {
                done = cotter(&[&bundle.path().to_string_lossy()]);
                !done.out.contains("Z (zombie)")
            });
            assert_eq!(done.code, 1, "{done:?}");
            assert!(done.out.contains("no process"), "{done:?}");
            owner.clear(&["c"]);
        });
    }
}

#[test]
fn whoever_would_end_by_the_signal_does_not_get_it() {
    let dir = TempDir::new("cotter-sleep");
    let bundle = dir.path().join("c");
    fs::create_dir(&bundle).unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::write(
        bundle.join("address"),
        format!("unix://{}", socket.display()),
    )
    .unwrap();
    // A process that has the socket and no handler for anything: it takes connections by the kernel's
    // hand, and never answers.
    let inherited = listener.as_raw_fd();
    let mut command = Command::new("sleep");
    // SAFETY: fcntl on a descriptor that is open in the child; it allocates nothing.
    unsafe {
        command.pre_exec(move || {
            nix::errno::Errno::result(libc::fcntl(inherited, libc::F_SETFD, 0))?;
            Ok(())
        });
    }
    let mut sleeper = command.arg("1000").spawn().unwrap();
    drop(listener);

    let done = cotter(&[&bundle.to_string_lossy()]);
    assert_eq!(done.code, 1, "{done:?}");
    let pid = format!("(pid {}): no answer within 2s", sleeper.id());
    assert!(done.out.contains(&pid), "{done:?}");
    assert!(
        done.out.contains("clock_nanosleep") || done.out.contains("sleep"),
        "{done:?}"
    );
    let ended = sleeper.try_wait().unwrap();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert_eq!(ended, None, "it lives on");
}
