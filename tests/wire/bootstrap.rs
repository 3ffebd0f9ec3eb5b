//! The start dialect of containerd 2.3 and newer, which could not be captured: the vectors are
//! written by hand from the numbers in the contract.

use cotter::proto::bootstrap::*;
use cotter::proto::pack;
use protobuf::{EnumOrUnknown, Message};

use super::{options, some};

/// A length-delimited field.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    assert!(value.len() < 0x80, "one byte of length is enough here");
    [&[number << 3 | 2, value.len() as u8], value].concat()
}

#[test]
fn params() {
    let bytes = [
        field(1, b"one"),
        field(2, b"wire"),
        // -4 (debug), sign-extended to 64 bits.
        vec![
            3 << 3,
            0xfc,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0x01,
        ],
        field(4, b"v2.3.4"),
        field(5, b"/run/wire/c.sock.ttrpc"),
        field(6, b"/run/wire/c.sock"),
        field(7, b"/usr/bin/containerd"),
        field(
            8,
            &field(1, &pack(&options()).unwrap().write_to_bytes().unwrap()),
        ),
        field(9, b"/run/wire/s"),
    ]
    .concat();
    let expected = BootstrapParams {
        instance_id: "one".into(),
        namespace: "wire".into(),
        log_level: LogLevel::LOG_LEVEL_DEBUG.into(),
        containerd_version: "v2.3.4".into(),
        containerd_ttrpc_address: "/run/wire/c.sock.ttrpc".into(),
        containerd_grpc_address: "/run/wire/c.sock".into(),
        containerd_binary: "/usr/bin/containerd".into(),
        extensions: vec![Extension {
            value: some(pack(&options()).unwrap()),
            ..Default::default()
        }],
        socket_dir: Some("/run/wire/s".into()),
        ..Default::default()
    };
    assert_eq!(BootstrapParams::parse_from_bytes(&bytes).unwrap(), expected);
    assert_eq!(expected.write_to_bytes().unwrap(), bytes);
}

#[test]
fn log_levels_are_open() {
    let levels = [
        (-8, LogLevel::LOG_LEVEL_TRACE),
        (-4, LogLevel::LOG_LEVEL_DEBUG),
        (0, LogLevel::LOG_LEVEL_INFO),
        (4, LogLevel::LOG_LEVEL_WARN),
        (8, LogLevel::LOG_LEVEL_ERROR),
        (10, LogLevel::LOG_LEVEL_FATAL),
        (12, LogLevel::LOG_LEVEL_PANIC),
    ];
    for (number, level) in levels {
        assert_eq!(EnumOrUnknown::from_i32(number).enum_value(), Ok(level));
    }
    let between = BootstrapParams::parse_from_bytes(&[3 << 3, 5]).unwrap();
    assert_eq!(between.log_level.enum_value(), Err(5));
}

/// The answer of the Go shim 2.3.4, byte for byte.
#[test]
fn result() {
    let socket = format!("unix:///run/containerd/s/{}", "5e".repeat(32));
    let bytes = [
        &[0x08, 0x03, 0x12, socket.len() as u8],
        socket.as_bytes(),
        b"\x1a\x05ttrpc",
    ]
    .concat();
    let expected = BootstrapResult {
        version: 3,
        address: socket,
        protocol: "ttrpc".into(),
        ..Default::default()
    };
    assert_eq!(BootstrapResult::parse_from_bytes(&bytes).unwrap(), expected);
    assert_eq!(expected.write_to_bytes().unwrap(), bytes);
}

/// Why a shim may not trust its parser alone: the options that older managers write are, to it,
/// bootstrap parameters of an instance with a strange name.
#[test]
fn legacy_options_look_like_params() {
    let legacy = pack(&options()).unwrap().write_to_bytes().unwrap();
    let params = BootstrapParams::parse_from_bytes(&legacy).unwrap();
    assert_eq!(params.instance_id, "containerd.runc.v1.Options");
}
