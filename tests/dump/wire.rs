//! The request as bytes, so that any ttrpc client can make it; and a service nobody serves.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::common::shim::{RUNTIMES, Shim, run};

/// A ttrpc frame: length, stream, type 1 (request), flags, then `Request {service, method, payload}`.
fn frame(service: &str, method: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (tag, bytes) in [
        (0x0a, service.as_bytes()),
        (0x12, method.as_bytes()),
        (0x1a, payload),
    ] {
        body.push(tag);
        body.push(u8::try_from(bytes.len()).unwrap());
        body.extend_from_slice(bytes);
    }
    let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(&1u32.to_be_bytes());
    frame.extend_from_slice(&[1, 0]);
    frame.extend(body);
    frame
}

fn answer(stream: &mut UnixStream) -> Vec<u8> {
    let mut header = [0; 10];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header[4..], [0, 0, 0, 1, 2, 0], "a response on the stream");
    let len = u32::from_be_bytes(header[..4].try_into().unwrap());
    let mut body = vec![0; len as usize];
    stream.read_exact(&mut body).unwrap();
    body
}

#[test]
fn the_request_on_the_wire() {
    run(async {
        let shim = Shim::start(RUNTIMES[1], "c", &["true"]).await;
        let mut stream = UnixStream::connect(shim.endpoint.socket()).unwrap();
        stream.set_read_timeout(Some(crate::common::LIMIT)).unwrap();
        // DumpRequest { quiet: true } is 08 01.
        let request = frame("cotter.shim.v1.Introspection", "Dump", &[8, 1]);
        stream.write_all(&request).unwrap();
        let body = answer(&mut stream);
        // Response { status: OK, which is empty, payload: DumpResponse { json } }.
        assert_eq!(body[..3], [0x0a, 0, 0x12]);
        let text = String::from_utf8_lossy(&body);
        assert!(
            text.contains("\"shim\": {") && text.contains(&shim.namespace),
            "{text}"
        );
        shim.end().await;
    });
}
