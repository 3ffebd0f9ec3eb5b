//! A container with the host's pids whose processes come to the shim by the thousand, and go as fast as
//! they can be made: everybody else is served as ever, and all are reaped in the end.

use std::time::{Duration, Instant};

use cotter::manager::spec::Spec;

use crate::common::shim::{self, RUNTIMES, Shim, run, until};

/// Children of the shim that do nothing. A look at all children goes past them.
const SLEEPING: usize = 3_000;
/// They read what never comes. To lose a child, fork twice.
const SLEEPERS: &str = "sleep 10000 | { exec 3<&0; i=0;
while [ $i -lt 3000 ]; do (read x <&3 &); i=$((i+1)); done; wait; }";
/// One that forks for ever.
const STORM: &str = "while :; do (: &); done";
/// Containers that are killed meanwhile.
const VICTIMS: [&str; 3] = ["v0", "v1", "v2"];
/// As long as a State, and the end of a container that is killed, may take beside them.
const STATE: Duration = Duration::from_millis(20);
const KILL: Duration = Duration::from_millis(100);

fn spec(id: &str, args: &[&str]) -> Spec {
    let mut spec = Spec::new(id, args.iter().copied());
    spec.host_pids = true;
    spec
}

/// How many children the shim has, dead ones too.
fn children(shim: u32) -> usize {
    let list = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children"));
    list.unwrap().split_whitespace().count()
}

/// How long it took to be answered, on average: who is served at once for a while, and then not at all, is
/// not served.
async fn average(times: u32, mut ask: impl AsyncFnMut(u32)) -> Duration {
    let mut took = Duration::ZERO;
    for n in 0..times {
        let begun = Instant::now();
        ask(n).await;
        took += begun.elapsed();
        shim::a_moment().await;
    }
    took / times
}

/// What works in `good` works.
async fn good_works(shim: &Shim, n: u32) {
    let id = format!("x{n}");
    let (script, status) = [("exit 7", 7), ("true", 0)][n as usize % 2];
    shim.exec("good", &id, &["sh", "-c", script]).await.unwrap();
    assert_eq!(shim.wait("good", &id).await.unwrap().exit_status, status);
    shim.delete("good", &id).await.unwrap();
}

#[test]
fn a_storm_beside_thousands_of_orphans() {
    for runtime in RUNTIMES {
        run(async {
            let spec_of_first = spec("many", &["sh", "-c", SLEEPERS]);
            let dialect = cotter::manager::dialect::Dialect::Proto23;
            let mut shim = Shim::start_as(dialect, runtime, spec_of_first, "many").await;
            shim.create("many").await.unwrap();
            shim.start_process("many", "").await.unwrap();
            shim.run("good", &["sleep", "1000"]).await;
            for id in VICTIMS {
                shim.bundle(id, spec(id, &["sleep", "1000"]));
                shim.create(id).await.unwrap();
                shim.start_process(id, "").await.unwrap();
            }
            let pid = shim.pid();
            until("the orphans are the shim's", || children(pid) >= SLEEPING).await;

            shim.exec("many", "storm", &["sh", "-c", STORM])
                .await
                .unwrap();
            let state = average(100, async |_| {
                assert!(shim.state("good", "").await.is_ok());
            });
            let state = state.await;
            assert!(state < STATE, "State took {state:?}");
            for n in 0..6 {
                good_works(&shim, n).await;
            }
            let mut killed = Duration::MAX;
            for id in VICTIMS {
                let begun = Instant::now();
                shim.kill(id, "", 9).await.unwrap();
                assert_eq!(shim.wait(id, "").await.unwrap().exit_status, 137);
                // Of several, since other tests share the machine.
                killed = killed.min(begun.elapsed());
                shim.delete(id, "").await.unwrap();
            }
            assert!(killed < KILL, "a killed container ended after {killed:?}");

            // All of them at once.
            shim.kill("many", "", 9).await.unwrap();
            assert_eq!(shim.wait("many", "").await.unwrap().exit_status, 137);
            good_works(&shim, 0).await;
            until("only the good one is left", || children(pid) == 1).await;
            shim.delete("many", "").await.unwrap();
            shim.remove("good").await;
            shim.end().await;
        });
    }
}
