//! The server's log: one line a record, as the Go shim writes it (contract 1.10), onto the FIFO
//! `log` in the bundle.
//!
//! Invariant: logging never blocks and never fails. The FIFO is opened for reading too, so that
//! opening it needs no reader, writing to it raises no error when the manager is away, and the
//! latest lines wait there for its return. When it is full, lines are dropped, and counted in the
//! next line that fits. tests/bootstrap.rs fills one and lets the server go on.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use log::{Level, LevelFilter};
use nix::errno::Errno;

use super::RUNTIME_NAME;
use crate::dump::recent::Recent;
use crate::errno;
use crate::error::{Error, Result};
use crate::shown;
use crate::times::timestamp;

/// The latest errors and warnings, also those that found no room in the FIFO.
pub static ERRORS: Recent = Recent::new();

/// How many lines have found no room.
pub static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Longest line: what a pipe takes whole or not at all.
const MAX_LINE: usize = libc::PIPE_BUF;

/// Sends log records, panics, and whatever else is written to standard error, to the FIFO at `path`.
/// Without one (the shim was started by hand) standard error stays what it is, and so it does where
/// something else is in its place: nothing is written through a link, nor to a file. `RUST_LOG`
/// overrides the level.
///
/// # Errors
/// When the FIFO exists and cannot be opened.
pub fn init(path: &Path, debug: bool) -> Result<()> {
    let kind = path.symlink_metadata();
    let is_fifo = kind.as_ref().is_ok_and(|kind| kind.file_type().is_fifo());
    if is_fifo {
        let open = OpenOptions::new()
            .read(true)
            .append(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(path);
        let fifo = open.map_err(|e| Error::io(format!("open log {}", path.display()), &e))?;
        nix::unistd::dup2_stderr(&fifo)
            .map_err(|e| Error::io("put the log on standard error", &e.into()))?;
    }
    let level = if debug {
        LevelFilter::Debug
    } else {
        LevelFilter::Info
    };
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).parse_env("RUST_LOG");
    builder.target(env_logger::Target::Pipe(Box::new(Lines::new(io::stderr()))));
    builder.format(|out, record| {
        let (text, now) = (record.args().to_string(), SystemTime::now());
        let text = errno::put_right(&text);
        if record.level() <= Level::Warn {
            ERRORS.note(now, &text);
        }
        out.write_all(line(now, record.level(), &text).as_bytes())
    });
    // Only a second call in one process fails, and then there is a logger.
    let _ = builder.try_init();
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    if kind.is_ok() && !is_fifo {
        // The dump has it.
        log::warn!(
            "{} in the bundle is no FIFO and is left alone",
            path.display()
        );
    }
    Ok(())
}

/// A line in logrus's text format, no longer than [`MAX_LINE`].
fn line(at: SystemTime, level: Level, text: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let mut line = format!("time=\"{}\" level={level} msg=\"", timestamp(at));
    let tail = format!("\" runtime={RUNTIME_NAME}\n");
    let room = MAX_LINE - tail.len() - "…".len();
    for c in text.chars() {
        let mark = line.len();
        quote(&mut line, c);
        if line.len() > room {
            line.truncate(mark);
            line.push('…');
            break;
        }
    }
    line + &tail
}

/// Writes a character as Go's `%q` does; of those that are not seen, those that act.
fn quote(out: &mut String, c: char) {
    match c {
        '"' | '\\' => out.extend(['\\', c]),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if shown::acts(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => out.push(c),
    }
}

/// Writes lines, each with one system call, and counts those that find no room.
struct Lines<F> {
    file: F,
    dropped: u64,
}

impl<F: AsFd> Lines<F> {
    fn new(file: F) -> Self {
        Self { file, dropped: 0 }
    }

    /// Whether the line went out, or can go nowhere at all: no reader (`EPIPE`), no log.
    fn put(&self, line: &[u8]) -> bool {
        loop {
            match nix::unistd::write(&self.file, line) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return false,
                _ => return true,
            }
        }
    }
}

impl<F: AsFd> Write for Lines<F> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        if self.dropped > 0 {
            let notice = format!("dropped {} log lines", self.dropped);
            if self.put(line(SystemTime::now(), Level::Warn, &notice).as_bytes()) {
                self.dropped = 0;
            }
        }
        if self.dropped > 0 || !self.put(record) {
            self.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {

    use nix::fcntl::OFlag;

    use super::*;

    #[test]
    fn a_record_is_one_quoted_line() {
        let text = "a \"b\" c\\d\ne\tf\x1b\u{85} ö\u{202e}\u{2028}\u{2029}\u{2066}";
        assert_eq!(
            line(SystemTime::UNIX_EPOCH, Level::Warn, text),
            "time=\"1970-01-01T00:00:00.000000000Z\" level=warning \
             msg=\"a \\\"b\\\" c\\\\d\\ne\\tf\\x1b\\u0085 ö\\u202e\\u2028\\u2029\\u2066\" runtime=io.containerd.cotter.v2\n"
        );
    }

    #[test]
    fn a_long_record_is_cut_to_what_a_pipe_takes_whole() {
        for text in ["x".repeat(9_000), "\n".repeat(9_000), "ö".repeat(9_000)] {
            let line = line(SystemTime::UNIX_EPOCH, Level::Info, &text);
            assert!(
                line.len() <= MAX_LINE && line.len() > MAX_LINE - 10,
                "{}",
                line.len()
            );
            assert!(line.contains("…\" runtime=") && line.ends_with('\n'));
        }
    }

    #[test]
    fn a_full_pipe_drops_lines_and_says_how_many() {
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        let mut lines = Lines::new(write);
        let record = [b'x'; MAX_LINE];
        let mut fitted = 0;
        while lines.dropped == 0 {
            lines.write_all(&record).unwrap();
            fitted += 1;
        }
        lines.write_all(&record).unwrap();
        assert_eq!(lines.dropped, 2);

        let mut buffer = vec![0; MAX_LINE];
        for _ in 1..fitted {
            assert_eq!(nix::unistd::read(&read, &mut buffer).unwrap(), MAX_LINE);
        }
        lines.write_all(b"last\n").unwrap();
        assert_eq!(lines.dropped, 0);
        let n = nix::unistd::read(&read, &mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..n]);
        assert!(
            text.contains("msg=\"dropped 2 log lines\"") && text.ends_with("\nlast\n"),
            "{text}"
        );
    }

    #[test]
    fn no_reader_is_no_error() {
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        drop(read);
        let mut lines = Lines::new(write);
        lines.write_all(b"gone\n").unwrap();
        assert_eq!(lines.dropped, 0);
    }
}
