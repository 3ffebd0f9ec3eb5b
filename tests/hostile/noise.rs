//! Random bytes, random frames, and requests of every method bent at random: whatever becomes of
//! their connections, the shim is what it was.

use cotter::proto::task::{CreateTaskRequest, ExecProcessRequest, StateRequest};
use protobuf::Message;
use ttrpc::Request;

use crate::common::random::Random;
use crate::common::shim::{METHODS, process};
use crate::wire::{Header, Raw, frame, state};
use crate::world::{survives, works};

const CONNECTIONS: u64 = 400;

/// Requests about a container that is not there.
fn requests() -> Vec<Vec<u8>> {
    let nobody = "nobody".to_owned();
    let payload = |method: &str| {
        let encoded = match method {
            "Create" => CreateTaskRequest {
                id: nobody.clone(),
                bundle: "/nonexistent/bundle".into(),
                stdout: "/nonexistent/fifo".into(),
                ..Default::default()
            }
            .write_to_bytes(),
            "Exec" => ExecProcessRequest {
                id: nobody.clone(),
                exec_id: "x".into(),
                spec: Some(process("nobody", &["true"])).into(),
                ..Default::default()
            }
            .write_to_bytes(),
            // In all of them the first field is the id and the second, if any, the exec's.
            _ => StateRequest {
                id: nobody.clone(),
                exec_id: "x".into(),
                ..Default::default()
            }
            .write_to_bytes(),
        };
        encoded.unwrap()
    };
    let request = |method: &&str| Request {
        method: (*method).into(),
        payload: payload(method),
        ..state()
    };
    // Shutdown may be obeyed.
    let methods = METHODS.iter().filter(|method| **method != "Shutdown");
    methods.map(|method| frame(&request(method), 1)).collect()
}

/// What one client sends.
fn noise(random: &mut Random, requests: &[Vec<u8>]) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..=random.below(8) {
        let good = random.of(requests);
        let other = random.of(requests);
        let next = match random.below(5) {
            0 => random.bytes(300),
            1 => random.bend(good, other),
            2 => {
                let payload = random.bytes(300);
                let header = Header {
                    stream: random.below(8) as u32,
                    kind: random.below(6) as u8,
                    flags: random.below(256) as u8,
                    ..Header::of(&payload)
                };
                header.with(&payload)
            }
            // Bent, and with a length that is true: it is read as a request.
            3 => {
                let payload = random.bend(&good[10..], &other[10..]);
                Header::of(&payload).with(&payload)
            }
            _ => good.clone(),
        };
        all.extend(next);
    }
    all
}

#[test]
fn whatever_comes() {
    survives(async |shim| {
        let requests = requests();
        for seed in 0..CONNECTIONS {
            let mut raw = Raw::connect(shim).await;
            let noise = noise(&mut Random::new(seed), &requests);
            raw.send(&noise).await;
            let answered = shim.state("c", "").await;
            assert!(answered.is_ok(), "seed {seed}: {answered:?}");
            if seed % 100 == 0 {
                works(shim).await;
            }
        }
    });
}
