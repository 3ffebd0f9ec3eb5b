//! Runtimes that hang, are killed and lie.

use std::time::Duration;

use cotter::manager::spec::Spec;
use cotter::proto::task::CreateTaskRequest;

use crate::Scale;
use crate::runtime::Faulty;
use crate::scene::{GOOD, Scene};
use crate::verdict::Outcome;

/// What a call of a runtime that hangs may take.
const CALL: Duration = Duration::from_secs(2);

/// Has `operation` of a container's runtime go wrong in one of these ways after the other. What the
/// shim answers is its own business; that it answers, what is left, and what it tells is judged.
async fn wrong(mut scene: Scene, operation: &str, faults: &[&str]) -> Outcome {
    for (n, fault) in faults.iter().enumerate() {
        let id = format!("c{n}");
        let faulty = Faulty::new(&scene.shim, &id);
        scene.shim.bundle(&id, Spec::new(&id, ["sleep", "100000"]));
        let request = faulty.create_request(&scene.shim, &id);
        let probe = scene.probe();
        meets(&mut scene, operation, fault, &faulty, &request).await;
        scene.probed(probe).await;
        scene.good_works(&format!("after{n}")).await;
    }
    scene.end().await
}

/// A life in which one operation goes wrong.
async fn meets(
    scene: &mut Scene,
    operation: &str,
    fault: &str,
    faulty: &Faulty,
    request: &CreateTaskRequest,
) {
    let id = request.id.as_str();
    let goes_wrong = |now: &str| {
        if now == operation {
            faulty.set(operation, fault);
        }
    };
    let well = |now: &str| {
        if now == operation {
            faulty.clear(operation);
        }
    };
    goes_wrong("create");
    let created = scene.create(request).await;
    well("create");
    scene.hurry();
    // The id is free again, and the next try succeeds.
    if created.is_err() && scene.create(request).await.is_err() {
        return scene.fail(format!("Create of {id} after {fault}"));
    }
    goes_wrong("start");
    let started = scene.start(id, "").await;
    well("start");
    scene.hurry();
    if started.is_ok() {
        goes_wrong("exec");
        let ran = scene.exec(id, "x", &["sleep", "100000"]).await;
        well("exec");
        scene.hurry();
        if ran.is_ok() {
            goes_wrong("kill");
            let _ = scene.kill(id, "x", 9).await;
            well("kill");
            scene.hurry();
            let _ = scene.kill(id, "x", 9).await;
            let _ = scene.wait(id, "x").await;
        }
        let _ = scene.delete(id, "x").await;
        goes_wrong("kill");
        let _ = scene.kill(id, "", 9).await;
        well("kill");
        scene.hurry();
        let _ = scene.kill(id, "", 9).await;
        let _ = scene.wait(id, "").await;
    }
    goes_wrong("delete");
    let deleted = scene.delete(id, "").await;
    well("delete");
    scene.hurry();
    if deleted.is_err()
        && let Err(why) = scene.delete(id, "").await
        && why.code != cotter::error::Code::NotFound
    {
        scene.fail(format!("Delete of {id} after {fault}: {why}"));
    }
}

/// It never ends, before its work and after it.
pub async fn hangs(_: Scale, operation: &str) -> Outcome {
    let scene = Scene::with_call_limit(CALL).await;
    wrong(scene, operation, &["hang", "hang-after"]).await
}

/// It is stopped by a signal: before its work, in the middle of it, after it.
pub async fn stops(_: Scale, operation: &str) -> Outcome {
    let scene = Scene::with_call_limit(CALL).await;
    wrong(scene, operation, &["stop", "stop-within", "stop-after"]).await
}

/// It is killed, before its work and after it.
pub async fn killed(_: Scale, operation: &str) -> Outcome {
    let scene = Scene::new().await;
    wrong(scene, operation, &["killed-before", "killed-after"]).await
}

/// It says that it did what it did not, that it did not what it did, nothing, or rubbish.
pub async fn lies(_: Scale, operation: &str) -> Outcome {
    let faults = [
        "nothing",
        "silent",
        "said",
        "garbage",
        "after",
        "half",
        "no-pid",
        "pid=",
        "pid=12x",
        "pid=4194304",
    ];
    // The last ones are about a pid file.
    let count = match operation {
        "create" | "exec" => faults.len(),
        _ => 5,
    };
    wrong(Scene::new().await, operation, &faults[..count]).await
}

/// A burst in which every third call of `exec` is slow, so that calls overtake each other.
pub async fn slow(scale: Scale) -> Outcome {
    let mut scene = Scene::new().await;
    let faulty = Faulty::new(&scene.shim, "slow");
    scene.shim.bundle("c", Spec::new("c", ["sleep", "100000"]));
    scene
        .create(&faulty.create_request(&scene.shim, "c"))
        .await
        .unwrap();
    scene.start("c", "").await.unwrap();
    faulty.set("exec", "slow-after");
    let probe = scene.probe();
    let held = scene.exec("c", "held", &["sh", "-c", "exit 3"]);
    let others = async {
        faulty.arrived("exec").await;
        scene.burst("x", scale.execs).await;
        faulty.clear("exec");
        faulty.release("slow-after");
    };
    let (held, ()) = tokio::join!(held, others);
    let status = match held {
        Ok(_) => scene.wait("c", "held").await,
        Err(why) => Err(why),
    };
    if !matches!(status, Ok(3)) {
        scene.fail(format!("the held exec: {status:?}"));
    }
    scene.probed(probe).await;
    scene.remove("c").await;
    scene.good_works(&format!("after-{GOOD}")).await;
    scene.end().await
}
