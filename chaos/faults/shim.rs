//! The shim itself is killed, at each step of what it does, or stopped for a while.
//!
//! What containerd does then is done here: `delete` is called, once, and has to clear everything
//! away and tell how the container ended.

use std::time::Duration;

use tokio::time::sleep;

use crate::Scale;
use crate::common::signal;
use crate::runtime::Faulty;
use crate::scene::{GOOD, Scene};
use crate::verdict::Outcome;

/// Long enough for all that is to be done meanwhile.
const CALL: Duration = Duration::from_secs(20);

/// Killed while the runtime is at `operation`: before its work (`slow-before`) or after it. When
/// everything is cleared away the runtime goes on, if it is still there.
pub async fn killed(scale: Scale, operation: &str, moment: &'static str) -> Outcome {
    killed_under(scale, "CRUN", operation, moment).await
}

/// The same under this runtime.
pub async fn killed_under(
    _: Scale,
    runtime: &str,
    operation: &str,
    moment: &'static str,
) -> Outcome {
    let scene = Scene::bare_under(runtime, "c", &["sleep", "100000"], CALL).await;
    let faulty = Faulty::new(&scene.shim, "c");
    let request = faulty.create_request(&scene.shim, "c");
    let at = |now: &str| {
        if now == operation {
            faulty.set(operation, moment);
        }
        now == operation
    };
    let kill = async {
        faulty.arrived(operation).await;
        scene.kill_shim();
        scene.unsure();
    };
    // Without an answer all of them: that they end is what the clock of the scene sees.
    if at("create") {
        let (_, ()) = tokio::join!(scene.create(&request), kill);
    } else {
        scene.create(&request).await.unwrap();
        if at("start") {
            let (_, ()) = tokio::join!(scene.start("c", ""), kill);
        } else {
            scene.start("c", "").await.unwrap();
            if at("exec") {
                let args = ["sleep", "100000"];
                let (_, ()) = tokio::join!(scene.exec("c", "x", &args), kill);
            } else {
                scene.kill("c", "", 9).await.unwrap();
                scene.wait("c", "").await.unwrap();
                assert!(at("delete"));
                let (_, ()) = tokio::join!(scene.delete("c", ""), kill);
            }
        }
    }
    scene.unsure();
    // Not that of `delete` itself.
    faulty.clear(operation);
    scene.deleted(|| faulty.release(moment)).await
}

/// Killed with nothing under way but a running init, and execs that run and have ended.
pub async fn killed_idle(_: Scale) -> Outcome {
    let scene = Scene::new().await;
    scene
        .exec(GOOD, "lives", &["sleep", "100000"])
        .await
        .unwrap();
    scene.exec_to_end(GOOD, "ended", &["true"]).await.unwrap();
    scene.kill_shim();
    scene.unsure();
    scene.deleted(|| {}).await
}

/// Stopped while its containers and execs exit.
pub async fn stopped(scale: Scale) -> Outcome {
    let mut scene = Scene::new().await;
    let shim = scene.shim_pid();
    let mut pids = Vec::new();
    for n in 0..scale.execs / 4 {
        let id = format!("c{n}");
        pids.push(scene.run(&id, &["sleep", "100000"]).await);
        pids.push(scene.exec(GOOD, &id, &["sleep", "100000"]).await.unwrap());
    }
    signal(shim, "STOP");
    pids.iter().for_each(|pid| signal(*pid, "KILL"));
    sleep(Duration::from_secs(2)).await;
    signal(shim, "CONT");
    for n in 0..scale.execs / 4 {
        let id = format!("c{n}");
        if !matches!(scene.wait(GOOD, &id).await, Ok(137)) {
            scene.fail(format!("the end of exec {id}"));
        }
        scene.remove(&id).await;
    }
    scene.good_works("after").await;
    scene.end().await
}

/// Started again for the container that it serves, as a manager does that has forgotten it.
pub async fn twice(_: Scale) -> Outcome {
    let scene = Scene::new().await;
    // The same id again is answered with the shim that is there, or refused; it never harms it.
    let _ = scene.shim.launch.start().await;
    scene.good_works("after").await;
    scene.end().await
}

/// Killed at moments of chance while a container is made, run and removed.
pub async fn any_moment(mut scale: Scale) -> Outcome {
    let mut all = Outcome::default();
    for _ in 0..scale.flaps {
        let scene = Scene::bare("c", &["sleep", "100000"], CALL).await;
        let moment = Duration::from_micros(scale.random(60_000));
        let life = async {
            let request = scene.shim.create_request("c");
            scene.create(&request).await?;
            scene.start("c", "").await?;
            scene.exec("c", "x", &["true"]).await?;
            scene.kill("c", "", 9).await?;
            scene.delete("c", "").await
        };
        let kill = async {
            sleep(moment).await;
            scene.kill_shim();
        };
        let _ = tokio::join!(life, kill);
        eprintln!("killed after {moment:?}");
        scene.unsure();
        all.add(scene.deleted(|| {}).await);
    }
    all
}
