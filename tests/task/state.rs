//! State, Connect and Pids: what is in the answers, in each state of an init and of an exec.

use std::time::SystemTime;

use cotter::error::Code::NotFound;
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::proto::runc_options::ProcessDetails;
use cotter::proto::task::{ConnectRequest, ExecProcessRequest, ProcessInfo, StateResponse, Status};
use cotter::proto::unpack;

use crate::client::{NO_TIME, SLEEP, pids, recent, refused, until, with_each_runtime, works};
use crate::common::shim::Shim;

with_each_runtime! { fields_of_an_init, fields_of_an_exec, connect_tells_the_pids, pids_tells_execs_apart,
pids_of_what_has_ended, }

/// All that State answers, in an order easy to compare: id, exec id, pid, status, exit status,
/// whether it has a time of exit.
fn facts(state: &StateResponse) -> (&str, &str, u32, Status, u32, bool) {
    let exited = state.exited_at.seconds != NO_TIME;
    let status = state.status.unwrap();
    (
        &state.id,
        &state.exec_id,
        state.pid,
        status,
        state.exit_status,
        exited,
    )
}

async fn fields_of_an_init(runtime: &'static str) {
    let shim = Shim::start(runtime, "c", &["sh", "-c", "exit 9"]).await;
    let fifos = shim.fifos("init", true);
    let pid = shim.create_with("c", &fifos).await.unwrap();
    let created = shim.state("c", "").await.unwrap();
    assert_eq!(facts(&created), ("c", "", pid, Status::CREATED, 0, false));
    assert_eq!(created.exited_at.nanos, 0);
    assert_eq!(created.bundle, shim.bundle_path("c").to_str().unwrap());
    assert_eq!(
        (&created.stdin, &created.stdout),
        (&fifos.stdin, &fifos.stdout)
    );
    assert_eq!((&created.stderr, created.terminal), (&fifos.stderr, false));

    // Whatever is started may have ended by the time it is asked for.
    let before = SystemTime::now();
    assert_eq!(shim.start_process("c", "").await.unwrap(), pid);
    shim.state("c", "").await.unwrap();
    let waited = shim.wait("c", "").await.unwrap();
    recent(&waited.exited_at, before);
    let stopped = shim.state("c", "").await.unwrap();
    assert_eq!(facts(&stopped), ("c", "", pid, Status::STOPPED, 9, true));
    assert_eq!(
        (&stopped.exited_at, &stopped.bundle),
        (&waited.exited_at, &created.bundle)
    );
    assert_eq!(
        (&stopped.stdin, &stopped.stdout),
        (&fifos.stdin, &fifos.stdout)
    );
    let deleted = shim.delete("c", "").await.unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 9));
    assert_eq!(deleted.exited_at, waited.exited_at);
    shim.end().await;
}

async fn fields_of_an_exec(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    let fifos = shim.fifos("exec", true);
    let request = ExecProcessRequest {
        stdin: fifos.stdin.clone(),
        stdout: fifos.stdout.clone(),
        stderr: fifos.stderr.clone(),
        ..shim.exec_request("c", "x", &SLEEP)
    };
    shim.tasks.exec(&request).await.unwrap();
    let created = shim.state("c", "x").await.unwrap();
    assert_eq!(facts(&created), ("x", "", 0, Status::CREATED, 0, false));
    assert_eq!(created.bundle, shim.bundle_path("c").to_str().unwrap());
    assert_eq!(
        (&created.stdin, &created.stdout),
        (&fifos.stdin, &fifos.stdout)
    );
    assert_eq!((&created.stderr, created.terminal), (&fifos.stderr, false));

    let pid = shim.start_process("c", "x").await.unwrap();
    let running = shim.state("c", "x").await.unwrap();
    assert_eq!(facts(&running), ("x", "", pid, Status::RUNNING, 0, false));
    let before = SystemTime::now();
    shim.kill("c", "x", 9).await.unwrap();
    let waited = shim.wait("c", "x").await.unwrap();
    recent(&waited.exited_at, before);
    let stopped = shim.state("c", "x").await.unwrap();
    assert_eq!(facts(&stopped), ("x", "", pid, Status::STOPPED, 137, true));
    assert_eq!(stopped.exited_at, waited.exited_at);
    let deleted = shim.delete("c", "x").await.unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    assert_eq!(deleted.exited_at, waited.exited_at);

    let init = shim.state("c", "").await.unwrap();
    assert_eq!(
        (init.status.unwrap(), init.exit_status),
        (Status::RUNNING, 0)
    );
    assert_eq!(init.exited_at.seconds, NO_TIME);
    shim.remove("c").await;
    shim.end().await;
}

