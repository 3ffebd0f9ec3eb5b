//! What a logging program writes to its standard error goes to the shim's log.
//!
//! Invariant: the program never waits for it, the shim never keeps more than a line of it, and no
//! more than [`LINES`] lines in [`WINDOW`] get into the log; the others are counted there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::time::Instant;

use crate::stdio::sys::{self, Watched};

/// The most of a line that is kept.
const LINE: usize = 1024;
/// The most lines within [`WINDOW`].
const LINES: u32 = 100;
const WINDOW: Duration = Duration::from_secs(10);

/// Cuts bytes into lines, within the budget.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
    window: Option<Instant>,
    in_window: u32,
    dropped: u64,
}

impl Lines {
    /// Takes bytes, and tells each line that they end.
    fn push(&mut self, mut bytes: &[u8], now: Instant, tell: &mut impl FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.begin(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.end(now, tell);
        }
        self.begin(bytes);
    }

    fn begin(&mut self, bytes: &[u8]) {
        let room = LINE - self.begun.len();
        self.begun
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Tells what there is of a line.
    fn end(&mut self, now: Instant, tell: &mut impl FnMut(&str)) {
        if self.begun.is_empty() {
            return;
        }
        if self.window.is_none_or(|begun| now - begun >= WINDOW) {
            self.window = Some(now);
            self.in_window = 0;
            if self.dropped > 0 {
                tell(&format!("({} lines left out)", self.dropped));
                self.dropped = 0;
            }
        }
        if self.in_window < LINES {
            self.in_window += 1;
            tell(&String::from_utf8_lossy(&self.begun));
        } else {
            self.dropped += 1;
        }
        self.begun.clear();
    }
}

/// Our end of the standard error of all runs of a program.
#[derive(Debug)]
pub(super) struct Said {
    from: Watched,
    lines: Lines,
    /// What each line in the log begins with.
    who: String,
}

impl Said {
    pub(super) fn new(from: OwnedFd, who: String) -> io::Result<Self> {
        Ok(Self {
            from: sys::watch(Arc::new(from), Interest::READABLE)?,
            lines: Lines::default(),
            who,
        })
    }

    /// Logs what comes. Ends only when it cannot be read any more; can be cancelled.
    pub(super) async fn listen(&mut self) {
        while let Ok(mut ready) = self.from.readable().await {
            match sys::read_some(ready.get_inner().as_fd()) {
                Ok(bytes) if bytes.is_empty() => return,
                Ok(bytes) => {
                    let who = &self.who;
                    let tell = &mut |line: &str| log::info!("{who}: {line}");
                    self.lines.push(&bytes, Instant::now(), tell);
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            // A program that never stops talking must not keep the shim from its other work.
            tokio::task::yield_now().await;
        }
    }

    /// Logs what is there now, an unfinished line too: the last words of a run.
    pub(super) fn rest(&mut self) {
        let who = &self.who;
        let tell = &mut |line: &str| log::info!("{who}: {line}");
        // No more than a pipe holds: a child that is left may go on.
        for _ in 0..16 {
            match sys::read_some(self.from.get_ref().as_fd()) {
                Ok(bytes) if !bytes.is_empty() => self.lines.push(&bytes, Instant::now(), tell),
                _ => break,
            }
        }
        self.lines.end(Instant::now(), tell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_counted_and_bounded() {
        let mut lines = Lines::default();
        let mut told = Vec::new();
        let begun = Instant::now();
        let mut tell = |line: &str| told.push(line.to_owned());
        lines.push(b"one\n\ntwo\nthr", begun, &mut tell);
        lines.push(b"ee\n", begun, &mut tell);
        lines.push(&[b'x'; 5000], begun, &mut tell);
        lines.push(b"x\n", begun, &mut tell);
        for _ in 0..200 {
            lines.push(b"more\n", begun, &mut tell);
        }
        lines.push(b"late\nlast", begun + WINDOW, &mut tell);
        lines.end(begun + WINDOW, &mut tell);
        let long = "x".repeat(LINE);
        assert_eq!(told[..4], ["one", "two", "three", long.as_str()]);
        assert_eq!(told[4..100], vec!["more"; 96]);
        assert_eq!(told[100..], ["(104 lines left out)", "late", "last"]);
    }
}
