//! One connection to the manager's events service.
//!
//! Invariant: connecting and forwarding never block the thread and end within their limit; one
//! request is under way at a time, and a [`Link`] of which one was given up is of no more use and
//! must be dropped, since its answer may still come.
//!
//! ttrpc's own client is made for many requests at once: each passes through two tasks and four
//! timers. Here a request is one write, a wait and, as a rule, one read, all in the caller's task.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use protobuf::{Message, MessageField};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use ttrpc::proto::{
    KeyValue, MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_RESPONSE, MessageHeader,
    Request, Response,
};

use super::queue::Entry;
use crate::errno::Words;
use crate::proto::events_ttrpc::ForwardRequest;
use crate::proto::types::Envelope;
use crate::proto::{Any, Timestamp};

/// What is called.
const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
const METHOD: &str = "Forward";

/// The metadata key under which containerd's ttrpc services read the namespace.
const NAMESPACE_HEADER: &str = "containerd-namespace-ttrpc";

/// An answer without an error takes a handful of bytes.
const ANSWER: usize = 256;

/// Why an event was not delivered.
#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    /// The connection broke. Whether the manager has the event is unknown.
    Lost(String),
    /// The manager answered with an error.
    Answered(ttrpc::Code, String),
}

/// A connection.
pub(super) struct Link {
    stream: UnixStream,
    /// Clients' are odd.
    next_id: u32,
    /// All but the payload and the limit, which change.
    request: Request,
    /// The request on its way, then its answer.
    frame: Vec<u8>,
}

impl Link {
    /// Connects to `address`, a socket path or `@abstract` name, for the events of `namespace`.
    ///
    /// tokio's connect, as a blocking connect(2) on a Unix socket waits without end while the
    /// backlog of a stopped manager is full. Non-blocking, the kernel answers EAGAIN at once.
    pub(super) async fn connect(address: &str, namespace: &str) -> io::Result<Self> {
        let stream = match address.strip_prefix('@') {
            Some(name) => UnixStream::connect(format!("\0{name}")).await?,
            None => UnixStream::connect(address).await?,
        };
        let request = Request {
            service: SERVICE.to_owned(),
            method: METHOD.to_owned(),
            metadata: vec![KeyValue {
                key: NAMESPACE_HEADER.to_owned(),
                value: namespace.to_owned(),
                ..KeyValue::default()
            }],
            ..Request::default()
        };
        Ok(Self {
            stream,
            next_id: 1,
            request,
            frame: Vec::new(),
        })
    }

    /// How long ago the manager at `address` bound its socket; a clock set back makes it young.
    /// `None` for an abstract address, which has no file.
    pub(super) fn age(address: &str) -> Option<Duration> {
        let bound = std::fs::metadata(address).ok()?.modified().ok()?;
        Some(bound.elapsed().unwrap_or_default())
    }

    /// Waits for the end of the connection, while nothing is asked; why it is of no more use.
    pub(super) async fn lost(&mut self) -> String {
        loop {
            let read = match self.stream.readable().await {
                Ok(()) => self.stream.try_read(&mut [0; 1]),
                Err(e) => Err(e),
            };
            match read {
                Ok(0) => return "the manager closed the connection".to_owned(),
                Ok(_) => return "the manager sent what nobody asked for".to_owned(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return e.words(),
            }
        }
    }

    /// Sends one event and waits for the answer, which the caller does for at most `limit`.
    pub(super) async fn forward(
        &mut self,
        namespace: &str,
        entry: &Entry,
        limit: Duration,
    ) -> Result<(), Failure> {
        // The limit that travels is a little longer, so that ours, which is told apart from a dead
        // connection, always runs out first.
        let told = limit.saturating_add(Duration::from_secs(1)).as_nanos();
        self.request.timeout_nano = i64::try_from(told).unwrap_or(i64::MAX);
        let id = self.next_id;
        self.next_id = id.wrapping_add(2);
        self.encode(id, namespace, entry)
            .map_err(|e| Failure::Lost(e.to_string()))?;
        let answer = self.exchange(id).await;
        // A burst's largest event must not cost memory for ever.
        self.frame.clear();
        self.frame.shrink_to(4 * ANSWER);
        let answer = answer.map_err(|e| Failure::Lost(e.words()))?;
        match answer.status.into_option() {
            Some(status) if status.code() != ttrpc::Code::OK => Err(Failure::Answered(
                status.code.enum_value().unwrap_or(ttrpc::Code::UNKNOWN),
                status.message,
            )),
            _ => Ok(()),
        }
    }

    /// Makes the frame of a request.
    fn encode(&mut self, id: u32, namespace: &str, entry: &Entry) -> protobuf::Result<()> {
        let forward = ForwardRequest {
            envelope: MessageField::some(envelope(namespace, entry)),
            ..ForwardRequest::default()
        };
        self.request.payload.clear();
        forward.write_to_vec(&mut self.request.payload)?;
        self.frame.clear();
        self.frame.resize(MESSAGE_HEADER_LENGTH, 0);
        self.request.write_to_vec(&mut self.frame)?;
        self.request.payload.shrink_to(4 * ANSWER);
        let length = (self.frame.len() - MESSAGE_HEADER_LENGTH) as u32;
        let header: Vec<u8> = MessageHeader::new_request(id, length).into();
        self.frame[..MESSAGE_HEADER_LENGTH].copy_from_slice(&header);
        Ok(())
    }

    /// Sends the frame and reads the answer to it.
    async fn exchange(&mut self, id: u32) -> io::Result<Response> {
        self.stream.write_all(&self.frame).await?;
        self.frame.clear();
        self.frame.reserve(ANSWER);
        self.read_until(MESSAGE_HEADER_LENGTH).await?;
        let header = MessageHeader::from(&self.frame[..MESSAGE_HEADER_LENGTH]);
        let length = header.length as usize;
        if (header.type_, header.stream_id) != (MESSAGE_TYPE_RESPONSE, id)
            || length > MESSAGE_LENGTH_MAX
        {
            let what = format!("the manager sent {header:?} instead of the answer to request {id}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.read_until(MESSAGE_HEADER_LENGTH + length).await?;
        Ok(Response::parse_from_bytes(
            &self.frame[MESSAGE_HEADER_LENGTH..MESSAGE_HEADER_LENGTH + length],
        )?)
    }

    /// Reads until there are so many bytes of the answer; more than the answer never come.
    async fn read_until(&mut self, length: usize) -> io::Result<()> {
        while self.frame.len() < length {
            if self.stream.read_buf(&mut self.frame).await? == 0 {
                let what = "the manager closed the connection";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
        }
        Ok(())
    }
}

pub(super) fn envelope(namespace: &str, entry: &Entry) -> Envelope {
    let since = entry.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Envelope {
        timestamp: MessageField::some(Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos().cast_signed(),
            ..Timestamp::default()
        }),
        namespace: namespace.to_owned(),
        topic: entry.topic.to_owned(),
        event: MessageField::some(Any {
            type_url: entry.type_name.to_owned(),
            value: entry.payload.to_vec(),
            ..Any::default()
        }),
        ..Envelope::default()
    }
}
