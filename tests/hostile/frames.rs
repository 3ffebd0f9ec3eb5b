//! One frame at a time: each is answered, ignored or ends its own connection.

use protobuf::Message;
use ttrpc::Code::{self, INVALID_ARGUMENT, OK, UNIMPLEMENTED};
use ttrpc::proto::KeyValue;

use crate::common::shim::Shim;
use crate::wire::{DATA, Header, LONGEST, RESPONSE, Raw, frame, state};
use crate::world::{as_before, holds, rests, survives, works};

/// What comes of a frame.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// This answer, and the connection goes on.
    Answer(Code),
    /// Nothing, and the connection goes on.
    Nothing,
    /// Any answer, and the connection goes on.
    Any,
}
use Then::{Answer, Any, Nothing};

fn with(change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let payload = state().write_to_bytes().unwrap();
    let mut header = Header::of(&payload);
    change(&mut header);
    header.with(&payload)
}

fn payload(payload: &[u8]) -> Vec<u8> {
    Header::of(payload).with(payload)
}

fn request(change: impl FnOnce(&mut ttrpc::Request)) -> Vec<u8> {
    let mut request = state();
    change(&mut request);
    frame(&request, 1)
}

fn long(n: usize) -> String {
    "x".repeat(n)
}

/// A State of what a client calls a container.
fn about(id: &[u8]) -> Vec<u8> {
    request(|r| {
        r.payload = vec![0x0a];
        let mut length = id.len();
        while length > 0x7f {
            r.payload.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        r.payload.push(length as u8);
        r.payload.extend(id);
    })
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<(&'static str, Vec<u8>, Then)> {
    let pair = |n: usize| KeyValue {
        key: format!("key-{n}"),
        value: long(30),
        ..Default::default()
    };
    let pairs: Vec<KeyValue> = (0..80_000).map(pair).collect();
    let huge = vec![KeyValue {
        key: long(1 << 21),
        value: long(1 << 20),
        ..Default::default()
    }];
    vec![
        (
            "stream id zero",
            with(|h| h.stream = 0),
            Answer(INVALID_ARGUMENT),
        ),
        (
            "stream id even",
            with(|h| h.stream = 2),
            Answer(INVALID_ARGUMENT),
        ),
        (
            "stream id at its end",
            with(|h| h.stream = u32::MAX),
            Answer(OK),
        ),
        ("message type 0", with(|h| h.kind = 0), Nothing),
        (
            "message type of an answer",
            with(|h| h.kind = RESPONSE),
            Nothing,
        ),
        ("message type unknown", with(|h| h.kind = 4), Nothing),
        ("message type 255", with(|h| h.kind = 255), Nothing),
        (
            "data of no stream",
            with(|h| h.kind = DATA),
            Answer(INVALID_ARGUMENT),
        ),
        ("all flags", with(|h| h.flags = 255), Answer(OK)),
        ("empty request", payload(b""), Answer(UNIMPLEMENTED)),
        (
            "no protobuf",
            payload(&[0xff; 64]),
            Answer(INVALID_ARGUMENT),
        ),
        (
            "a length beyond the end",
            payload(b"\x0a\x7fc"),
            Answer(INVALID_ARGUMENT),
        ),
        (
            "a service of no UTF-8",
            payload(b"\x0a\x02\xc3\x28"),
            Answer(INVALID_ARGUMENT),
        ),
        // Unknown fields may be groups, and groups may hold groups.
        (
            "groups in groups",
            payload(&vec![0x7b; LONGEST]),
            Answer(INVALID_ARGUMENT),
        ),
        (
            "groups in groups in a message",
            request(|r| r.payload = vec![0x7b; 1 << 20]),
            Any,
        ),
        (
            "zeros",
            payload(&vec![0; LONGEST]),
            Answer(INVALID_ARGUMENT),
        ),
        (
            "too long",
            payload(&vec![b' '; LONGEST + 1]),
            Answer(INVALID_ARGUMENT),
        ),
        (
            "much too long",
            payload(&vec![b' '; 5 * LONGEST]),
            Answer(INVALID_ARGUMENT),
        ),
        ("much metadata", request(|r| r.metadata = pairs), Answer(OK)),
        ("huge metadata", request(|r| r.metadata = huge), Answer(OK)),
        (
            "a service of 3 MiB",
            request(|r| r.service = long(3 << 20)),
            Answer(INVALID_ARGUMENT),
        ),
        (
            "a method of 3 MiB",
            request(|r| r.method = long(3 << 20)),
            Any,
        ),
        // Its refusal would be too long to be sent if it repeated what was asked.
        (
            "an answer too long",
            request(|r| r.method = long(LONGEST - 64)),
            Any,
        ),
        (
            "a time long ago",
            request(|r| r.timeout_nano = i64::MIN),
            Answer(OK),
        ),
        ("hardly any time", request(|r| r.timeout_nano = 1), Any),
        (
            "all time",
            request(|r| r.timeout_nano = i64::MAX),
            Answer(OK),
        ),
        (
            "an id of 10 kB",
            about(&[b'x'; 10_000]),
            Answer(Code::NOT_FOUND),
        ),
        (
            "an id of 3 MiB",
            about(&vec![b'x'; 3 << 20]),
            Answer(Code::NOT_FOUND),
        ),
        ("an id with a NUL", about(b"c\0"), Answer(Code::NOT_FOUND)),
        (
            "an id that is a path",
            about(b"../c"),
            Answer(Code::NOT_FOUND),
        ),
        ("an id of lines", about(b"c\nd"), Answer(Code::NOT_FOUND)),
        (
            "an id of no UTF-8",
            about(b"\xc3\x28"),
            Answer(Code::UNKNOWN),
        ),
    ]
}

/// One that ends where its connection ends, and one that stays half for ever.
fn halves() -> Vec<(&'static str, Vec<u8>)> {
    let whole = with(|_| {});
    let claim = |length| {
        Header {
            length,
            ..Header::of(b"")
        }
        .bytes()
    };
    vec![
        ("nothing", vec![]),
        ("one byte", whole[..1].to_vec()),
        ("most of a header", whole[..9].to_vec()),
        ("a header", whole[..10].to_vec()),
        ("half of a payload", whole[..whole.len() / 2].to_vec()),
        ("all but a byte", whole[..whole.len() - 1].to_vec()),
        ("a request and a half", [&whole[..], &whole[..12]].concat()),
        ("a promise of 4 MiB", claim(LONGEST as u32)),
        ("a promise of 4 GiB", claim(u32::MAX)),
        (
            "a part of 4 GiB",
            [claim(u32::MAX), vec![0; 1 << 20]].concat(),
        ),
    ]
}

#[test]
fn each_is_answered_or_ignored() {
    survives(async |shim| {
        for (name, bytes, then) in cases() {
            let mut raw = Raw::connect(shim).await;
            raw.send(&bytes).await;
            match then {
                Answer(code) => {
                    let (_, told) = raw
                        .answer()
                        .await
                        .unwrap_or_else(|| panic!("{name}: closed"));
                    assert_eq!(told, code, "{name}");
                }
                Any => assert!(raw.answer().await.is_some(), "{name}: closed"),
                Nothing => {}
            }
            assert!(raw.serves().await, "{name}: not served afterwards");
        }
    });
}

/// All on one connection, and every stream id the same: each is answered.
#[test]
fn a_stream_id_again_and_again() {
    survives(async |shim| {
        let mut raw = Raw::connect(shim).await;
        let many = frame(&state(), 1).repeat(100);
        raw.send(&many).await;
        for _ in 0..100 {
            assert_eq!(raw.answer().await, Some((1, OK)));
        }
        drop(raw);
    });
}

#[test]
fn halves_end_with_their_connection() {
    survives(async |shim| {
        let before = holds(shim);
        for (_, bytes) in halves() {
            Raw::connect(shim).await.send(&bytes).await;
        }
        as_before(shim, before).await;
        let mut held = Vec::new();
        for (name, bytes) in halves() {
            let mut raw = Raw::connect(shim).await;
            raw.send(&bytes).await;
            held.push((name, raw));
        }
        works(shim).await;
        rests(shim).await;
        assert_eq!(holds(shim).fds, before.fds + held.len());
        drop(held);
    });
}

/// A byte at a time: served like any other, and one that stops in the middle is in nobody's way.
#[test]
fn slow_ones() {
    survives(async |shim| {
        let whole = frame(&state(), 1);
        let mut slow = Raw::connect(shim).await;
        let mut stops = Raw::connect(shim).await;
        for (at, byte) in whole.iter().enumerate() {
            slow.send(&[*byte]).await;
            if at < 20 {
                stops.send(&[*byte]).await;
            }
            answers(shim).await;
        }
        assert_eq!(slow.answer().await, Some((1, OK)));
        works(shim).await;
        rests(shim).await;
        drop((slow, stops));
    });
}

async fn answers(shim: &Shim) {
    shim.state("c", "").await.unwrap();
}
