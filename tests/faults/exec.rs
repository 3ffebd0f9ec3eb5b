//! Start of an exec with a runtime that fails: nothing that is known to be its runs on, what may be its
//! does not run on unsaid, and it can be tried again.

use cotter::error::{Code, Result};
use cotter::manager::client::Tasks;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;
use cotter::proto::introspection::{DumpRequest, IntrospectionClient};
use cotter::proto::task::{ExecProcessRequest, StartRequest, Status};
use tokio::task::JoinHandle;

use ttrpc::r#async::Client;

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::runtime::Faulty;
use crate::world::{
    GOOD, alive, census, good_works, in_bundle, later, nothing_new, process_with, says, until,
    world,
};

/// Each fault, and what its error has to say.
const FAULTS: [(&str, &[&str]); 14] = [
    ("said", &["OCI runtime exec failed: it broke on purpose"]),
    ("silent", &["OCI runtime exec failed", "exit status 7"]),
    ("garbage", &["OCI runtime exec failed", "exit status 1"]),
    ("killed-before", &["OCI runtime exec failed", "signal 9"]),
    ("killed-after", &["OCI runtime exec failed", "signal 9"]),
    ("killed-ahead", &["OCI runtime exec failed", "signal 9"]),
    (
        "after",
        &["OCI runtime exec failed: it broke after the work"],
    ),
    ("nothing", &["OCI runtime exec pid", "x.pid"]),
    ("no-pid", &["OCI runtime exec pid", "x.pid"]),
    ("pid=", &["OCI runtime exec pid", "no pid: \"\""]),
    ("pid=12x", &["OCI runtime exec pid", "\"12x\""]),
    ("pid=-1", &["OCI runtime exec pid", "\"-1\""]),
    (
        "pid=99999999999999999999",
        &["OCI runtime exec pid", "\"99999999999999999999\""],
    ),
    ("pid=1", &["OCI runtime exec pid", "process 1"]),
];

const SLEEP: [&str; 2] = ["sleep", "1000"];

/// Those that make a process in different ways.
const MADE: [&str; 3] = ["killed-after", "after", "no-pid"];

#[test]
fn a_failed_exec_does_not_run_on_unseen() {
    for runtime in RUNTIMES {
        run(async {
            for host_pids in [false, true] {
                let (mut shim, faulty) = world(runtime, &[]).await;
                container(&mut shim, &faulty, host_pids, &SLEEP).await;
                let _fifos = with_streams(&shim, "x").await;
                let init = shim.state("c", "").await.unwrap().pid;
                let good = shim.state(GOOD, "").await.unwrap().pid;
                let files = in_bundle(&shim, "c");
                // In a shared pid namespace other processes may come to the shim too.
                let faults = FAULTS
                    .iter()
                    .filter(|(fault, _)| !host_pids || MADE.contains(fault));
                for (fault, parts) in faults {
                    fails(&shim, &faulty, fault, parts).await;
                    assert_eq!(in_bundle(&shim, "c"), files, "{fault}");
                }
                for pid in [init, good] {
                    fails(
                        &shim,
                        &faulty,
                        &format!("pid={pid}"),
                        &["OCI runtime exec pid"],
                    )
                    .await;
                }
                // Said to have failed, with a pid that is none of its business.
                fails(
                    &shim,
                    &faulty,
                    &format!("after-pid={good}"),
                    &["it broke after the work"],
                )
                .await;
                assert!(alive(init) && alive(good));
                good_works(&shim).await;

                faulty.clear("exec");
                shim.start_process("c", "x").await.unwrap();
                shim.kill("c", "x", 15).await.unwrap();
                assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 143);
                shim.delete("c", "x").await.unwrap();
                shim.remove("c").await;
                shim.remove(GOOD).await;
                shim.end().await;
            }
        });
    }
}

/// Registers an exec that has streams of its own: what the runtime makes for it is known by them.
async fn with_streams(shim: &Shim, exec: &str) -> Fifos {
    let fifos = shim.fifos(exec, false);
    let request = ExecProcessRequest {
        stdout: fifos.stdout.clone(),
        stderr: fifos.stderr.clone(),
        ..shim.exec_request("c", exec, &SLEEP)
    };
    shim.tasks.exec(&request).await.unwrap();
    fifos
}

async fn container(shim: &mut Shim, faulty: &Faulty, host_pids: bool, args: &[&str]) {
    let mut spec = Spec::new("c", args.iter().copied());
    spec.host_pids = host_pids;
    shim.bundle("c", spec);
    shim.tasks
        .create(&faulty.create_request(shim, "c"))
        .await
        .unwrap();
    shim.start_process("c", "").await.unwrap();
}

async fn fails(shim: &Shim, faulty: &Faulty, fault: &str, parts: &[&str]) {
    let before = census(shim);
    faulty.set("exec", fault);
    let error = shim.start_process("c", "x").await.expect_err(fault);
    let code = match fault {
        "nothing" | "no-pid" => Code::NotFound,
        _ => Code::Unknown,
    };
    says(&error, code, parts);
    nothing_new(shim, &before, fault).await;
    let state = shim.state("c", "x").await.unwrap();
    let status = Status::CREATED;
    assert_eq!((state.status, state.pid), (status.into(), 0), "{fault}");
    let waited = shim.wait("c", "x").await.unwrap();
    assert_eq!(
        (waited.exit_status, waited.exited_at.seconds),
        (0, -62_135_596_800),
        "{fault}"
    );
}