async fn connect_tells_the_pids(runtime: &'static str) {
    let shim = Shim::start(runtime, "c", &SLEEP).await;
    let pids = async |id: &str| {
        let request = ConnectRequest {
            id: id.into(),
            ..Default::default()
        };
        let answer = shim.tasks.connect_task(&request).await.unwrap();
        assert_eq!(answer.shim_pid, shim.pid());
        answer.task_pid
    };
    assert_eq!(pids("c").await, 0);
    let pid = shim.create("c").await.unwrap();
    assert_eq!(
        (pids("c").await, pids("nobody").await, pids("").await),
        (pid, 0, 0)
    );
    shim.start_process("c", "").await.unwrap();
    assert_eq!(pids("c").await, pid);
    shim.remove("c").await;
    assert_eq!(pids("c").await, 0);
    shim.end().await;
}

/// All processes are there, an exec's own with its id, its children and init without.
async fn pids_tells_execs_apart(runtime: &'static str) {
    let shim = Shim::start(runtime, "c", &SLEEP).await;
    let details = async || {
        let mut all: Vec<(u32, Option<String>)> = pids(&shim, "c")
            .await
            .unwrap()
            .processes
            .iter()
            .map(|process| {
                let id = process.info.as_ref().map(|info| {
                    assert_eq!(info.type_url, "containerd.runc.v1.ProcessDetails");
                    unpack::<ProcessDetails>(info).unwrap().unwrap().exec_id
                });
                (process.pid, id)
            })
            .collect();
        all.sort();
        all
    };
    let init = shim.create("c").await.unwrap();
    assert_eq!(details().await, [(init, None)]);
    shim.start_process("c", "").await.unwrap();
    let script = ["sh", "-c", "sleep 1000 & wait"];
    let x = shim.exec("c", "x", &script).await.unwrap();
    let y = shim.exec("c", "y", &SLEEP).await.unwrap();
    // Registered and not started: no process.
    shim.tasks
        .exec(&shim.exec_request("c", "z", &SLEEP))
        .await
        .unwrap();
    until("x has a child", async || details().await.len() == 4).await;
    let all = details().await;
    for expected in [
        (init, None),
        (x, Some("x".to_owned())),
        (y, Some("y".to_owned())),
    ] {
        assert!(all.contains(&expected), "no {expected:?} in {all:?}");
    }
    assert_eq!(
        all.iter().filter(|(_, exec)| exec.is_none()).count(),
        2,
        "{all:?}"
    );

    shim.kill("c", "y", 9).await.unwrap();
    shim.wait("c", "y").await.unwrap();
    assert!(details().await.iter().all(|(pid, _)| *pid != y));
    shim.kill("c", "", 9).await.unwrap();
    shim.wait("c", "").await.unwrap();
    assert_eq!(details().await, [(init, None)]);
    shim.delete("c", "").await.unwrap();
    shim.end().await;
}

/// A container that has ended names its init, and that alone, until it is deleted: a manager that comes
/// back takes one without processes for a shim that never had a task, and clears it away. One that was
/// killed before its start, too. The neighbour in the same shim has its own.
async fn pids_of_what_has_ended(runtime: &'static str) {
    for host in [false, true] {
        let mut spec = Spec::new("c", ["sh", "-c", "sleep 1000 & wait"]);
        spec.host_pids = host;
        let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
        let details = async |shim: &Shim, id: &str| {
            let all = pids(shim, id).await.unwrap().processes;
            let plain = |p: &ProcessInfo| (p.pid, p.info.is_some());
            all.iter().map(plain).collect::<Vec<_>>()
        };
        let init = shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        shim.exec("c", "x", &SLEEP).await.unwrap();
        let neighbour = shim.run("n", &SLEEP).await;
        shim.bundle("never", Spec::new("never", SLEEP));
        let never = shim.create("never").await.unwrap();

        shim.kill("c", "", 9).await.unwrap();
        assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
        // With the host's pids, what init left behind is killed in a moment.
        until("only init is named", async || {
            details(&shim, "c").await == [(init, false)]
        })
        .await;
        shim.kill("never", "", 9).await.unwrap();
        assert_eq!(shim.wait("never", "").await.unwrap().exit_status, 137);
        assert_eq!(details(&shim, "never").await, [(never, false)]);
        assert_eq!(details(&shim, "n").await, [(neighbour, false)]);

        for id in ["c", "never"] {
            shim.delete(id, "").await.unwrap();
            refused(
                pids(&shim, id).await,
                NotFound,
                "container not created: not found",
            );
        }
        works(&shim, "n").await;
        shim.remove("n").await;
        shim.end().await;
    }
}
