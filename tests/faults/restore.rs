//! Start from a checkpoint with a runtime that fails: what could be started before can be started
//! again, and nothing of the try is left.

use cotter::error::Code;
use cotter::manager::spec::Spec;
use cotter::proto::task::{CreateTaskRequest, StartRequest, Status};

use crate::common::dumper::{Dumper, work_dir};
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::runtime::Faulty;
use crate::world::{
    GOOD, answers, census, good_works, in_bundle, nothing_new, process_with, says, world,
};

const LIMITS: [(&str, &str); 1] = [("COTTER_LIMIT_RUNTIME_CALL", "5s")];

/// Each fault, and what its error has to say.
const FAULTS: [(&str, &[&str]); 16] = [
    ("said", &["OCI runtime restore failed: it broke on purpose"]),
    ("silent", &["OCI runtime restore failed", "exit status 7"]),
    ("garbage", &["OCI runtime restore failed", "exit status 1"]),
    ("killed-before", &["OCI runtime restore failed", "signal 9"]),
    ("killed-after", &["OCI runtime restore failed", "signal 9"]),
    ("killed-ahead", &["OCI runtime restore failed", "signal 9"]),
    (
        "after",
        &["OCI runtime restore failed: it broke after the work"],
    ),
    ("half", &["OCI runtime restore failed: it broke half-way"]),
    ("nothing", &["OCI runtime container pid", "init.pid"]),
    ("no-pid", &["OCI runtime container pid", "init.pid"]),
    ("pid=", &["OCI runtime container pid", "no pid: \"\""]),
    ("pid=12x", &["OCI runtime container pid", "\"12x\""]),
    ("pid=4194304", &["OCI runtime container pid", "4194304"]),
    ("pid=1", &["OCI runtime container pid", "process 1"]),
    ("hang", &["restore of \"c\" did not end within 5s"]),
    ("hang-after", &["restore of \"c\" did not end within 5s"]),
];

async fn start(shim: &Shim) -> cotter::error::Result<u32> {
    let request = StartRequest {
        id: "c".into(),
        ..Default::default()
    };
    // Longer than the limit even with the clean-up behind it.
    let tasks = shim.tasks.within(None);
    Ok(tasks.start(&request).await?.pid)
}

async fn is_created(shim: &Shim, after: &str) {
    let state = shim.state("c", "").await.unwrap();
    let state = (state.status.unwrap(), state.pid);
    assert_eq!(state, (Status::CREATED, 0), "{after}");
    assert!(!shim.state_dir().join("c").exists(), "{after}");
}

#[test]
fn a_failed_restore_can_be_tried_again() {
    for runtime in RUNTIMES {
        run(async {
            let dumper = Dumper::new(runtime);
            let (mut shim, faulty) = world(&dumper.path(), &LIMITS).await;
            let work = create(&mut shim, &dumper, &faulty).await;
            let mine = in_bundle(&shim, "c");
            let before = census(&shim);
            for (fault, parts) in FAULTS {
                faulty.set("restore", fault);
                let hangs = fault.starts_with("hang");
                let (failed, ()) = tokio::join!(start(&shim), async {
                    if hangs {
                        faulty.arrived("restore").await;
                        assert_eq!(shim.state("c", "").await.unwrap().pid, 0);
                        good_works(&shim).await;
                    }
                });
                let code = match fault {
                    "nothing" | "no-pid" => Code::NotFound,
                    _ if hangs => Code::DeadlineExceeded,
                    _ => Code::Unknown,
                };
                says(&failed.unwrap_err(), code, parts);
                nothing_new(&shim, &before, fault).await;
                assert_eq!(in_bundle(&shim, "c"), mine, "{fault}");
                is_created(&shim, fault).await;
            }
            faulty.clear("restore");
            start(&shim).await.unwrap();
            answers(&shim, "c").await;
            shim.remove("c").await;
            std::fs::remove_dir_all(work).unwrap();
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// Creates `c` from a checkpoint; its work directory.
async fn create(shim: &mut Shim, dumper: &Dumper, faulty: &Faulty) -> std::path::PathBuf {
    let image = dumper.image("image");
    shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
    let create = CreateTaskRequest {
        checkpoint: image.to_string_lossy().into_owned(),
        ..faulty.create_request(shim, "c")
    };
    assert_eq!(shim.tasks.create(&create).await.unwrap().pid, 0);
    work_dir(&shim.bundle_path("c"))
}

/// CRIU makes what it restores with the sessions and groups it had: the end of the runtime's own
/// group is not theirs.
#[test]
fn what_a_hanging_restore_has_brought_back_ends_with_it() {
    for runtime in RUNTIMES {
        run(async {
            let dumper = Dumper::new(runtime);
            let (mut shim, faulty) = world(&dumper.path(), &LIMITS).await;
            let work = create(&mut shim, &dumper, &faulty).await;
            let before = census(&shim);
            let half = "setsid sh -c 'sleep 2345 & exec sleep 3456' & wait\n";
            dumper.during("restore", half);
            let (failed, ()) = tokio::join!(start(&shim), async {
                process_with(&shim, "sleep 2345").await;
                process_with(&shim, "sleep 3456").await;
            });
            assert_eq!(failed.unwrap_err().code, Code::DeadlineExceeded);
            nothing_new(&shim, &before, "half a container").await;
            is_created(&shim, "a hang").await;
            shim.delete("c", "").await.unwrap();
            std::fs::remove_dir_all(work).unwrap();
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}
