//! The other ends of the FIFOs, as a manager holds them. All waits have an end.

use std::io;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use cotter::manager::stdio::Fifos;

use crate::common::LIMIT;
use crate::common::shim::Shim;

/// How much is moved where bytes are counted in bulk.
pub const BULK: u64 = 64 << 20;

/// Writes [`BULK`] random bytes to standard output and, when done, their hash to standard error.
pub const RANDOM: &str = "mkfifo /run/p; sha256sum < /run/p >&2 & \
    head -c 67108864 /dev/urandom | tee /run/p; wait";

/// A reader of a FIFO.
pub struct Reader(pipe::Receiver);

impl Reader {
    /// Opens it, also before the shim has.
    pub fn open(path: &str) -> Self {
        Self(pipe::OpenOptions::new().open_receiver(path).unwrap())
    }

    /// The next bytes, `max` at most; none at the end.
    pub async fn some(&mut self, max: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(max);
        let read = async {
            // Before the shim has opened the FIFO, a read would see an end.
            self.0.readable().await?;
            (&mut self.0).take(max as u64).read_buf(&mut bytes).await
        };
        let read: io::Result<usize> = timeout(LIMIT, read).await.expect("bytes or the end");
        read.unwrap();
        bytes
    }

    /// Exactly so many bytes.
    pub async fn exactly(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let more = self.some(len - bytes.len()).await;
            assert!(
                !more.is_empty(),
                "the end after {} of {len} bytes",
                bytes.len()
            );
            bytes.extend(more);
        }
        bytes
    }

    /// The next bytes as text, as many as `expected` has.
    #[track_caller]
    pub fn expect(&mut self, expected: &'static str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let got = self.exactly(expected.len()).await;
            assert_eq!(String::from_utf8_lossy(&got), expected, "at {caller}");
        }
    }

    /// All that comes until the end.
    pub async fn rest(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let more = self.some(1 << 16).await;
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    /// All that comes until the end, as text.
    pub async fn text(self) -> String {
        String::from_utf8(self.rest().await).unwrap()
    }

    /// How much comes until the end, and its SHA-256 in hexadecimal.
    pub async fn digest(mut self) -> (u64, String) {
        let (mut hash, mut len) = (Sha256::new(), 0);
        loop {
            let more = self.some(1 << 16).await;
            if more.is_empty() {
                let hex = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
                return (len, hex);
            }
            len += more.len() as u64;
            hash.update(&more);
        }
    }
}

/// A writer to a FIFO that the shim has open; dropping it closes it.
pub struct Writer(pipe::Sender);

impl Writer {
    /// Opens it.
    pub fn open(path: &str) -> Self {
        Self(pipe::OpenOptions::new().open_sender(path).unwrap())
    }

    /// Writes everything.
    pub async fn write(&mut self, bytes: &[u8]) {
        let written = timeout(LIMIT, self.0.write_all(bytes)).await;
        written.expect("room").unwrap();
    }

    /// Writes until nobody reads any more.
    pub async fn until_broken(mut self) {
        let broken = async { while self.0.write_all(&[b'.'; 4096]).await.is_ok() {} };
        timeout(LIMIT, broken).await.expect("a broken pipe");
    }
}

/// The program of a container's init: this one, or where an exec is to run it, one that sleeps.
pub fn inits<'a>(exec: &str, process: &'a [&'a str]) -> &'a [&'a str] {
    match exec {
        "" => process,
        _ => &["sleep", "1000"],
    }
}

/// Creates container `c` and has a process of it run with these streams: its init, or an exec.
pub async fn create_and_begin(shim: &Shim, exec: &str, process: &[&str], streams: &Fifos) {
    if !exec.is_empty() {
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
    }
    begin(shim, "c", exec, process, streams).await;
}

/// The same where the container of an exec is running.
pub async fn begin(shim: &Shim, id: &str, exec: &str, process: &[&str], streams: &Fifos) {
    if exec.is_empty() {
        shim.create_with(id, streams).await.unwrap();
        shim.start_process(id, "").await.unwrap();
    } else {
        shim.exec_with(id, exec, process, streams).await.unwrap();
    }
}

/// FIFOs without those whose letters (`i`, `o`, `e`) are not in `which`.
pub fn only(which: &str, fifos: &Fifos) -> Fifos {
    let pick = |letter, path: &String| {
        if which.contains(letter) {
            path.clone()
        } else {
            String::new()
        }
    };
    Fifos {
        stdin: pick('i', &fifos.stdin),
        stdout: pick('o', &fifos.stdout),
        stderr: pick('e', &fifos.stderr),
    }
}

/// Bytes that repeat nowhere near a page or a pipe.
pub struct Noise(u64);

impl Noise {
    /// The same bytes each time.
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// The next 64 KiB.
    pub fn chunk(&mut self) -> Vec<u8> {
        let mut chunk = Vec::with_capacity(1 << 16);
        while chunk.len() < 1 << 16 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.extend_from_slice(&self.0.to_ne_bytes());
        }
        chunk
    }
}
