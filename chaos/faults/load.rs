//! Nothing goes wrong, but very often: what one cycle leaves behind adds up.

use std::time::Duration;

use cotter::manager::client::Tasks;
use cotter::manager::spec::Spec;
use cotter::proto::task::WaitRequest;
use tokio::task::JoinSet;

use crate::Scale;
use crate::scene::{GOOD, Scene};
use crate::verdict::Outcome;

/// What the heap of a shim may have more than before, in KiB.
const GROWTH: u64 = 512;

async fn judged(scene: Scene, before: u64) -> Outcome {
    let after = scene.memory();
    if after > before + GROWTH {
        scene.fail(format!("private memory went from {before} to {after} KiB"));
    }
    scene.end().await
}

/// Execs, one after the other and some at once.
pub async fn execs(scale: Scale) -> Outcome {
    let scene = Scene::new().await;
    scene.burst("warm", scale.execs).await;
    let before = scene.memory();
    scene.burst("x", scale.cycles).await;
    judged(scene, before).await
}

/// Containers, one after the other.
pub async fn containers(scale: Scale) -> Outcome {
    let mut scene = Scene::new().await;
    let mut before = 0;
    for n in 0..scale.cycles / 20 {
        let id = format!("c{n}");
        scene.shim.bundle(&id, Spec::new(&id, ["sleep", "100000"]));
        let request = scene.shim.create_request(&id);
        scene.create(&request).await.unwrap();
        scene.start(&id, "").await.unwrap();
        scene.remove(&id).await;
        if n == 4 {
            before = scene.memory();
        }
    }
    judged(scene, before).await
}

/// Waits whose clients go away.
pub async fn waits(scale: Scale) -> Outcome {
    let scene = Scene::new().await;
    let abandon = async || {
        for _ in 0..scale.cycles / 250 {
            let tasks = Tasks::connect(&scene.shim.endpoint).await.unwrap();
            let mut waits = JoinSet::new();
            for _ in 0..25 {
                let request = WaitRequest {
                    id: GOOD.into(),
                    ..Default::default()
                };
                let tasks = tasks.within(Duration::from_secs(60));
                waits.spawn(async move { tasks.wait_within(&request).await });
            }
            // Answered behind the Waits that were sent before it.
            tasks.connect_task(&Default::default()).await.unwrap();
            waits.shutdown().await;
        }
    };
    abandon().await;
    let before = scene.memory();
    abandon().await;
    scene.good_works("after").await;
    judged(scene, before).await
}