/// An orphan that came to the shim out of a shared pid namespace is not taken for a stray.
#[test]
fn orphans_of_a_shared_pid_namespace_are_spared() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            let program = r#"trap "(sleep 2500 &)" USR1; while :; do sleep 0.05; done"#;
            container(&mut shim, &faulty, true, &["sh", "-c", program]).await;
            let daemon = ["sh", "-c", "setsid sleep 2000 & exit 0"];
            shim.exec("c", "parent", &daemon).await.unwrap();
            shim.wait("c", "parent").await.unwrap();
            shim.delete("c", "parent").await.unwrap();
            let daemon = process_with(&shim, "sleep 2000").await;

            // One that was there before the call, and one that comes during it.
            shim.tasks
                .exec(&shim.exec_request("c", "x", &["sleep", "1000"]))
                .await
                .unwrap();
            let failing = held(&shim, &faulty, "x", "slow-no-pid").await;
            shim.kill("c", "", 10).await.unwrap();
            let orphan = process_with(&shim, "sleep 2500").await;
            faulty.release("slow-no-pid");
            failing.await.unwrap().unwrap_err();
            assert!(alive(daemon) && alive(orphan));
            shim.remove("c").await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// What the shim says of itself.
async fn dump_of(shim: &Shim) -> String {
    let client = Client::connect(&shim.endpoint.address).await.unwrap();
    let limit = ttrpc::context::with_duration(crate::common::LIMIT);
    let request = DumpRequest {
        quiet: true,
        ..Default::default()
    };
    let answer = IntrospectionClient::new(client).dump(limit, &request).await;
    answer.unwrap().json
}

/// Without a name and without streams nothing tells the process that a runtime made from one that somebody
/// else did: it runs on until its container ends, and that is said.
#[test]
fn what_nothing_proves_is_left_and_said() {
    for runtime in RUNTIMES {
        run(async {
            for host_pids in [false, true] {
                let (mut shim, faulty) = world(runtime, &[]).await;
                container(&mut shim, &faulty, host_pids, &SLEEP).await;
                let request = shim.exec_request("c", "x", &["sleep", "4000"]);
                shim.tasks.exec(&request).await.unwrap();
                faulty.set("exec", "no-pid");
                let error = shim.start_process("c", "x").await.unwrap_err();
                says(&error, Code::NotFound, &["OCI runtime exec pid", "x.pid"]);
                let left = process_with(&shim, "sleep 4000").await;
                assert!(alive(left));
                let said = format!(
                    "failed exec x may have left a process running, which its runtime did not name: left alone, as nothing proves whose they are: [{left}]"
                );
                let dump = dump_of(&shim).await;
                assert!(dump.contains(&said), "{dump}");
                until("the log says so", || {
                    shim.log().iter().any(|line| line.contains(&said))
                })
                .await;
                good_works(&shim).await;
                shim.remove("c").await;
                until("its container's end is its own", || !alive(left)).await;
                shim.remove(GOOD).await;
                shim.end().await;
            }
        });
    }
}

/// One exec's failure neither waits for another whose call is under way, nor harms what that has
/// made, earlier or later.
#[test]
fn a_neighbour_under_way_is_spared() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            container(&mut shim, &faulty, false, &SLEEP).await;
            let _fifos = with_streams(&shim, "x").await;
            for exec in ["early", "late"] {
                let request = shim.exec_request("c", exec, &["sleep", "3000"]);
                shim.tasks.exec(&request).await.unwrap();
            }
            let early = held(&shim, &faulty, "early", "slow-after").await;
            let pid = process_with(&shim, "sleep 3000").await;
            fails(&shim, &faulty, "no-pid", &["OCI runtime exec pid"]).await;
            fails(&shim, &faulty, "killed-after", &["signal 9"]).await;
            assert!(alive(pid));
            faulty.release("slow-after");
            early.await.unwrap().unwrap();
            assert_eq!(shim.state("c", "early").await.unwrap().pid, pid);
            shim.kill("c", "early", 9).await.unwrap();
            shim.wait("c", "early").await.unwrap();

            let failing = held(&shim, &faulty, "x", "slow-no-pid").await;
            let late = held(&shim, &faulty, "late", "slow-after").await;
            let pid = process_with(&shim, "sleep 3000").await;
            faulty.release("slow-no-pid");
            let error = failing.await.unwrap().unwrap_err();
            says(&error, Code::NotFound, &["OCI runtime exec pid"]);
            assert!(alive(pid));
            faulty.release("slow-after");
            late.await.unwrap().unwrap();
            assert_eq!(shim.state("c", "late").await.unwrap().pid, pid);
            shim.remove("c").await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// A Start that is held by this fault.
async fn held(
    shim: &Shim,
    faulty: &Faulty,
    exec: &'static str,
    fault: &str,
) -> JoinHandle<Result<()>> {
    faulty.set("exec", fault);
    let held = later(&shim.tasks, move |tasks: Tasks| async move {
        let (id, exec_id) = ("c".into(), exec.into());
        let request = StartRequest {
            id,
            exec_id,
            ..Default::default()
        };
        tasks.start(&request).await.map(drop)
    });
    faulty.arrived("exec").await;
    held
}
