//! Nothing goes wrong, but very often: what one cycle leaves behind adds up.

use std::cell::Cell;
use std::time::{Duration, Instant};

use cotter::manager::client::Tasks;
use cotter::manager::spec::Spec;
use cotter::proto::task::{ExecProcessRequest, WaitRequest};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::OpenOptions;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Scale;
use crate::common::containerd::go_shim;
use crate::common::shim::each;
use crate::scene::{GOOD, Scene};
use crate::verdict::Outcome;

/// How many Waits go over one connection.
const TOGETHER: usize = 25;
/// How many streams there are at once.
const PARALLEL: usize = 8;
/// How many containers there are before what one leaves behind is counted.
const WARM: usize = 5;
/// After so long the Go shim is given no more streams: each may take its Delete 10 s.
const GO_TIME: Duration = Duration::from_secs(15);
/// How long a first byte may take.
const SILENCE: Duration = Duration::from_secs(10);

/// Execs, one after the other and some at once.
pub async fn execs(scale: Scale) -> Outcome {
    let mut scene = Scene::new().await;
    scene.burst("warm", scale.execs).await;
    scene.nothing_grows().await;
    scene.burst("x", scale.cycles).await;
    scene.end().await
}

/// Containers, one after the other.
pub async fn containers(scale: Scale) -> Outcome {
    let mut scene = Scene::new().await;
    for n in 0..WARM + scale.containers {
        if n == WARM {
            scene.nothing_grows().await;
        }
        let id = format!("c{n}");
        scene.shim.bundle(&id, Spec::new(&id, ["sleep", "100000"]));
        let request = scene.shim.create_request(&id);
        scene.create(&request).await.unwrap();
        scene.start(&id, "").await.unwrap();
        scene.remove(&id).await;
    }
    scene.end().await
}

/// Waits whose clients go away, many on each connection.
pub async fn waits(scale: Scale) -> Outcome {
    let mut scene = Scene::new().await;
    abandon_waits(&scene, scale.execs).await;
    scene.nothing_grows().await;
    abandon_waits(&scene, scale.abandoned).await;
    scene.good_works("after").await;
    scene.end().await
}

async fn abandon_waits(scene: &Scene, count: usize) {
    for _ in 0..count.div_ceil(TOGETHER) {
        let tasks = Tasks::connect(&scene.shim.endpoint).await.unwrap();
        let mut waits = JoinSet::new();
        for _ in 0..TOGETHER {
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
}

/// Streams whose clients go away: before the first byte, and in the middle of more than a pipe holds.
pub async fn streams(scale: Scale) -> Outcome {
    let mut scene = Scene::new().await;
    abandon_streams(&scene, "warm", scale.execs).await;
    scene.nothing_grows().await;
    abandon_streams(&scene, "x", scale.abandoned).await;
    scene.good_works("after").await;
    scene.end().await
}

async fn abandon_streams(scene: &Scene, prefix: &str, count: usize) {
    let words = ["sh", "-c", "head -c 200000 /dev/zero; exec sleep 100000"];
    let (since, begun) = (Instant::now(), &Cell::new(0));
    each(PARALLEL, 0..count, |n| async move {
        if go_shim() && since.elapsed() > GO_TIME {
            return;
        }
        begun.set(begun.get() + 1);
        let exec = format!("{prefix}{n}");
        let fifos = scene.shim.fifos(&exec, true);
        let mut reader = OpenOptions::new().open_receiver(&fifos.stdout).unwrap();
        let errors = OpenOptions::new().open_receiver(&fifos.stderr).unwrap();
        let request = ExecProcessRequest {
            stdin: fifos.stdin.clone(),
            stdout: fifos.stdout.clone(),
            stderr: fifos.stderr.clone(),
            ..scene.shim.exec_request(GOOD, &exec, &words)
        };
        scene.add_as(&request).await.unwrap();
        scene.start(GOOD, &exec).await.unwrap();
        drop(errors);
        if n % 2 == 0 {
            let some = timeout(SILENCE, reader.read(&mut [0; 4096])).await;
            assert!(matches!(some, Ok(Ok(1..))), "{some:?}");
        }
        drop(reader);
        scene.kill(GOOD, &exec, 9).await.unwrap();
        scene.wait(GOOD, &exec).await.unwrap();
        scene.delete(GOOD, &exec).await.unwrap();
    })
    .await;
    if begun.get() < count {
        scene.fail(format!("{} of {count} streams were begun", begun.get()));
    }
}
