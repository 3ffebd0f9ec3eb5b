//! A process's standard input and outputs, as FIFOs between the shim and us.
//!
//! Invariant: bytes are passed on as they are, and a relay that is dropped stops.

use std::future::pending;
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use crate::error::{Error, Result};

/// What a pipe holds by default, so one read can empty it.
const CHUNK: usize = 64 * 1024;

/// The FIFOs of one process. Those that are not wanted are empty, as in the requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fifos {
    /// Path of the FIFO the process reads.
    pub stdin: String,
    /// Path of the FIFO the process writes.
    pub stdout: String,
    /// Path of the FIFO the process writes its errors to.
    pub stderr: String,
}

impl Fifos {
    /// Makes the FIFOs for a process called `name` in `directory`, which must live as long as the
    /// process.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn create(directory: &Path, name: &str, stdin: bool) -> Result<Self> {
        let make = |stream: &str| {
            let path = directory.join(format!("{name}-{stream}"));
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)
                .map_err(|why| Error::io(format_args!("make {}", path.display()), &why.into()))?;
            Ok::<_, Error>(path.to_string_lossy().into_owned())
        };
        Ok(Self {
            stdin: if stdin { make("stdin")? } else { String::new() },
            stdout: make("stdout")?,
            stderr: make("stderr")?,
        })
    }
}

/// Bytes on their way.
pub struct Relay {
    task: JoinHandle<io::Result<u64>>,
    breaks: mpsc::Receiver<()>,
}

impl Relay {
    fn new<F>(bytes: impl FnOnce(mpsc::Sender<()>) -> F) -> Self
    where
        F: Future<Output = io::Result<u64>> + Send + 'static,
    {
        let (tell, breaks) = mpsc::channel(1);
        Self {
            task: tokio::spawn(bytes(tell)),
            breaks,
        }
    }

    /// Returns when bytes can no longer be passed on because nobody takes them; never if they all
    /// were.
    pub async fn broken(&mut self) {
        if self.breaks.recv().await.is_none() {
            pending().await
        }
    }

