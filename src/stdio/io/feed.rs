//! A regular file for standard input.
//!
//! Invariant: the container never has a descriptor of a file of the host: one that is open for reading
//! can be opened again for writing (`/proc/self/fd/0`), whatever it was opened for. It reads from a pipe,
//! as from a FIFO, and this puts the file into another one for the relay. Reading may take as long as the
//! disk wants: it holds this stream and a thread that is let go. The task ends when the file does, or
//! when the relay has closed its end. tests/streams/input_file.rs has containers try it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::time::sleep;

use crate::blocking::blocking;
use crate::errno::Words;
use crate::stdio::sys::{self, Watched};

/// How much is read at once: what a pipe holds.
const CHUNK: usize = 64 * 1024;
/// Between two tries to have a thread.
const RETRY: std::time::Duration = std::time::Duration::from_millis(50);

/// Reads a file into a pipe; returns its read end. `name` is for messages.
///
/// # Errors
/// When there is no pipe to be had.
pub(super) fn from_file(file: OwnedFd, name: String) -> io::Result<OwnedFd> {
    let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)?;
    let write = sys::watch(Arc::new(write), Interest::WRITABLE)?;
    // Ends with the relay, which has the other end.
    tokio::spawn(async move {
        if let Err(why) = feed(Arc::new(file), &write).await {
            log::warn!("read stdin {name}: {}", why.words());
        }
    });
    Ok(read)
}

/// Until the end of the file or of the pipe's reader.
async fn feed(file: Arc<OwnedFd>, to: &Watched) -> nix::Result<()> {
    loop {
        let from = Arc::clone(&file);
        let chunk = blocking("read-input", move || read(&from)).await;
        let Ok(chunk) = chunk.inspect_err(|why| log::debug!("read stdin: {why}, trying again"))
        else {
            sleep(RETRY).await;
            continue;
        };
        let chunk = chunk?;
        if chunk.is_empty() || !write_all(to, &chunk).await {
            return Ok(());
        }
    }
}

fn read(file: &OwnedFd) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0; CHUNK];
    loop {
        match nix::unistd::read(file, &mut bytes) {
            Err(Errno::EINTR) => {}
            read => {
                bytes.truncate(read?);
                return Ok(bytes);
            }
        }
    }
}

/// Whether there was a reader for all of it.
async fn write_all(to: &Watched, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Ok(mut ready) = to.writable().await else {
            return false;
        };
        match nix::unistd::write(to.get_ref().as_fd(), bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
    true
}
