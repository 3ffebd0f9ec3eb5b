//! What the kernel log tells of OOM kills: who was killed, and by whose limit.
//!
//! Invariant: nothing is open before the first question, and a question costs the reading of what is
//! new. What only looks like the kernel's word is ignored: the log is open for anybody's writing,
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
use std::sync::{Mutex, PoisonError};

use parse::Reader;
pub use parse::{Kill, Limit};

const LOG: &str = "/dev/kmsg";
/// Kills that are remembered: of all containers on the machine, the latest.
const KEPT: usize = 512;
/// The longest record the kernel hands out (PRINTK_MESSAGE_MAX).
const LONGEST: usize = 2048;
/// Records read at one question at most: a log that grows faster than it is read has no end.
const MOST: usize = 100_000;

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
    /// All kills that are still in the log and came after record `after`, oldest first; the last one
    /// may be half told. Empty where the log cannot be read: in a container there often is none, or it
    /// is not for us.
    pub fn kills(&self, after: Option<u64>) -> Vec<Kill> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = state.read()
            && !std::mem::replace(&mut state.complained, true)
        {
            log::warn!(
                "read {LOG}: {e}; who is killed for want of memory is not known",
                e = e.words()
            );
        }
        let all = state.kills.iter().chain(state.reader.half());
        all.filter(|kill| after.is_none_or(|after| kill.seq > after))
            .cloned()
            .collect()
    }
}

impl KernelLog {
    /// Nobody is left who could be killed: closes the log until the next question.
    pub fn rest(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }
}

impl State {
    fn read(&mut self) -> io::Result<()> {
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
        for _ in 0..MOST {
            match file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    let Some(kill) = self.reader.record(&record[..length]) else {
                        continue;
                    };
                    if self.kills.len() == KEPT {
                        self.kills.pop_front();
                    }
                    self.kills.push_back(kill);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
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
        Ok(())
    }
}
