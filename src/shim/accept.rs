//! Accepting connections: only our own user's, counted, and without spinning when descriptors run out.
//!
//! Invariant: the stream never ends and never fails. ttrpc would call a failing listener again at
//! once and for ever; here a failure is followed by a pause. The count is that of the connections
//! that are open.

use std::io;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use nix::unistd::Uid;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

/// How long to leave a listener alone that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections of the shim's own user.
pub struct Accept {
    listener: tokio::net::UnixListener,
    user: Uid,
    count: watch::Sender<usize>,
    pause: Option<Pin<Box<Sleep>>>,
    /// Whether the failure was told; once is enough until a connection succeeds.
    told: bool,
}

impl Accept {
    /// Listens on a bound socket. Call it in a runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: tokio::net::UnixListener::from_std(listener)?,
            user: Uid::effective(),
            count: watch::Sender::new(0),
            pause: None,
            told: false,
        })
    }

    /// How many connections are open.
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == self.user.as_raw() => true,
            Ok(peer) => {
                log::warn!("refused a connection of user {}", peer.uid());
                false
            }
            Err(e) => {
                log::warn!("refused a connection of an unknown user: {e}");
                false
            }
        }
    }
}

impl Stream for Accept {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    self.told = false;
                    if self.admits(&stream) {
                        let count = self.count.clone();
                        return Poll::Ready(Some(Ok(Connection::new(stream, count))));
                    }
                }
                Err(e) => {
                    if !self.told {
                        log::error!("accept a connection: {e}");
                        self.told = true;
                    }
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
    }
}

/// A connection that is counted for as long as it is there.
pub struct Connection {
    stream: UnixStream,
    count: watch::Sender<usize>,
}

impl Connection {
    fn new(stream: UnixStream, count: watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self { stream, count }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
