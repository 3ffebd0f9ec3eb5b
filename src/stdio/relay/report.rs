//! What a relay is at, for the dump.

use std::os::fd::AsFd;

use super::{Mode, Relay, Target};
use crate::stdio::sys;

impl Relay {
    /// What it waits for at this moment. Asks the kernel about both sides, which never blocks.
    pub(in crate::stdio) fn waits_for(&self) -> &'static str {
        if self.writing.is_some() {
            return "a write to the disk";
        }
        match self.mode {
            Mode::Hold(_) => return "a reader, to end",
            Mode::Stalled => return "a reader to come back, buffering",
            Mode::Over => return "the terminal's last line",
            Mode::Clocked(_) => return "the container to write more",
            Mode::Splice | Mode::Copy(_) => {}
        }
        if self.nap.is_some() {
            return "a pause before the next try";
        }
        let output = !matches!(self.target, Target::Pipe | Target::Terminal);
        let sides = self
            .from
            .as_ref()
            .and_then(|from| sys::sides(from.get_ref().as_fd(), self.to.as_fd()).ok());
        let pending = matches!(&self.mode, Mode::Copy(pending) if !pending.is_empty());
        match sides {
            Some(sides) if (sides.filled || pending) && !sides.room => match output {
                true => "a reader to make room",
                false => "the container to read",
            },
            Some(sides) if !sides.filled && !sides.hung_up && !pending => match output {
                true => "the container to write",
                false => "the client to write",
            },
            _ => "its turn",
        }
    }

    /// Whether so much waits in its source that who writes may have to wait soon: a pipe may be full
    /// with half of what it can hold, and one of a single page with any byte.
    pub(in crate::stdio) fn is_filling(&self) -> bool {
        const PAGE: u64 = 4096;
        let Some(source) = &self.from else {
            return false;
        };
        let unread = sys::unread(source.get_ref()) as u64;
        // No pipe: a terminal, which is only here once much was written to it.
        let size = sys::pipe_size(source.get_ref().as_fd()).unwrap_or(0);
        unread > size.saturating_sub(PAGE) / 4
    }

    /// Bytes that it has handed on and nobody has read yet, as far as its target counts them.
    pub(in crate::stdio) fn unread(&self) -> Option<usize> {
        match self.target {
            Target::Fifo | Target::Pipe => Some(sys::unread(&self.to)),
            Target::Terminal | Target::File | Target::Device => None,
        }
    }
}
