//! Many clients at once, and clients that want too much.

use cotter::proto::task::WaitRequest;
use protobuf::Message;
use tokio::io::AsyncWriteExt;
use ttrpc::Request;

use crate::common::limit_descriptors;
use crate::common::shim::a_moment;
use crate::wire::{Raw, frame, state};
use crate::world::{holds, rests, survives, works};

/// More connections than the shim has descriptors, each with half a request: those who were there
/// before are served as ever, new processes included; and when the crowd is gone, so is its memory.
#[test]
fn a_crowd_takes_nothing_from_others() {
    survives(async |shim| {
        let files = 200;
        limit_descriptors(shim.pid(), files);
        let half = &frame(&state(), 1)[..20];
        let mut crowd = Vec::new();
        for _ in 0..2 * files {
            // The last ones wait to be let in, and then not even that is possible.
            let Some(mut raw) = Raw::try_connect(shim).await else {
                break;
            };
            raw.send(half).await;
            crowd.push(raw);
        }
        assert!(crowd.len() as u64 > files, "{}", crowd.len());
        for _ in 0..3 {
            works(shim).await;
        }
        // It looks for room now and then.
        rests(shim).await;
        // Whoever goes makes room for one who waits.
        let mut last = crowd.pop().unwrap();
        drop(crowd);
        last.send(&frame(&state(), 1)[20..]).await;
        assert!(last.answer().await.is_some());
        drop(last);
    });
}

/// Thousands that come, ask and go, more of them than there could ever be at once.
#[test]
fn thousands_one_after_another() {
    survives(async |shim| {
        for round in 0..30 {
            let mut crowd = Vec::new();
            for _ in 0..100 {
                let mut raw = Raw::connect(shim).await;
                raw.send(&frame(&state(), 1)).await;
                crowd.push(raw);
            }
            if round % 2 == 0 {
                for raw in &mut crowd {
                    assert!(raw.answer().await.is_some());
                }
            }
        }
    });
}

/// Who asks and never listens is not asked to go on: the answers do not pile up.
#[test]
fn answers_that_nobody_reads() {
    survives(async |shim| {
        let before = holds(shim);
        let mut deaf = Raw::connect(shim).await;
        let many = frame(&state(), 1).repeat(1000);
        let asking = tokio::spawn(async move {
            for _ in 0..400 {
                deaf.0.write_all(&many).await.unwrap();
            }
        });
        let mut most = 0;
        let mut last = 0;
        let mut quiet = 0;
        // Until everything is taken, or nothing more is.
        while quiet < 20 && !asking.is_finished() {
            works(shim).await;
            a_moment().await;
            let now = holds(shim).kib;
            most = most.max(now);
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
        }
        assert!(most < before.kib + 8 * 1024, "{most} KiB of {before:?}");
        rests(shim).await;
        asking.abort();
    });
}

/// Waits by the thousand are let go with their client.
#[test]
fn waits_by_the_thousand() {
    survives(async |shim| {
        let asked = WaitRequest {
            id: "c".into(),
            ..Default::default()
        };
        let wait = Request {
            method: "Wait".into(),
            payload: asked.write_to_bytes().unwrap(),
            ..state()
        };
        let mut raw = Raw::connect(shim).await;
        for n in 0..10_000 {
            raw.send(&frame(&wait, 2 * n + 1)).await;
        }
        assert!(raw.serves().await);
        works(shim).await;
        rests(shim).await;
    });
}
