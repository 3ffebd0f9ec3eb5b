//! What the runtime is called for, and what it is not: a question, a signal to an exec and the `delete`
//! action after an orderly end cost no call (the Go shim makes one for Pids and for each `delete`).

use cotter::proto::task::{ConnectRequest, ResizePtyRequest, StatsRequest};

use crate::client::{SLEEP, pids, refused, with_each_runtime};
use crate::common::TempDir;
use crate::common::script::Script;
use crate::common::shim::Shim;
use crate::options::Recorder;

with_each_runtime! { questions, after_an_orderly_end, }

async fn questions(runtime: &'static str) {
    let dir = TempDir::new("calls");
    let recorder = Recorder::new(dir.path(), runtime);
    let shim = Shim::start(&recorder.name(), "c", &SLEEP).await;
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    shim.exec("c", "x", &SLEEP).await.unwrap();
    let before = recorder.calls();
    assert_eq!(before.len(), 3, "{before:?}");

    for _ in 0..3 {
        assert_eq!(pids(&shim, "c").await.unwrap().processes.len(), 2);
        for exec in ["", "x"] {
            shim.state("c", exec).await.unwrap();
            shim.close_io("c", exec, true).await.unwrap();
            let size = ResizePtyRequest {
                id: "c".into(),
                exec_id: exec.into(),
                width: 80,
                height: 25,
                ..Default::default()
            };
            shim.tasks.resize_pty(&size).await.unwrap();
        }
        let stats = StatsRequest {
            id: "c".into(),
            ..Default::default()
        };
        shim.tasks.stats(&stats).await.unwrap();
        let connect = ConnectRequest {
            id: "c".into(),
            ..Default::default()
        };
        shim.tasks.connect_task(&connect).await.unwrap();
    }
    shim.kill("c", "x", 9).await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 137);
    shim.delete("c", "x").await.unwrap();
    assert_eq!(recorder.calls(), before);
    shim.remove("c").await;
    shim.end().await;
}

/// A manager runs `delete` after every container, mostly for nothing.
async fn after_an_orderly_end(runtime: &'static str) {
    let dir = TempDir::new("calls");
    let recorder = Recorder::new(dir.path(), runtime);
    // The bundle says no more which runtime it was: it would be the one of this name.
    std::os::unix::fs::symlink(recorder.name(), dir.path().join("runc")).unwrap();
    let mut shim = Shim::start(&recorder.name(), "c", &SLEEP).await;
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    shim.remove("c").await;
    let before = recorder.calls();
    let last = before.last().unwrap();
    assert!(last.ends_with(" delete c"), "{last}");
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", dir.path().display());
    shim.launch.environment.push(("PATH".into(), path));
    let deleted = shim.launch.delete().await.unwrap();
    assert_eq!(deleted.warnings, "");
    shim.end().await;
    assert_eq!(recorder.calls(), before);
}

/// A probe whose program is missing fails every few seconds for as long as its container lives.
#[test]
fn failures_do_not_add_up_in_the_bundle() {
    crate::common::shim::run(async {
        let real = crate::common::tool("RUNC");
        let wordy = Script::new(|dir| {
            format!(
                "#!/bin/sh\n\
                 case \" $* \" in *' exec '*) ;; *) exec {} \"$@\";; esac\n\
                 while [ \"$1\" != --log ]; do shift; done\n\
                 echo x >>{1}/n; n=$(wc -l <{1}/n)\n\
                 head -c 150000 /dev/zero | tr '\\0' 'x' >>\"$2\"\n\
                 printf '\\n{{\"level\":\"error\",\"msg\":\"failure %s\"}}\\n' \"$n\" >>\"$2\"\n\
                 exit 1\n",
                real.display(),
                dir.display(),
            )
        });
        let shim = Shim::start(&wordy.path(), "c", &SLEEP).await;
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        let log = shim.bundle_path("c").join("log.json");
        let mut longest = 0;
        for n in 1..=20 {
            let words = format!("OCI runtime exec failed: failure {n}");
            let failed = shim.exec("c", "x", &["true"]).await;
            refused(failed, cotter::error::Code::Unknown, &words);
            shim.delete("c", "x").await.unwrap();
            let text = std::fs::read_to_string(&log).unwrap();
            assert!(text.ends_with(&format!("\"failure {n}\"}}\n")));
            longest = longest.max(text.len());
        }
        assert!(longest > 500_000, "{longest}: some are kept");
        assert!(longest <= 1 << 20, "{longest} bytes");
        shim.remove("c").await;
        shim.end().await;
    });
}
