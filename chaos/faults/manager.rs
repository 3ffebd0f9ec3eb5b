//! A manager that is away, slow, stuck or half there, as the shim sees it: its event service.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::Scale;
use crate::line::State;
use crate::scene::Scene;
use crate::verdict::Outcome;

/// Execs that exit while the line is broken, and how long that is at least.
async fn while_broken(state: State, execs: usize, time: Duration) -> Outcome {
    let scene = Scene::new().await;
    scene.line.set(state);
    let over = Instant::now() + time;
    let probe = scene.probe();
    scene.burst("x", execs).await;
    sleep_until(over).await;
    scene.probed(probe).await;
    scene.line.set(State::Open);
    scene.end().await
}

/// No socket at all, for as long as the scale says.
pub async fn gone(scale: Scale) -> Outcome {
    while_broken(State::Gone, scale.outage_execs, scale.outage).await
}

/// A socket that takes no more connections.
pub async fn full(scale: Scale) -> Outcome {
    while_broken(State::Full, scale.execs, scale.outage).await
}

/// Stopped: connected, and nothing is read.
pub async fn stopped(scale: Scale) -> Outcome {
    while_broken(State::Stopped, scale.execs, Duration::from_secs(3)).await
}

/// Everything is read, nothing is answered; longer than the first try of an event is given.
pub async fn silent(scale: Scale) -> Outcome {
    while_broken(State::Silent, scale.execs, Duration::from_secs(6)).await
}

/// Every answer is lost with its connection.
pub async fn forgetful(scale: Scale) -> Outcome {
    while_broken(State::Lost, scale.execs / 2, Duration::from_secs(2)).await
}

/// Every event takes a while, and is taken.
pub async fn slow(scale: Scale) -> Outcome {
    let time = Duration::from_millis(15);
    while_broken(State::Slow(time), scale.execs, Duration::from_secs(1)).await
}

/// Killed and back in a loop, at moments of chance.
pub async fn flapping(mut scale: Scale) -> Outcome {
    let scene = Scene::new().await;
    let probe = scene.probe();
    let execs = scale.execs;
    let flaps = async {
        for _ in 0..scale.flaps {
            scene.line.set(State::Gone);
            sleep(Duration::from_millis(scale.random(100))).await;
            scene.line.set(State::Open);
            sleep(Duration::from_millis(scale.random(400))).await;
        }
    };
    tokio::join!(flaps, scene.burst("x", execs));
    scene.probed(probe).await;
    scene.end().await
}