    /// Waits until all bytes have passed and says how many.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or reading or writing failed.
    pub async fn finish(mut self, limit: Duration) -> Result<u64> {
        match timeout(limit, &mut self.task).await {
            Ok(Ok(Ok(count))) => Ok(count),
            Ok(Ok(Err(why))) => Err(Error::io("pass bytes on", &why)),
            Ok(Err(why)) => Err(Error::unknown(format!("pass bytes on: {why}"))),
            Err(_) => Err(Error::deadline_exceeded(format_args!(
                "bytes still passing after {limit:?}"
            ))),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes what comes out of a FIFO to `writer`, until the shim closes it. To be called before the
/// shim opens the FIFO. What `writer` does not take is thrown away, or the process would block on
/// it, and the shim wait for it.
///
/// # Errors
/// When the FIFO cannot be opened.
pub fn relay_out(fifo: &str, mut writer: impl Write + Send + 'static) -> Result<Relay> {
    // Opened without a writer there is no end of file to see yet: the kernel reports one only
    // after a writer came and went.
    let mut receiver = pipe::OpenOptions::new()
        .open_receiver(fifo)
        .map_err(|why| Error::io(format_args!("open {fifo}"), &why))?;
    Ok(Relay::new(async move |breaks| {
        let (mut count, mut failure) = (0, None);
        let mut chunk = Vec::with_capacity(CHUNK);
        while receiver.read_buf(&mut chunk).await? > 0 {
            if failure.is_none() {
                let written;
                // The writer may block for as long as its reader likes.
                (writer, chunk, written) = spawn_blocking(move || {
                    let written = writer.write_all(&chunk).and_then(|()| writer.flush());
                    (writer, chunk, written)
                })
                .await?;
                match written {
                    Ok(()) => count += chunk.len() as u64,
                    Err(why) => {
                        failure = Some(why);
                        let _ = breaks.try_send(());
                    }
                }
            }
            chunk.clear();
        }
        failure.map_or(Ok(count), Err)
    }))
}

/// Collects what comes out of a FIFO.
///
/// # Errors
/// When the FIFO cannot be opened.
pub fn collect(fifo: &str) -> Result<Collected> {
    let (sender, received) = mpsc::unbounded_channel();
    let relay = relay_out(fifo, Collector(sender))?;
    Ok(Collected { relay, received })
}

struct Collector(mpsc::UnboundedSender<Vec<u8>>);

impl Write for Collector {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.send(bytes.to_vec());
        sent.map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What comes out of a FIFO.
pub struct Collected {
    relay: Relay,
    received: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Collected {
    /// The next bytes, as soon as there are any; none at the end.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.received.recv().await
    }

    /// All that is left, once the shim has closed the FIFO.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or reading fails.
    pub async fn finish(mut self, limit: Duration) -> Result<Vec<u8>> {
        self.relay.finish(limit).await?;
        let mut all = Vec::new();
        while let Some(bytes) = self.received.recv().await {
            all.extend(bytes);
        }
        Ok(all)
    }
}

/// Passes what `reader` gives into a FIFO, until it gives no more. To be called when the shim has
/// the FIFO open (a container's after `create`, an exec's after `start`), or what is written last
/// can be lost. The thread that reads stays behind until its read returns.
///
/// # Errors
/// When the FIFO cannot be opened.
pub fn relay_in(mut reader: impl Read + Send + 'static, fifo: &str) -> Result<Relay> {
    // Reading too, so that opening never fails and a write after the shim's end is no error.
    let mut sender = pipe::OpenOptions::new()
        .read_write(true)
        .open_sender(fifo)
        .map_err(|why| Error::io(format_args!("open {fifo}"), &why))?;
    let (chunks, mut read) = mpsc::channel::<io::Result<Vec<u8>>>(1);
    thread::Builder::new()
        .name("stdin".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            let mut buffer = vec![0; CHUNK];
            loop {
                let chunk = match reader.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => Ok(buffer[..count].to_vec()),
                    Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
                    Err(why) => Err(why),
                };
                let failed = chunk.is_err();
                if chunks.blocking_send(chunk).is_err() || failed {
                    return;
                }
            }
        })
        .map_err(|why| Error::io("start a thread that reads input", &why))?;
    Ok(Relay::new(async move |_| {
        let mut count = 0;
        while let Some(chunk) = read.recv().await {
            let chunk = chunk?;
            sender.write_all(&chunk).await?;
            count += chunk.len() as u64;
        }
        Ok(count)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;
    use std::path::PathBuf;

    const LIMIT: Duration = Duration::from_secs(30);

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn scratch(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("cotter-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    #[tokio::test]
    async fn bytes_pass_through_both_ways_unchanged() {
        let directory = scratch("pass");
        let fifos = Fifos::create(&directory.0, "p", true).unwrap();
        let output = collect(&fifos.stdout).unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
        let input = relay_in(Cursor::new(bytes.clone()), &fifos.stdin).unwrap();

        // A shim that passes its standard input to its standard output.
        let (stdin, stdout) = (fifos.stdin.clone(), fifos.stdout.clone());
        let shim = thread::spawn(move || {
            let mut reader = std::fs::File::open(stdin).unwrap();
            let mut writer = std::fs::File::create(stdout).unwrap();
            io::copy(&mut reader, &mut writer).unwrap()
        });
        assert_eq!(input.finish(LIMIT).await.unwrap(), 1_000_000);
        assert_eq!(output.finish(LIMIT).await.unwrap(), bytes);
        assert_eq!(shim.join().unwrap(), 1_000_000);
    }

    #[tokio::test]
    async fn no_writer_yet_is_not_the_end() {
        let directory = scratch("early");
        let fifos = Fifos::create(&directory.0, "p", false).unwrap();
        assert_eq!(fifos.stdin, "");
        let mut output = collect(&fifos.stdout).unwrap();
        tokio::select! {
            biased;
            chunk = output.next() => panic!("{chunk:?}"),
            () = tokio::task::yield_now() => {}
        }
        let mut writer = pipe::OpenOptions::new().open_sender(&fifos.stdout).unwrap();
        writer.write_all(b"late").await.unwrap();
        drop(writer);
        assert_eq!(output.finish(LIMIT).await.unwrap(), b"late");
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_nobody_takes_does_not_block_the_process() {
        let directory = scratch("full");
        let fifos = Fifos::create(&directory.0, "p", false).unwrap();
        let mut relay = relay_out(&fifos.stdout, Full).unwrap();
        let mut writer = pipe::OpenOptions::new().open_sender(&fifos.stdout).unwrap();
        writer.write_all(&vec![0; 10 * CHUNK]).await.unwrap();
        relay.broken().await;
        drop(writer);
        assert!(relay.finish(LIMIT).await.is_err());
    }
}
