//! The line before a manager: what each of its states lets through.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{sleep, timeout};

use crate::line::{Line, State};

/// How long what must not come is waited for.
const NOTHING: Duration = Duration::from_millis(50);
/// How long what must come may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A line to a manager that answers each byte with the next one, and tells what it got.
struct World {
    line: Line,
    front: PathBuf,
    got: UnboundedReceiver<u8>,
}

impl World {
    async fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("line-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let (front, back) = (dir.join("front"), dir.join("back"));
        let (tell, got) = unbounded_channel();
        let manager = UnixListener::bind(&back).unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = manager.accept().await.unwrap();
                let tell = tell.clone();
                tokio::spawn(async move {
                    while let Ok(byte) = stream.read_u8().await {
                        tell.send(byte).unwrap();
                        let _ = stream.write_u8(byte + 1).await;
                    }
                });
            }
        });
        let line = Line::new(&front).await;
        line.lead_to(back.to_str().unwrap());
        Self { line, front, got }
    }

    /// In this state, and everybody has seen it.
    async fn be(&self, state: State) {
        self.line.set(state);
        sleep(NOTHING).await;
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.front).await.unwrap()
    }

    /// The manager gets this byte next.
    async fn gets(&mut self, byte: u8) {
        assert_eq!(timeout(LIMIT, self.got.recv()).await.unwrap(), Some(byte));
    }

    async fn gets_nothing(&mut self) {
        assert!(timeout(NOTHING, self.got.recv()).await.is_err());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.front.parent().unwrap());
    }
}

/// The next byte that comes, or the end.
async fn answer(stream: &mut UnixStream) -> Option<u8> {
    timeout(LIMIT, stream.read_u8()).await.unwrap().ok()
}

async fn no_answer(stream: &mut UnixStream) {
    assert!(timeout(NOTHING, stream.read_u8()).await.is_err());
}

#[tokio::test]
async fn open_lets_all_through_on_many_connections() {
    let mut world = World::new("open").await;
    let mut streams = [world.connect().await, world.connect().await];
    for (n, stream) in streams.iter_mut().enumerate() {
        for byte in [10 * n as u8, 10 * n as u8 + 5] {
            stream.write_u8(byte).await.unwrap();
            world.gets(byte).await;
            assert_eq!(answer(stream).await, Some(byte + 1));
        }
    }
}

#[tokio::test]
async fn gone_and_full_cut_what_is_open_and_refuse_what_comes() {
    let mut world = World::new("gone").await;
    for (state, kind) in [
        (State::Gone, ErrorKind::NotFound),
        (State::Full, ErrorKind::WouldBlock),
    ] {
        let mut stream = world.connect().await;
        stream.write_u8(1).await.unwrap();
        world.gets(1).await;
        assert_eq!(answer(&mut stream).await, Some(2));
        world.be(state).await;
        assert_eq!(answer(&mut stream).await, None);
        let refused = UnixStream::connect(&world.front).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{state:?}");
        world.be(State::Open).await;
    }
    world.gets_nothing().await;
}

#[tokio::test]
async fn stopped_keeps_what_is_open_and_goes_on_later() {
    let mut world = World::new("stopped").await;
    let mut old = world.connect().await;
    old.write_u8(1).await.unwrap();
    world.gets(1).await;
    assert_eq!(answer(&mut old).await, Some(2));
    world.be(State::Stopped).await;
    let mut new = world.connect().await;
    old.write_u8(3).await.unwrap();
    new.write_u8(3).await.unwrap();
    world.gets_nothing().await;
    no_answer(&mut old).await;
    no_answer(&mut new).await;
    world.be(State::Open).await;
    for stream in [&mut old, &mut new] {
        world.gets(3).await;
        assert_eq!(answer(stream).await, Some(4));
    }
}

#[tokio::test]
async fn silent_reads_all_and_tells_nobody() {
    let mut world = World::new("silent").await;
    world.be(State::Silent).await;
    let mut stream = world.connect().await;
    // More than sockets hold: it is read.
    let write = stream.write_all(&[1; 4 << 20]);
    timeout(LIMIT, write).await.unwrap().unwrap();
    no_answer(&mut stream).await;
    world.gets_nothing().await;
    world.be(State::Open).await;
    assert_eq!(answer(&mut stream).await, None);
}

#[tokio::test]
async fn lost_is_told_and_not_answered() {
    let mut world = World::new("lost").await;
    world.be(State::Lost).await;
    let mut stream = world.connect().await;
    stream.write_u8(1).await.unwrap();
    world.gets(1).await;
    assert_eq!(answer(&mut stream).await, None);
}

#[tokio::test]
async fn slow_answers_late() {
    let mut world = World::new("slow").await;
    let time = Duration::from_millis(30);
    world.be(State::Slow(time)).await;
    let mut stream = world.connect().await;
    let begun = Instant::now();
    stream.write_u8(1).await.unwrap();
    world.gets(1).await;
    assert_eq!(answer(&mut stream).await, Some(2));
    assert!(begun.elapsed() >= time);
}
