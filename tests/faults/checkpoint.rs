//! Checkpoint with a runtime that fails or hangs: the container runs on, and nobody is told.

use cotter::error::{Code, Result};
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::proto::pack;
use cotter::proto::runc_options::CheckpointOptions;
use cotter::proto::task::CheckpointTaskRequest;

use crate::common::dumper::{Dumper, work_dir};
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::world::{GOOD, answers, census, good_works, in_bundle, nothing_new, says, world};

const LIMITS: [(&str, &str); 1] = [("COTTER_LIMIT_RUNTIME_CALL", "5s")];

const FAULTS: [(&str, Code, &[&str]); 6] = [
    ("said", Code::Unknown, &["it broke on purpose"]),
    ("silent", Code::Unknown, &["exit status 7"]),
    ("garbage", Code::Unknown, &["exit status 1"]),
    ("killed-before", Code::Unknown, &["signal 9"]),
    ("killed-ahead", Code::Unknown, &["signal 9"]),
    (
        "hang",
        Code::DeadlineExceeded,
        &["checkpoint of \"c\" did not end within 5s and was killed"],
    ),
];

async fn checkpoint(shim: &Shim, path: &std::path::Path) -> Result<()> {
    let options = CheckpointOptions {
        exit: true,
        ..Default::default()
    };
    let request = CheckpointTaskRequest {
        id: "c".into(),
        path: path.to_string_lossy().into_owned(),
        options: Some(pack(&options).unwrap()).into(),
        ..Default::default()
    };
    // Longer than the limit.
    let tasks = shim.tasks.within(None);
    tasks.checkpoint(&request).await.map(drop)
}

#[test]
fn a_failed_checkpoint_changes_nothing() {
    for runtime in RUNTIMES {
        run(async {
            let dumper = Dumper::new(runtime);
            let (mut shim, faulty) = world(&dumper.path(), &LIMITS).await;
            let image = dumper.file("image");
            shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
            let work = work_dir(&shim.bundle_path("c"));
            let create = faulty.create_request(&shim, "c");
            shim.tasks.create(&create).await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let mine = in_bundle(&shim, "c");
            let before = census(&shim);
            for (fault, code, parts) in FAULTS {
                faulty.set("checkpoint", fault);
                let (failed, ()) = tokio::join!(checkpoint(&shim, &image), async {
                    if fault == "hang" {
                        faulty.arrived("checkpoint").await;
                        answers(&shim, "c").await;
                        good_works(&shim).await;
                    }
                });
                let error = failed.unwrap_err();
                says(&error, code, &["OCI runtime checkpoint failed"]);
                says(&error, code, parts);
                nothing_new(&shim, &before, fault).await;
                assert_eq!(in_bundle(&shim, "c"), mine, "{fault}");
                shim.exec("c", "probe", &["sh", "-c", "exit 7"])
                    .await
                    .unwrap();
                assert_eq!(shim.wait("c", "probe").await.unwrap().exit_status, 7);
                shim.delete("c", "probe").await.unwrap();
            }
            faulty.clear("checkpoint");
            checkpoint(&shim, &image).await.unwrap();
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
            shim.delete("c", "").await.unwrap();
            let deleted = |e: &Event| matches!(e, Event::Delete(d) if d.container_id == "c");
            let told = shim.events_until(deleted).await;
            let is = |told: &&_| matches!(told, Event::Checkpointed(_));
            let count = told.iter().map(|told| &told.event).filter(is).count();
            assert_eq!(count, 1, "{told:#?}");
            std::fs::remove_dir_all(work).unwrap();
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// While a checkpoint takes its time nothing may join the container, and nobody waits for ever for
/// that; what joins nothing does not wait at all.
#[test]
fn a_checkpoint_that_hangs_holds_up_starts_to_their_limit() {
    run(async {
        let limits = [
            ("COTTER_LIMIT_RUNTIME_CALL", "20s"),
            ("COTTER_LIMIT_TURN", "1s"),
        ];
        let dumper = Dumper::new("RUNC");
        let (mut shim, faulty) = world(&dumper.path(), &limits).await;
        let image = dumper.file("image");
        shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
        let create = faulty.create_request(&shim, "c");
        shim.tasks.create(&create).await.unwrap();
        shim.start_process("c", "").await.unwrap();
        shim.exec("c", "runs", &["sleep", "1000"]).await.unwrap();
        for id in ["late", "never"] {
            let exec = shim.exec_request("c", id, &["true"]);
            shim.tasks.exec(&exec).await.unwrap();
        }

        faulty.set("checkpoint", "hang");
        let held = async {
            let error = checkpoint(&shim, &image).await.unwrap_err();
            let parts = ["checkpoint of \"c\" did not end", "it hung since 2"];
            says(&error, Code::DeadlineExceeded, &parts);
        };
        let meanwhile = async {
            faulty.arrived("checkpoint").await;
            let waits = "for its checkpoint, under way since 2";
            let start = async {
                let error = shim.start_process("c", "late").await.unwrap_err();
                let what = "start of an exec in c waited 1s";
                says(&error, Code::DeadlineExceeded, &[what, waits]);
            };
            let rest = async {
                shim.delete("c", "never").await.unwrap();
                shim.kill("c", "runs", 9).await.unwrap();
                assert_eq!(shim.wait("c", "runs").await.unwrap().exit_status, 137);
                shim.delete("c", "runs").await.unwrap();
                answers(&shim, "c").await;
                good_works(&shim).await;
            };
            tokio::join!(start, rest);
            shim.kill("c", "", 9).await.unwrap();
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
            let error = shim.delete("c", "").await.unwrap_err();
            says(
                &error,
                Code::DeadlineExceeded,
                &["delete of c waited 1s", waits],
            );
        };
        tokio::join!(held, meanwhile);
        shim.delete("c", "").await.unwrap();
        shim.remove(GOOD).await;
        std::fs::remove_dir_all(work_dir(&shim.bundle_path("c"))).unwrap();
        shim.end().await;
    });
}
