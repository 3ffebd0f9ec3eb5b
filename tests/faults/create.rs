//! Create with a runtime that fails: a whole container or none.

use cotter::error::Code;

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::runtime::Faulty;
use crate::world::{GOOD, bundle, census, good_works, in_bundle, nothing_new, says, world};

/// Each fault, and what its error has to say.
const FAULTS: [(&str, &[&str]); 16] = [
    ("said", &["OCI runtime create failed: it broke on purpose"]),
    ("silent", &["OCI runtime create failed", "exit status 7"]),
    ("garbage", &["OCI runtime create failed", "exit status 1"]),
    ("killed-before", &["OCI runtime create failed", "signal 9"]),
    ("killed-after", &["OCI runtime create failed", "signal 9"]),
    ("killed-ahead", &["OCI runtime create failed", "signal 9"]),
    (
        "after",
        &["OCI runtime create failed: it broke after the work"],
    ),
    ("half", &["OCI runtime create failed: it broke half-way"]),
    ("nothing", &["OCI runtime container pid", "init.pid"]),
    ("no-pid", &["OCI runtime container pid", "init.pid"]),
    (
        "pid=",
        &["OCI runtime container pid", "init.pid: no pid: \"\""],
    ),
    ("pid=12x", &["OCI runtime container pid", "\"12x\""]),
    ("pid=-1", &["OCI runtime container pid", "\"-1\""]),
    (
        "pid=99999999999999999999",
        &["OCI runtime container pid", "\"99999999999999999999\""],
    ),
    ("pid=4194304", &["OCI runtime container pid", "4194304"]),
    ("pid=1", &["OCI runtime container pid", "process 1"]),
];

#[test]
fn a_failed_create_leaves_nothing() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &[]).await;
            bundle(&mut shim, &faulty, "c");
            let before = census(&shim);
            for (fault, parts) in FAULTS {
                fails(&mut shim, &faulty, fault, parts).await;
                nothing_new(&shim, &before, fault).await;
            }
            // The pid of another container's process: signals for one would go to the other.
            let other = shim.state(GOOD, "").await.unwrap().pid;
            let fault = format!("pid={other}");
            fails(&mut shim, &faulty, &fault, &["OCI runtime container pid"]).await;
            nothing_new(&shim, &before, &fault).await;
            good_works(&shim).await;

            faulty.clear("create");
            let request = bundle(&mut shim, &faulty, "c");
            shim.tasks.create(&request).await.unwrap();
            shim.start_process("c", "").await.unwrap();
            shim.remove("c").await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

async fn fails(shim: &mut Shim, faulty: &Faulty, fault: &str, parts: &[&str]) {
    faulty.set("create", fault);
    let request = bundle(shim, faulty, "c");
    let error = shim.tasks.create(&request).await.expect_err(fault);
    let code = match fault {
        "nothing" | "no-pid" => Code::NotFound,
        _ => Code::Unknown,
    };
    says(&error, code, parts);
    assert_eq!(
        shim.state("c", "").await.unwrap_err().code,
        Code::NotFound,
        "{fault}"
    );
    assert_eq!(
        shim.delete("c", "").await.unwrap_err().code,
        Code::NotFound,
        "{fault}"
    );
    assert!(
        !shim.state_dir().join("c").exists(),
        "{fault}: the runtime knows it"
    );
    assert_eq!(in_bundle(shim, "c"), Vec::<String>::new(), "{fault}");
}
