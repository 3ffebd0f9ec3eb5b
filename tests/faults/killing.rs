//! A SIGKILL whose runtime says nothing: it hangs, is killed itself, or cannot be started. The container ends all
//! the same, with what its init leaves behind.

use std::fs;

use cotter::manager::spec::Spec;

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::runtime::Faulty;
use crate::world::{GOOD, alive, answers, good_works, process_with, until, world};

/// Well above what a call takes that does not hang, on a loaded machine.
const LIMITS: [(&str, &str); 1] = [("COTTER_LIMIT_RUNTIME_CALL", "5s")];

/// A runtime that is not there.
const MISSING: &str = "missing";

/// A running container of its own runtime, whose kill goes wrong so.
async fn container(
    shim: &mut Shim,
    id: &str,
    fault: &str,
    script: &str,
    host_pids: bool,
) -> Faulty {
    let faulty = Faulty::new(shim, id);
    let mut spec = Spec::new(id, ["sh", "-c", script]);
    spec.host_pids = host_pids;
    shim.bundle(id, spec);
    let request = faulty.create_request(shim, id);
    shim.tasks.create(&request).await.unwrap();
    shim.start_process(id, "").await.unwrap();
    match fault {
        MISSING => fs::rename(faulty.binary(), faulty.binary().with_extension("away")).unwrap(),
        fault => faulty.set("kill", fault),
    }
    faulty
}

/// Its delete is nothing that this is about.
async fn remove(shim: &Shim, id: &str, fault: &str, faulty: &Faulty) {
    if fault == MISSING {
        fs::rename(faulty.binary().with_extension("away"), faulty.binary()).unwrap();
    }
    shim.delete(id, "").await.unwrap();
}

#[test]
fn a_sigkill_needs_no_runtime() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, _) = world(runtime, &LIMITS).await;
            for (n, fault) in ["killed-before", MISSING, "hang"].into_iter().enumerate() {
                let (own, host) = (format!("own{n}"), format!("host{n}"));
                let sleep = "exec sleep 1000";
                let of_own = container(&mut shim, &own, fault, sleep, false).await;
                let argv = format!("sleep 300{n}");
                let script = format!("{argv} & {sleep}");
                let of_host = container(&mut shim, &host, fault, &script, true).await;
                let child = process_with(&shim, &argv).await;

                let meanwhile = async {
                    answers(&shim, GOOD).await;
                    good_works(&shim).await;
                };
                let (a, b, ()) =
                    tokio::join!(shim.kill(&own, "", 9), shim.kill(&host, "", 9), meanwhile);
                a.unwrap();
                b.unwrap();
                for id in [&own, &host] {
                    let status = shim.wait(id, "").await.unwrap().exit_status;
                    assert_eq!(status, 137, "{fault}");
                }
                until("what init left behind", || !alive(child)).await;
                for said in [
                    format!("container {own}: signal 9 is sent without the runtime: "),
                    format!(
                        "container {host}: what init left behind is killed without the runtime: "
                    ),
                ] {
                    let log = shim.log();
                    assert!(
                        log.iter().any(|line| line.contains(&said)),
                        "{said}{log:#?}"
                    );
                }
                remove(&shim, &own, fault, &of_own).await;
                remove(&shim, &host, fault, &of_host).await;
            }
            good_works(&shim).await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}
