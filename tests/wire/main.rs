//! The generated types against bytes that real managers and shims exchanged: every field is where
//! it should be, nothing is left over, and encoding gives the very bytes back.
//!
//! The captures lie beside this file, with the script that made them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bootstrap;
mod events;
mod task;

use std::collections::HashMap;
use std::fmt::Debug;

use cotter::proto::events_ttrpc::ForwardRequest;
use cotter::proto::task::*;
use cotter::proto::types::{Envelope, Mount};
use cotter::proto::{Any, Named, Timestamp, pack, runc_options, unpack};
use protobuf::{Message, MessageField};

/// What containerd's Go code sends for "never": the year 1.
const GO_ZERO_TIME: i64 = -62_135_596_800;

const BUNDLE: &str = "/run/wire/state/io.containerd.runtime.v2.task/wire/one";

struct Capture {
    messages: HashMap<String, (String, Vec<u8>)>,
}

impl Capture {
    fn parse(text: &str) -> Self {
        let messages = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let [label, method, direction, hex] = words[..] else {
                    panic!("malformed line: {line}");
                };
                let bytes = (0..hex.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                    .collect();
                (label.to_owned(), (format!("{method} {direction}"), bytes))
            })
            .collect();
        Self { messages }
    }

    fn bytes(&self, label: &str) -> &[u8] {
        &self.messages[label].1
    }

    /// Decodes a message, holds it against what it should say, and encodes it again.
    #[track_caller]
    fn holds<M: Message + Debug>(&self, label: &str, expected: &M) {
        let bytes = self.bytes(label);
        let message = M::parse_from_bytes(bytes).unwrap();
        assert_eq!(&message, expected, "{label}");
        assert_eq!(message.write_to_bytes().unwrap(), bytes, "{label}");
    }

    /// The same for an event in its envelope.
    #[track_caller]
    fn tells<M: Named + Debug>(&self, label: &str, topic: &str, time: Timestamp, expected: &M) {
        self.holds(
            label,
            &ForwardRequest {
                envelope: some(Envelope {
                    timestamp: some(time),
                    namespace: "wire".into(),
                    topic: topic.into(),
                    event: some(pack(expected).unwrap()),
                    ..Default::default()
                }),
                ..Default::default()
            },
        );
        let request = ForwardRequest::parse_from_bytes(self.bytes(label)).unwrap();
        let event = unpack::<M>(&request.envelope.event).unwrap();
        assert_eq!(event.as_ref(), Some(expected), "{label}");
    }
}

fn containerd_1_6() -> Capture {
    Capture::parse(include_str!("containerd-1.6.20.hex"))
}

fn containerd_2_1() -> Capture {
    Capture::parse(include_str!("containerd-2.1.9.hex"))
}

fn some<M>(message: M) -> MessageField<M> {
    MessageField::some(message)
}

fn at(seconds: i64, nanos: i32) -> Timestamp {
    Timestamp {
        seconds,
        nanos,
        ..Default::default()
    }
}

fn overlay(number: u32) -> Mount {
    let snapshots = "/run/wire/root/io.containerd.snapshotter.v1.overlayfs/snapshots";
    Mount {
        type_: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            "index=off".into(),
            format!("workdir={snapshots}/{number}/work"),
            format!("upperdir={snapshots}/{number}/fs"),
            format!("lowerdir={snapshots}/1/fs"),
        ],
        ..Default::default()
    }
}

fn options() -> runc_options::Options {
    runc_options::Options {
        binary_name: "runc".into(),
        root: "/run/wire/runc".into(),
        ..Default::default()
    }
}

fn fifo(name: &str) -> String {
    format!("/run/containerd/fifo/{name}")
}

#[test]
fn every_captured_message_survives_a_round_trip() {
    fn round_trip<M: Message>(bytes: &[u8]) -> (Vec<u8>, bool) {
        let message = M::parse_from_bytes(bytes).unwrap();
        let known = message.special_fields().unknown_fields().iter().count() == 0;
        (message.write_to_bytes().unwrap(), known)
    }
    let (old, new) = (containerd_1_6(), containerd_2_1());
    assert_eq!((old.messages.len(), new.messages.len()), (47, 47));
    for (label, (what, bytes)) in old.messages.iter().chain(&new.messages) {
        let method = what
            .trim_start_matches("containerd.task.v2.Task/")
            .trim_start_matches("containerd.task.v3.Task/");
        let (again, known) = match method {
            "start/stdin request" => round_trip::<Any>(bytes),
            "start/stdout response" => continue,
            "Create request" => round_trip::<CreateTaskRequest>(bytes),
            "Create response" => round_trip::<CreateTaskResponse>(bytes),
            "Connect request" => round_trip::<ConnectRequest>(bytes),
            "Connect response" => round_trip::<ConnectResponse>(bytes),
            "Exec request" => round_trip::<ExecProcessRequest>(bytes),
            "Start request" => round_trip::<StartRequest>(bytes),
            "Start response" => round_trip::<StartResponse>(bytes),
            "State request" => round_trip::<StateRequest>(bytes),
            "State response" => round_trip::<StateResponse>(bytes),
            "Pids request" => round_trip::<PidsRequest>(bytes),
            "Pids response" => round_trip::<PidsResponse>(bytes),
            "Pause request" => round_trip::<PauseRequest>(bytes),
            "Resume request" => round_trip::<ResumeRequest>(bytes),
            "Checkpoint request" => round_trip::<CheckpointTaskRequest>(bytes),
            "Kill request" => round_trip::<KillRequest>(bytes),
            "ResizePty request" => round_trip::<ResizePtyRequest>(bytes),
            "CloseIO request" => round_trip::<CloseIORequest>(bytes),
            "Update request" => round_trip::<UpdateTaskRequest>(bytes),
            "Wait request" => round_trip::<WaitRequest>(bytes),
            "Wait response" => round_trip::<WaitResponse>(bytes),
            "Stats request" => round_trip::<StatsRequest>(bytes),
            "Stats response" => round_trip::<StatsResponse>(bytes),
            "Delete request" => round_trip::<DeleteRequest>(bytes),
            "Delete response" => round_trip::<DeleteResponse>(bytes),
            "Shutdown request" => round_trip::<ShutdownRequest>(bytes),
            "containerd.services.events.ttrpc.v1.Events/Forward request" => {
                round_trip::<ForwardRequest>(bytes)
            }
            other => panic!("{label}: what is {other}?"),
        };
        assert_eq!(&again, bytes, "{label}");
        assert!(known, "{label}: fields we do not know");
    }
}
