//! Accepting connections: only our own user's, counted, and without spinning when descriptors run out.
//!
//! Invariant: the stream never ends and never fails. ttrpc would call a failing listener again at
//! once and for ever; here a failure is followed by a pause. The count is that of the connections
//! that are open.
//!
//! What clients do costs no other client anything, in three ways. Connections take at most half of the
//! descriptors that the shim may have; further ones wait to be let in, and containers find the other
//! half. Of a client that does not read its answers no more requests are read: ttrpc would go on and
//! keep every answer in memory. And the memory that large or many requests took is given back, at once
//! if it is much, else when all clients rest. tests/hostile does all of it.

use crate::errno::Words;
use std::io;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_core::Stream;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Uid;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use super::answers::Answers;
use super::memory;

/// How long to leave a listener alone that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// As many connections are let in whatever the limit.
const FEW: u64 = 8;

/// How much a connection reads before the allocator is asked to give back what is free.
const MUCH: usize = 1 << 20;

/// Connections of the shim's own user.
pub struct Accept {
    listener: tokio::net::UnixListener,
    user: Uid,
    count: watch::Sender<usize>,
    /// Marked by whatever a client says.
    work: watch::Sender<()>,
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
            work: watch::Sender::new(()),
            pause: None,
            told: false,
        })
    }

    /// How many connections are open.
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Changes with whatever a client says.
    pub fn work(&self) -> watch::Receiver<()> {
        self.work.subscribe()
    }

    /// Whether connections have taken their share of the descriptors.
    fn is_full(&self) -> bool {
        // The limit is read again and again: managers change it (prlimit(1)).
        getrlimit(Resource::RLIMIT_NOFILE)
            .is_ok_and(|(files, _)| *self.count.borrow() as u64 >= (files / 2).max(FEW))
    }

    /// Leaves the listener alone for a while.
    fn rest(&mut self, why: impl std::fmt::Display) {
        if !self.told {
            log::error!("accept a connection: {why}");
            self.told = true;
        }
        self.pause = Some(Box::pin(sleep(PAUSE)));
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == self.user.as_raw() => true,
            Ok(peer) => {
                log::warn!("refused a connection of user {}", peer.uid());
                false
            }
            Err(e) => {
                log::warn!(
                    "refused a connection of an unknown user: {e}",
                    e = e.words()
                );
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
            if self.is_full() {
                self.rest("too many are open; the next ones wait");
                continue;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    self.told = false;
                    if self.admits(&stream) {
                        let (count, work) = (self.count.clone(), self.work.clone());
                        return Poll::Ready(Some(Ok(Connection::new(stream, count, work))));
                    }
                }
                Err(e) => self.rest(e.words()),
            }
        }
    }
}

/// A connection that is counted for as long as it is there.
pub struct Connection {
    stream: UnixStream,
    count: watch::Sender<usize>,
    work: watch::Sender<()>,
    /// An answer waits for the client to read.
    stuck: bool,
    /// Who is to be told when it does not any more.
    reader: Option<Waker>,
    /// How much was read since memory was given back.
    read: usize,
    answers: Answers,
}

impl Connection {
    fn new(stream: UnixStream, count: watch::Sender<usize>, work: watch::Sender<()>) -> Self {
        count.send_modify(|count| *count += 1);
        Self {
            stream,
            count,
            work,
            stuck: false,
            reader: None,
            read: 0,
            answers: Answers::default(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
        // ttrpc lets go of a connection after its requests.
        if self.read >= MUCH / 16 {
            memory::trim();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stuck {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.read += buffer.filled().len() - before;
        if read.is_ready() {
            self.work.send_replace(());
        }
        // The client rests; most of what it has asked is answered.
        if read.is_pending() && self.read >= MUCH {
            self.read = MUCH / 16;
            memory::trim();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let right = self.answers.put_right(bytes);
        let written = Pin::new(&mut self.stream).poll_write(cx, &right);
        if let Poll::Ready(Ok(written)) = written {
            self.answers.written(bytes, written);
        }
        self.stuck = written.is_pending();
        // At its end too: whoever reads then finds it.
        if let (false, Some(reader)) = (self.stuck, self.reader.take()) {
            reader.wake();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
