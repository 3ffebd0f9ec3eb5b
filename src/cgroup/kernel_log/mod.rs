//! What the kernel log tells of OOM kills: who was killed, and by whose limit.
//!
//! Invariant: nothing is open before the first question, and a question costs the reading of what is
//! new, [`SLICE`] records of it at most, whoever writes to the log. What only looks like the kernel's word is ignored: the log is open for anybody's writing,
//! but not under the kernel's own facility ([`parse`]).
//!
//! The kernel writes no word of a kill that it did not count before, so who has seen a count go up
//! finds the words here or, for some microseconds, not yet.

mod parse;

use crate::errno::Words;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use parse::Reader;
pub use parse::{Kill, Limit};

const LOG: &str = "/dev/kmsg";
/// Kills that are remembered: of all containers on the machine, the latest.
const KEPT: usize = 512;
/// The longest record the kernel hands out (PRINTK_MESSAGE_MAX).
const LONGEST: usize = 2048;
/// Records read at one question at most, about nine milliseconds: a log that grows faster than it is read
/// has no end. It is more than usual kernels keep (8192 with 256 KiB), so that who asks for the first time hears the
/// latest.
const SLICE: usize = 9000;

/// What is known at a question.
#[derive(Debug, Default)]
pub struct Known {
    /// Kills, oldest first; the last one may be half told.
    pub kills: Vec<Kill>,
    /// Whether the log has been read to its end, or cannot be.
    pub is_all: bool,
}

/// The kernel's log, as one shim reads it.
#[derive(Debug, Default)]
pub struct KernelLog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    file: Option<File>,
    reader: Reader,
    kills: VecDeque<Kill>,
    complained: bool,
}

impl KernelLog {
    /// The kills that are still in the log and came after record `after`. Empty where the log cannot be
    /// read: in a container there often is none, or it is not for us.
    pub fn kills(&self, after: Option<u64>) -> Known {
        let mut state = self.state();
        let is_all = state.catch_up();
        let all = state.kills.iter().chain(state.reader.half());
        let kills = all.filter(|kill| after.is_none_or(|after| kill.seq > after));
        Known {
            kills: kills.cloned().collect(),
            is_all,
        }
    }

    /// Reads what is new, for a question to come.
    pub fn catch_up(&self) {
        self.state().catch_up();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KernelLog {
    /// Nobody is left who could be killed: closes the log until the next question.
    pub fn rest(&self) {
        *self.state() = State::default();
    }
}

impl State {
    /// Whether there is no more to read.
    fn catch_up(&mut self) -> bool {
        self.read().unwrap_or_else(|e| {
            if !std::mem::replace(&mut self.complained, true) {
                log::warn!(
                    "read {LOG}: {e}; who is killed for want of memory is not known",
                    e = e.words()
                );
            }
            true
        })
    }

    fn read(&mut self) -> io::Result<bool> {
        let file = match &mut self.file {
            Some(file) => file,
            // Blocking, the read of its end would wait for more.
            none => none.insert(
                OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(LOG)?,
            ),
        };
        let mut record = [0; LONGEST];
        for _ in 0..SLICE {
            match file.read(&mut record) {
                Ok(0) => return Ok(true),
                Ok(length) => {
                    let Some(kill) = self.reader.record(&record[..length]) else {
                        continue;
                    };
                    if self.kills.len() == KEPT {
                        self.kills.pop_front();
                    }
                    self.kills.push_back(kill);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                // Overwritten before they were read; the next read goes on behind the gap.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A record that is longer than we are ready for was consumed.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                Err(e) => {
                    self.file = None;
                    return Err(e);
                }
            }
        }
        Ok(false)
    }
}
