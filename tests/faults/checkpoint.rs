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
