//! Readers of a container's output that leave, dawdle, and come back.

use std::time::Duration;

use cotter::manager::spec::Spec;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::{OpenOptions, Receiver};
use tokio::time::{sleep, timeout};

use crate::Scale;
use crate::scene::Scene;
use crate::verdict::Outcome;

/// What a container writes, numbered lines, and how long that is.
const LINES: &str = "i=0; while [ $i -lt 60000 ]; do echo $i; i=$((i+1)); done; exit 7";
const COUNT: u32 = 60_000;

/// How long a reader that reads waits for a byte.
const SILENCE: Duration = Duration::from_secs(10);

/// A container that writes to a FIFO, and the FIFO's path.
async fn writer() -> (Scene, String) {
    let mut scene = Scene::new().await;
    scene.shim.bundle("c", Spec::new("c", ["sh", "-c", LINES]));
    let fifos = scene.shim.fifos("c", false);
    let mut request = scene.shim.create_request("c");
    request.stdout.clone_from(&fifos.stdout);
    request.stderr.clone_from(&fifos.stderr);
    // Both are opened by a manager before it asks.
    let early = [&fifos.stdout, &fifos.stderr].map(|path| open(path));
    scene.create(&request).await.unwrap();
    scene.start("c", "").await.unwrap();
    drop(early);
    (scene, fifos.stdout)
}

fn open(path: &str) -> Receiver {
    OpenOptions::new().open_receiver(path).unwrap()
}

/// Reads until the end, or for `bytes`, with a pause after each piece.
async fn read(from: &mut Receiver, into: &mut Vec<u8>, bytes: usize, pause: Duration) {
    let mut piece = [0; 4096];
    let enough = into.len().saturating_add(bytes);
    while into.len() < enough {
        match timeout(SILENCE, from.read(&mut piece)).await {
            Ok(Ok(count)) if count > 0 => into.extend_from_slice(&piece[..count]),
            _ => return,
        }
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}

/// What is told of a container that wrote all and ended, and of all that it wrote.
async fn whole(scene: Scene, got: &[u8]) -> Outcome {
    let status = scene.wait("c", "").await;
    if !matches!(status, Ok(7)) {
        scene.fail(format!("the writer: {status:?}"));
    }
    let want: String = (0..COUNT).map(|n| format!("{n}\n")).collect();
    if got != want.as_bytes() {
        let same = got.iter().zip(want.as_bytes()).take_while(|(a, b)| a == b);
        let (same, got, want) = (same.count(), got.len(), want.len());
        scene.fail(format!(
            "{got} bytes of {want} came, the first {same} right"
        ));
    }
    scene.remove("c").await;
    scene.end().await
}

/// Nobody reads for a while, then somebody does.
pub async fn back(_: Scale) -> Outcome {
    let (scene, path) = writer().await;
    let mut got = Vec::new();
    let probe = scene.probe();
    for bytes in [10_000, 100_000, usize::MAX] {
        sleep(Duration::from_millis(500)).await;
        let mut reader = open(&path);
        read(&mut reader, &mut got, bytes, Duration::ZERO).await;
    }
    scene.probed(probe).await;
    whole(scene, &got).await
}

/// A reader that is slower than the writer.
pub async fn slow(_: Scale) -> Outcome {
    let (scene, path) = writer().await;
    let mut got = Vec::new();
    let mut reader = open(&path);
    let probe = scene.probe();
    read(&mut reader, &mut got, usize::MAX, Duration::from_millis(20)).await;
    scene.probed(probe).await;
    whole(scene, &got).await
}

/// Nobody reads ever again: the writer can be killed, and is told and deleted in time.
pub async fn gone(_: Scale) -> Outcome {
    let (scene, _) = writer().await;
    let probe = scene.probe();
    sleep(Duration::from_millis(500)).await;
    scene.probed(probe).await;
    scene.remove("c").await;
    scene.good_works("after").await;
    scene.end().await
}
