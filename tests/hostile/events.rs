//! A manager whose answers to events are none: they are asked again until there is one.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use cotter::events::{Event, Limits, Publisher, Queue};
use cotter::manager::events::EventServer;
use cotter::proto::events::TaskExit;

use crate::common::random::Random;
use crate::common::shim::run;
use crate::common::{LIMIT, TempDir};
use crate::wire::{DATA, Header, RESPONSE};

/// What comes instead of an answer to stream 1, before the connection ends.
fn noises() -> Vec<Vec<u8>> {
    let answer = |header: Header, payload: &[u8]| {
        Header {
            kind: RESPONSE,
            ..header
        }
        .with(payload)
    };
    let long = Header {
        length: u32::MAX,
        ..Header::of(b"")
    };
    let strange = Header {
        stream: 2,
        ..Header::of(b"")
    };
    let data = Header {
        kind: DATA,
        ..Header::of(b"x")
    };
    vec![
        vec![],
        vec![0],
        // A request.
        Header::of(b"x").with(b"x"),
        data.with(b"x"),
        answer(Header::of(&[0xff; 64]), &[0xff; 64]),
        answer(Header::of(b"\x12\x7f"), b"\x12\x7f"),
        answer(Header::of(b"xxxx"), b"x"),
        answer(long, b""),
        answer(strange, b""),
        // A status that is none: groups in groups.
        answer(Header::of(&[0x0b; 1000]), &[0x0b; 1000]),
        Random::new(7).bytes(10_000),
    ]
}

#[test]
fn noise_is_no_answer() {
    run(async {
        let dir = TempDir::new("cotter-noise");
        let path = dir.path().join("events.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let noisy = std::thread::spawn(move || {
            for noise in noises() {
                let (mut manager, _) = listener.accept().unwrap();
                manager.set_read_timeout(Some(LIMIT)).unwrap();
                manager.read_exact(&mut [0; 10]).unwrap();
                // The publisher may have hung up in the middle of it.
                let _ = manager.write_all(&noise);
            }
        });
        let queue = Queue::new();
        let limits = Limits {
            settling: Duration::ZERO,
            ..Limits::default()
        };
        let address = path.to_string_lossy().into_owned();
        let publisher = Publisher::with_limits(queue.clone(), address, "ns".into(), limits);
        for pid in [1, 2] {
            let id = "c".to_owned();
            queue.push(Event::Exit(TaskExit {
                pid,
                id,
                ..Default::default()
            }));
        }
        while !noisy.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        noisy.join().unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut server = EventServer::listen(&path).await.unwrap();
        for expected in [1, 2] {
            let told = server.next_within(LIMIT).await.unwrap();
            assert!(
                matches!(&told.event, cotter::manager::events::Event::Exit(e) if e.pid == expected),
                "{told:?}"
            );
        }
        assert_eq!(publisher.drain(LIMIT).await, 0);
        server.stop().await;
    });
}
