//! While a call of the runtime takes its time, every question is answered, and every other process
//! can be worked with. The held call goes on only afterwards, so that an answer at all is the proof.

use std::path::Path;

use cotter::error::Code;
use cotter::manager::client::Tasks;
use cotter::manager::request;
use cotter::manager::spec::Spec;
use cotter::proto::task::{PidsRequest, Status};

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::signal;
use crate::world::{GOOD, answers, bundle, good_works, later, says, until, world};

#[test]
fn nobody_waits_for_a_slow_runtime() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            shim.exec(GOOD, "ended", &["true"]).await.unwrap();

            faulty.set("create", "slow-before");
            let request = bundle(&mut shim, &faulty, "c");
            let held = later(&shim.tasks, {
                let request = request.clone();
                move |tasks: Tasks| async move { tasks.create(&request).await.map(drop) }
            });
            faulty.arrived("create").await;
            let again = shim.tasks.create(&request).await.unwrap_err();
            says(
                &again,
                Code::AlreadyExists,
                &["container with given ID already exists", "c"],
            );
            assert_eq!(shim.state("c", "").await.unwrap_err().code, Code::NotFound);
            others_work(&shim).await;
            faulty.release("slow-before");
            held.await.unwrap().unwrap();

            faulty.set("start", "slow-before");
            let held = start(&shim, "");
            faulty.arrived("start").await;
            answers(&shim, "c").await;
            assert_eq!(status(&shim, "").await, Status::CREATED);
            others_work(&shim).await;
            faulty.release("slow-before");
            held.await.unwrap().unwrap();

            faulty.set("exec", "slow-before");
            shim.tasks
                .exec(&shim.exec_request("c", "x", &["sleep", "1000"]))
                .await
                .unwrap();
            let held = start(&shim, "x");
            faulty.arrived("exec").await;
            faulty.clear("exec");
            answers(&shim, "c").await;
            assert_eq!(status(&shim, "x").await, Status::CREATED);
            let early = shim.kill("c", "x", 9).await.unwrap_err();
            says(&early, Code::FailedPrecondition, &["process not created"]);
            neighbour_works(&shim).await;
            others_work(&shim).await;
            faulty.release("slow-before");
            held.await.unwrap().unwrap();

            faulty.set("kill", "slow-before");
            let held = later(&shim.tasks, kill);
            faulty.arrived("kill").await;
            faulty.clear("kill");
            answers(&shim, "c").await;
            shim.kill("c", "", 0).await.unwrap();
            shim.kill("c", "x", 15).await.unwrap();
            assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 143);
            neighbour_works(&shim).await;
            others_work(&shim).await;
            assert_eq!(status(&shim, "").await, Status::RUNNING);
            faulty.release("slow-before");
            held.await.unwrap().unwrap();
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);

            faulty.set("delete", "slow-before");
            let (held, second) = (later(&shim.tasks, delete), later(&shim.tasks, delete));
            faulty.arrived("delete").await;
            assert_eq!(status(&shim, "").await, Status::STOPPED);
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
            let request = PidsRequest {
                id: "c".into(),
                ..Default::default()
            };
            // Of what has ended, init is named.
            let left = shim.tasks.pids(&request).await.unwrap().processes;
            let init = shim.state("c", "").await.unwrap().pid;
            assert_eq!(left.iter().map(|p| p.pid).collect::<Vec<_>>(), [init]);
            others_work(&shim).await;
            faulty.release("slow-before");
            // One of them does it, the other finds it done.
            let (a, b) = (held.await.unwrap(), second.await.unwrap());
            assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
            assert_eq!(a.and(b).unwrap_err().code, Code::NotFound);

            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// A manager closes its connection at the answer to Delete, and fails what has no answer by then: a
/// Kill whose runtime is slow to return from a process that is dead long since.
#[test]
fn delete_is_not_answered_before_a_kill() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            let request = bundle(&mut shim, &faulty, "c");
            shim.tasks.create(&request).await.unwrap();
            shim.start_process("c", "").await.unwrap();

            faulty.set("kill", "slow-after");
            let kill = later(&shim.tasks, kill);
            faulty.arrived("kill").await;
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
            let delete = later(&shim.tasks, delete);
            good_works(&shim).await;
            assert_eq!(status(&shim, "").await, Status::STOPPED);
            assert!(!delete.is_finished() && !kill.is_finished());
            faulty.release("slow-after");
            delete.await.unwrap().unwrap();
            assert!(kill.is_finished(), "the answers come in this order");
            kill.await.unwrap().unwrap();

            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

async fn kill(tasks: Tasks) -> cotter::error::Result<()> {
    let request = cotter::proto::task::KillRequest {
        id: "c".into(),
        signal: 9,
        ..Default::default()
    };
    tasks.kill(&request).await.map(drop)
}

async fn delete(tasks: Tasks) -> cotter::error::Result<()> {
    let request = cotter::proto::task::DeleteRequest {
        id: "c".into(),
        ..Default::default()
    };
    tasks.delete(&request).await.map(drop)
}

fn start(shim: &Shim, exec: &'static str) -> tokio::task::JoinHandle<cotter::error::Result<()>> {
    later(&shim.tasks, move |tasks: Tasks| async move {
        let (id, exec_id) = ("c".into(), exec.into());
        let request = cotter::proto::task::StartRequest {
            id,
            exec_id,
            ..Default::default()
        };
        tasks.start(&request).await.map(drop)
    })
}

async fn status(shim: &Shim, exec: &str) -> Status {
    shim.state("c", exec)
        .await
        .unwrap()
        .status
        .enum_value()
        .unwrap()
}

async fn others_work(shim: &Shim) {
    answers(shim, GOOD).await;
    shim.wait(GOOD, "ended").await.unwrap();
    good_works(shim).await;
}

/// Another exec of the same container.
async fn neighbour_works(shim: &Shim) {
    shim.exec("c", "y", &["sh", "-c", "exit 3"]).await.unwrap();
    assert_eq!(shim.wait("c", "y").await.unwrap().exit_status, 3);
    shim.delete("c", "y").await.unwrap();
}

/// Its exit is held back for an exec that is being started; its pid may be another's by then.
#[test]
fn a_reaped_init_is_not_signalled() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
            let request = faulty.create_request(&shim, "c");
            let pid = shim.tasks.create(&request).await.unwrap().pid;
            shim.start_process("c", "").await.unwrap();
            let exec = shim.exec_request("c", "x", &["true"]);
            shim.tasks.exec(&exec).await.unwrap();
            faulty.set("exec", "slow-before");
            let start = later(&shim.tasks, |tasks: Tasks| async move {
                tasks.start(&request::start("c", "x")).await.map(drop)
            });
            faulty.arrived("exec").await;
            signal(pid, "KILL");
            let process = format!("/proc/{pid}");
            until("it is reaped", || !Path::new(&process).exists()).await;
            // The runtime is not even asked.
            faulty.set("kill", "silent");
            let error = shim.kill("c", "", 9).await.unwrap_err();
            says(&error, Code::NotFound, &["process already finished"]);
            faulty.clear("kill");
            faulty.release("slow-before");
            start.await.unwrap().unwrap_err();
            faulty.clear("exec");
            shim.remove("c").await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}
