//! A manager's events service, as good or bad as a test wants it.

use std::collections::HashMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use async_trait::async_trait;
use cotter::events::Event;
use cotter::proto::Empty;
use cotter::proto::events_ttrpc::{Events, ForwardRequest, create_events};
use cotter::proto::types::Envelope;
use tokio::sync::{mpsc, oneshot};
use ttrpc::asynchronous::transport::Listener;
use ttrpc::asynchronous::{Server, TtrpcContext};
use ttrpc::{Code, Error, get_status};

use super::LONG;

/// A directory of its own for each test's socket.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cotter-events-{}-{n}", std::process::id()));
        fs::create_dir_all(path.join("bundle")).unwrap();
        Self(path)
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("s")
    }

    /// A container's bundle.
    pub fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    /// How many files the bundle has.
    pub fn files(&self) -> usize {
        fs::read_dir(self.bundle()).unwrap().count()
    }

    pub fn address(&self) -> String {
        self.socket().to_str().unwrap().to_owned()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a manager does with an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    Take,
    Fail(Code),
    /// Takes the event and never answers.
    Hang,
}

/// One forwarded event as a manager saw it.
#[derive(Debug)]
pub struct Seen {
    pub envelope: Envelope,
    pub metadata: HashMap<String, Vec<String>>,
    pub answer: Answer,
}

impl Seen {
    pub fn event(&self) -> Event {
        Event::from_any(&self.envelope.event).unwrap().unwrap()
    }
}

type Policy = Arc<dyn Fn(&Event) -> Answer + Send + Sync>;

struct Service {
    policy: Policy,
    seen: mpsc::UnboundedSender<Seen>,
}

#[async_trait]
impl Events for Service {
    async fn forward(&self, ctx: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap();
        let event = Event::from_any(&envelope.event).unwrap().unwrap();
        let answer = (self.policy)(&event);
        let _ = self.seen.send(Seen {
            envelope,
            metadata: ctx.metadata.clone(),
            answer,
        });
        match answer {
            Answer::Take => Ok(Empty::default()),
            Answer::Fail(code) => Err(Error::RpcStatus(get_status(code, "as told"))),
            Answer::Hang => std::future::pending().await,
        }
    }
}

/// A manager on a thread of its own; dropping it is what kill -9 is to a process: every socket
/// closes, nothing is answered any more.
pub struct Manager {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Manager {
    pub fn start(socket: &Path, policy: impl Fn(&Event) -> Answer + Send + Sync + 'static) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (sender, seen) = mpsc::unbounded_channel();
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let service = Service {
                    policy: Arc::new(policy),
                    seen: sender,
                };
                let mut server = Server::new()
                    .add_listener(Listener::try_from(listener).unwrap())
                    .register_service(create_events(Arc::new(service)));
                server.start().await.unwrap();
                let _ = stopped.await;
            });
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
            seen,
        }
    }

    pub async fn next(&mut self) -> Seen {
        tokio::time::timeout(LONG, self.seen.recv())
            .await
            .expect("the manager sees nothing")
            .expect("the manager is gone")
    }

    /// Everything seen by now.
    pub fn all(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).collect()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.take();
        self.thread.take().unwrap().join().unwrap();
    }
}
