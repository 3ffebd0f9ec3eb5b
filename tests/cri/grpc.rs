//! gRPC as far as a test needs it: a request over a Unix socket, the answer or the status, and the
//! messages of a stream. One connection for each call, so that nothing outlives it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::path::Path;

use h2::RecvStream;
use prost::Message;
use prost::bytes::Bytes;
use tokio::net::UnixStream;

use crate::common::LIMIT;

/// Why a call failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Status {
    /// A code of gRPC: 4 is DEADLINE_EXCEEDED, 5 NOT_FOUND, …
    pub code: u32,
    /// For people.
    pub message: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code {}: {}", self.code, self.message)
    }
}

/// Calls `method` (`package.Service/Method`) of the server at `socket`. No answer within [`LIMIT`] is a
/// panic, as is an answer that is not gRPC.
pub fn call<A: Message + Default>(
    socket: &Path,
    method: &str,
    request: &impl Message,
) -> Result<A, Status> {
    call_in("", socket, method, request)
}

/// The same, in a namespace of containerd's, where the service has such.
pub fn call_in<A: Message + Default>(
    namespace: &str,
    socket: &Path,
    method: &str,
    request: &impl Message,
) -> Result<A, Status> {
    block_on(async {
        let answer = async {
            let mut stream = Messages::open(namespace, socket, method, request).await;
            let first = stream.next().await?;
            let end = stream.next::<A>().await?;
            assert!(end.is_none(), "{method}: two answers");
            Ok(first.unwrap_or_else(|| panic!("{method}: neither answer nor error")))
        };
        tokio::time::timeout(LIMIT, answer)
            .await
            .unwrap_or_else(|_| panic!("{method}: no answer after {LIMIT:?}"))
    })
}

/// Makes a call and dies as soon as `begun` holds, without having waited for the answer. Of tests/containerd.
#[allow(dead_code)]
pub fn abandon(
    namespace: &str,
    socket: &Path,
    method: &str,
    request: &impl Message,
    begun: impl Fn() -> bool,
) {
    block_on(async {
        let call = Messages::open(namespace, socket, method, request);
        let has_begun = async {
            while !begun() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let first = tokio::time::timeout(LIMIT, async {
            tokio::select! {
                _ = call => panic!("{method}: answered"),
                () = has_begun => {}
            }
        });
        first
            .await
            .unwrap_or_else(|_| panic!("{method}: never begun"));
    });
}

/// Calls a `method` that answers with a stream and hands each message to `sink`, until the stream ends
/// or the sink says so by returning false.
pub fn follow<A: Message + Default>(
    socket: &Path,
    method: &str,
    request: &impl Message,
    mut sink: impl FnMut(A) -> bool,
) {
    block_on(async {
        let mut stream = Messages::open("", socket, method, request).await;
        while let Ok(Some(message)) = stream.next().await {
            if !sink(message) {
                return;
            }
        }
    });
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// The answer to one request, message by message.
struct Messages {
    body: Option<RecvStream>,
    buffer: Vec<u8>,
    failed: Option<Status>,
}

impl Messages {
    async fn open(namespace: &str, socket: &Path, method: &str, request: &impl Message) -> Self {
        let io = UnixStream::connect(socket)
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
        let (sender, connection) = h2::client::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut head = http::Request::post(format!("http://localhost/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if !namespace.is_empty() {
            head = head.header("containerd-namespace", namespace);
        }
        let head = head.body(()).unwrap();
        let mut sender = sender.ready().await.unwrap();
        let (answer, mut upload) = sender.send_request(head, false).unwrap();
        upload.send_data(frame(request), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200, "{method}");
        let failed = status(answer.headers());
        Self {
            body: Some(answer.into_body()),
            buffer: Vec::new(),
            failed,
        }
    }

    /// The next message; none at the end of a stream that ended well.
    async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Status> {
        loop {
            if let Some(message) = unframe(&mut self.buffer) {
                return Ok(Some(A::decode(message.as_slice()).unwrap()));
            }
            let Some(body) = &mut self.body else {
                return self.failed.take().map_or(Ok(None), Err);
            };
            if let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                self.buffer.extend_from_slice(&data);
            } else {
                let trailers = body.trailers().await.unwrap();
                self.failed = self.failed.take().or_else(|| status(&trailers?));
                self.body = None;
            }
        }
    }
}

/// A message with gRPC's prefix: not compressed, and its length.
fn frame(message: &impl Message) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
    frame.extend_from_slice(&message.encode_to_vec());
    frame.into()
}

/// Takes the first whole message off the buffer.
fn unframe(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let prefix: [u8; 5] = buffer.get(..5)?.try_into().unwrap();
    assert_eq!(prefix[0], 0, "compressed, though not asked for");
    let end = 5 + u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
    let message = buffer.get(5..end)?.to_vec();
    buffer.drain(..end);
    Some(message)
}

/// The failure that headers or trailers tell of.
fn status(headers: &http::HeaderMap) -> Option<Status> {
    let text = |name| Some(headers.get(name)?.to_str().unwrap());
    let code: u32 = text("grpc-status")?.parse().unwrap();
    (code != 0).then(|| Status {
        code,
        message: percent_decoded(text("grpc-message").unwrap_or_default()),
    })
}

/// gRPC percent-encodes what is not printable ASCII in a message.
fn percent_decoded(text: &str) -> String {
    let mut rest = text.as_bytes();
    let mut decoded = Vec::new();
    while let [first, after @ ..] = rest {
        let value = match rest {
            [b'%', high, low, ..] => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        decoded.push(value.unwrap_or(*first));
        rest = if value.is_some() { &rest[3..] } else { after };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
