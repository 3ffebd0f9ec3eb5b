//! One connection to the manager's events service.
//!
//! Invariant: connecting and forwarding never block the thread, end within their limit, and leave
//! neither task nor descriptor behind when the [`Link`] is dropped (ttrpc's connection task ends
//! with its last client).

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use protobuf::MessageField;
use tokio::net::UnixStream;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context;

use super::queue::Entry;
use crate::proto::events_ttrpc::{EventsClient, ForwardRequest};
use crate::proto::types::Envelope;
use crate::proto::{Any, Timestamp};

/// The metadata key under which containerd's ttrpc services read the namespace.
const NAMESPACE_HEADER: &str = "containerd-namespace-ttrpc";

/// Why an event was not delivered.
#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    /// No answer within the limit.
    TimedOut,
    /// The connection broke. Whether the manager has the event is unknown.
    Lost(String),
    /// The manager answered with an error.
    Answered(ttrpc::Code, String),
}

/// A connected client.
pub(super) struct Link(EventsClient);

impl Link {
    /// Connects to `address`, a socket path or `@abstract` name.
    ///
    /// tokio's connect, not ttrpc's: that one is a blocking connect(2), which on a Unix socket
    /// waits without end while the backlog of a stopped manager is full. Non-blocking, the kernel
    /// answers EAGAIN at once.
    pub(super) async fn connect(address: &str) -> io::Result<Self> {
        let stream = match address.strip_prefix('@') {
            Some(name) => UnixStream::connect(format!("\0{name}")).await?,
            None => UnixStream::connect(address).await?,
        };
        Ok(Self(EventsClient::new(Client::new(Socket::from(stream)))))
    }

    /// How long ago the manager at `address` bound its socket; a clock set back makes it young.
    /// `None` for an abstract address, which has no file.
    pub(super) fn age(address: &str) -> Option<Duration> {
        let bound = std::fs::metadata(address).ok()?.modified().ok()?;
        Some(bound.elapsed().unwrap_or_default())
    }

    /// Sends one event and waits at most `limit` for the answer.
    pub(super) async fn forward(
        &self,
        namespace: &str,
        entry: &Entry,
        limit: Duration,
    ) -> Result<(), Failure> {
        // The limit that travels is a little longer, so that ours, which is told apart from a dead
        // connection, always runs out first.
        let mut ctx = context::with_duration(limit + Duration::from_secs(1));
        ctx.add(NAMESPACE_HEADER.to_owned(), namespace.to_owned());
        let request = ForwardRequest {
            envelope: MessageField::some(envelope(namespace, entry)),
            ..ForwardRequest::default()
        };
        match tokio::time::timeout(limit, self.0.forward(ctx, &request)).await {
            Err(_) => Err(Failure::TimedOut),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(ttrpc::Error::RpcStatus(status))) => Err(Failure::Answered(
                status.code.enum_value().unwrap_or(ttrpc::Code::UNKNOWN),
                status.message,
            )),
            // ttrpc 0.10 has no error of its own for a dead connection: all the rest is one.
            Ok(Err(other)) => Err(Failure::Lost(other.to_string())),
        }
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
