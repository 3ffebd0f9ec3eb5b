//! The wire, by hand: frames of any kind, whole or not.

use std::io::ErrorKind;

use cotter::proto::task::StateRequest;
use protobuf::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use ttrpc::{Code, Request, Response};

use crate::common::LIMIT;
use crate::common::shim::{Shim, a_moment};

pub const REQUEST: u8 = 1;
pub const RESPONSE: u8 = 2;
pub const DATA: u8 = 3;

/// What every ttrpc refuses to exceed.
pub const LONGEST: usize = 4 << 20;

/// What stands before a payload.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub length: u32,
    pub stream: u32,
    pub kind: u8,
    pub flags: u8,
}

impl Header {
    pub fn of(payload: &[u8]) -> Self {
        Self {
            length: payload.len().try_into().unwrap(),
            stream: 1,
            kind: REQUEST,
            flags: 0,
        }
    }

    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = self.length.to_be_bytes().to_vec();
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend([self.kind, self.flags]);
        bytes
    }

    pub fn with(self, payload: &[u8]) -> Vec<u8> {
        [&self.bytes(), payload].concat()
    }
}

/// A State of container `c`, which every shim answers.
pub fn state() -> Request {
    let asked = StateRequest {
        id: "c".into(),
        ..Default::default()
    };
    Request {
        service: "containerd.task.v3.Task".into(),
        method: "State".into(),
        payload: asked.write_to_bytes().unwrap(),
        ..Default::default()
    }
}

/// A request as a frame of its own.
pub fn frame(request: &Request, stream: u32) -> Vec<u8> {
    let payload = request.write_to_bytes().unwrap();
    Header {
        stream,
        ..Header::of(&payload)
    }
    .with(&payload)
}

/// A connection of which nothing is expected.
pub struct Raw(pub UnixStream);

impl Raw {
    pub async fn connect(shim: &Shim) -> Self {
        let mut connected = None;
        // The backlog may be full for a moment.
        for _ in 0..1000 {
            connected = Self::try_connect(shim).await;
            if connected.is_some() {
                break;
            }
            a_moment().await;
        }
        connected.expect("connected")
    }

    /// `None` when too many already wait to be let in.
    pub async fn try_connect(shim: &Shim) -> Option<Self> {
        let path = shim.endpoint.socket();
        let connected = timeout(LIMIT, UnixStream::connect(path)).await;
        match connected.expect("an answer of the kernel") {
            Ok(stream) => Some(Self(stream)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => None,
            Err(e) => panic!("connect to {}: {e}", path.display()),
        }
    }

    /// Writes as much as is taken; a closed connection is no fault.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(LIMIT, self.0.write_all(bytes))
            .await
            .expect("taken");
    }

    /// The next answer: its stream and code; `None` when the connection is closed.
    pub async fn answer(&mut self) -> Option<(u32, Code)> {
        let mut header = [0; 10];
        let read = timeout(LIMIT, self.0.read_exact(&mut header)).await;
        read.expect("an answer or the end").ok()?;
        let [length, stream] = [0, 4].map(|at| {
            let bytes = header[at..at + 4].try_into().unwrap();
            u32::from_be_bytes(bytes)
        });
        assert_eq!(header[8], RESPONSE, "{header:?}");
        let mut payload = vec![0; length as usize];
        let read = timeout(LIMIT, self.0.read_exact(&mut payload)).await;
        read.expect("a whole answer").ok()?;
        let response = Response::parse_from_bytes(&payload).unwrap();
        Some((stream, response.status.code()))
    }

    /// Whether a good request is answered on this connection, behind whatever else is.
    pub async fn serves(&mut self) -> bool {
        const LAST: u32 = 0x7fff_ffff;
        self.send(&frame(&state(), LAST)).await;
        loop {
            match self.answer().await {
                Some((LAST, code)) => return code == Code::OK,
                Some(_) => {}
                None => return false,
            }
        }
    }
}
