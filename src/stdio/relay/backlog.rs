//! Output that nobody reads for now, in order.
//!
//! Invariant: what is taken out is what was put in, in its order, but for whole pieces dropped by
//! [`Backlog::drop_oldest`], each of which leaves a gap that is told before what follows it.
//!
//! The bytes are in a memory file (memfd_create(2)): it costs the shim's heap nothing, holds lines
//! densely (a pipe may spend a page for each), and what has been taken out is given back to the system
//! piece by piece, which a heap does not promise. It is a log, not a ring: the offset only grows until
//! all is taken, and what lies before `head` is punched out.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::uio::{pread, pwrite};

use crate::errno::Words;
use crate::stdio::sys;

/// Room is reserved, and given back, in pieces of this.
const PIECE: u64 = 64 << 10;
/// How far a drop looks for the end of a line.
const LINE: usize = 4096;

#[derive(Debug)]
pub(super) struct Backlog {
    file: OwnedFd,
    /// The first byte that was not taken, and the first that was not put.
    head: u64,
    tail: u64,
    /// Nothing is stored before this, and nothing can be put beyond that.
    freed: u64,
    reserved: u64,
    limit: u64,
    /// The file may not grow beyond what is reserved (`RLIMIT_FSIZE`).
    bounded: bool,
    /// Bytes dropped before `head` that no mark tells of yet.
    gap: u64,
    /// Whether what was taken last was not, or may not have been, the end of a line.
    in_line: bool,
}

impl Backlog {
    /// For `limit` bytes.
    pub(super) fn new(limit: u64) -> nix::Result<Self> {
        Ok(Self {
            file: sys::memory_file()?,
            head: 0,
            tail: 0,
            freed: 0,
            reserved: 0,
            limit,
            bounded: false,
            gap: 0,
            in_line: true,
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.tail - self.head
    }

    /// Whether there is nothing to take and no gap to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.gap == 0
    }

    /// How much of `wanted` can be put for sure.
    pub(super) fn room(&mut self, wanted: usize) -> usize {
        let fits = |this: &Self| (wanted as u64).min(this.limit.saturating_sub(this.len()));
        let mut wanted = fits(self);
        while self.reserved < self.tail + wanted {
            let (from, len) = (self.reserved.cast_signed(), PIECE.cast_signed());
            if let Err(why) = fallocate(&self.file, FallocateFlags::empty(), from, len) {
                log::debug!("reserve memory for output: {why}", why = why.words());
                if why == Errno::EFBIG {
                    self.begin_anew();
                    wanted = fits(self);
                }
                break;
            }
            self.reserved += PIECE;
        }
        usize::try_from(wanted.min(self.reserved - self.tail)).unwrap_or(0)
    }

    /// A file that may not grow holds half of what it could: so the other half is free when its end is
    /// reached, and what there is moves to its beginning, seldom enough to cost nothing.
    fn begin_anew(&mut self) {
        if !self.bounded {
            self.bounded = true;
            self.limit = self.limit.min(self.reserved / 2);
        }
        // What had been given back is there again, or nothing changes.
        let all = self.reserved.cast_signed();
        if self.head < self.len() || fallocate(&self.file, FallocateFlags::empty(), 0, all).is_err()
        {
            return;
        }
        let mut chunk = [0; LINE];
        let (len, mut moved) = (self.len(), 0);
        while moved < len {
            let most = usize::try_from(len - moved).unwrap_or(LINE).min(LINE);
            let from = (self.head + moved).cast_signed();
            let copied = pread(&self.file, &mut chunk[..most], from)
                .and_then(|read| pwrite(&self.file, &chunk[..read], moved.cast_signed()));
            match copied {
                Ok(copied) if copied > 0 => moved += copied as u64,
                _ => return,
            }
        }
        (self.head, self.tail, self.freed) = (0, len, 0);
    }

    /// Makes room for `len` bytes beyond the limit if need be; false if there is no memory.
    pub(super) fn admit(&mut self, len: usize) -> bool {
        self.limit = self.limit.max(self.len() + len as u64);
        self.room(len) == len
    }

    /// Puts bytes at the end, for which there is [`room`](Self::room).
    pub(super) fn put(&mut self, bytes: &[u8]) -> nix::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            let len = pwrite(&self.file, left, self.tail.cast_signed())?;
            self.tail += len as u64;
            left = &left[len..];
        }
        Ok(())
    }

    /// The first bytes, up to what `into` can hold.
    pub(super) fn peek<'a>(&self, into: &'a mut [u8]) -> nix::Result<&'a [u8]> {
        let len = usize::try_from(self.len()).unwrap_or(usize::MAX);
        let len = len.min(into.len());
        let len = pread(&self.file, &mut into[..len], self.head.cast_signed())?;
        Ok(&into[..len])
    }

    /// The first bytes, which `peek` gave, have been taken.
    pub(super) fn taken(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.in_line = *last != b'\n';
        }
        self.forget(bytes.len() as u64);
    }

    fn forget(&mut self, len: u64) {
        self.head = self.tail.min(self.head + len);
        let whole = self.head / PIECE * PIECE;
        if self.head == self.tail && self.reserved == PIECE {
            (self.head, self.tail) = (0, 0);
        } else if self.head == self.tail && nix::unistd::ftruncate(&self.file, 0).is_ok() {
            (self.head, self.tail, self.freed, self.reserved) = (0, 0, 0, 0);
        } else if whole > self.freed {
            let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let (from, len) = (self.freed.cast_signed(), (whole - self.freed).cast_signed());
            if fallocate(&self.file, punch, from, len).is_ok() {
                self.freed = whole;
            }
        }
    }

    /// Drops the oldest bytes, as many as are needed to put `len` more, and to the end of their line if
    /// that is near. Returns how many.
    pub(super) fn drop_oldest(&mut self, len: usize) -> u64 {
        let beyond = (self.len() + len as u64).saturating_sub(self.limit);
        let mut drop = beyond.min(self.len());
        if drop == 0 {
            return 0;
        }
        let mut line = [0; LINE];
        let from = (self.head + drop).cast_signed();
        let looked = (self.len() - drop).min(LINE as u64);
        let looked = usize::try_from(looked).unwrap_or(0);
        if let Ok(looked) = pread(&self.file, &mut line[..looked], from)
            && let Some(end) = line[..looked].iter().position(|byte| *byte == b'\n')
        {
            drop += end as u64 + 1;
        }
        self.gap += drop;
        self.forget(drop);
        drop
    }

    /// The line that tells of a gap before the first byte, if there is one.
    pub(super) fn mark(&self, line_end: &str) -> Option<String> {
        let before = if self.in_line { line_end } else { "" };
        let gap = self.gap;
        (gap > 0).then(|| format!("{before}[cotter: {gap} bytes of output dropped here]{line_end}"))
    }

    /// The mark has been taken; how many bytes it told of.
    pub(super) fn marked(&mut self) -> u64 {
        self.in_line = false;
        std::mem::take(&mut self.gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn stored(backlog: &Backlog) -> u64 {
        let blocks = nix::sys::stat::fstat(&backlog.file).unwrap().st_blocks;
        blocks.cast_unsigned() * 512
    }

    #[test]
    fn what_is_taken_is_given_back() {
        let mut backlog = Backlog::new(1 << 20).unwrap();
        let mut chunk = [7; 16 << 10];
        let mut put = 0;
        for _ in 0..1000 {
            while backlog.room(chunk.len()) == chunk.len() {
                backlog.put(&chunk).unwrap();
                put += chunk.len();
            }
            assert!(stored(&backlog) <= (1 << 20) + 2 * PIECE);
            let got = backlog.peek(&mut chunk).unwrap().to_vec();
            assert_eq!(got.len(), 16 << 10);
            backlog.taken(&got);
        }
        assert!(put > 16 << 20);
        while !backlog.is_empty() {
            let got = backlog.peek(&mut chunk).unwrap().to_vec();
            backlog.taken(&got);
        }
        assert_eq!(stored(&backlog), 0);
    }

    #[test]
    fn a_gap_is_told_once_between_lines() {
        let mut backlog = Backlog::new(10).unwrap();
        assert_eq!(backlog.room(100), 10);
        backlog.put(b"one\ntwo\nth").unwrap();
        assert_eq!(backlog.room(1), 0);
        assert_eq!(backlog.mark("\n"), None);
        assert_eq!(backlog.drop_oldest(3), 4, "to the end of the line");
        assert_eq!(backlog.drop_oldest(3), 0, "there is room");
        assert_eq!(backlog.room(3), 3);
        backlog.put(b"ree").unwrap();
        let mark = "[cotter: 4 bytes of output dropped here]";
        assert_eq!(backlog.mark("\n"), Some(format!("\n{mark}\n")));
        assert_eq!(backlog.mark("\r\n"), Some(format!("\r\n{mark}\r\n")));
        assert_eq!(backlog.marked(), 4);
        assert_eq!(backlog.mark("\n"), None);
        let mut bytes = [0; 4];
        assert_eq!(backlog.peek(&mut bytes).unwrap(), b"two\n");
        backlog.taken(b"two\n");
        assert_eq!(backlog.drop_oldest(100), 5, "no more than there is");
        assert!(!backlog.is_empty(), "its gap is untold");
        let mark = "[cotter: 5 bytes of output dropped here]\n";
        assert_eq!(backlog.mark("\n"), Some(mark.into()), "at a line's start");
        backlog.marked();
        assert!(backlog.is_empty());
    }

    proptest! {
        #[test]
        fn order_and_count_are_kept(
            steps in prop::collection::vec((0_usize..3, 1_usize..40_000), 1..200)
        ) {
            let mut backlog = Backlog::new(150_000).unwrap();
            let mut model: VecDeque<u8> = VecDeque::new();
            let mut next = 0_u64;
            let mut buffer = vec![0; 40_000];
            for (what, len) in steps {
                match what {
                    0 => {
                        let len = backlog.room(len);
                        prop_assert!(len <= 150_000 - model.len());
                        let bytes: Vec<u8> = (0..len as u64).map(|n| {
                            let n = next + n;
                            (n ^ (n >> 8) ^ (n >> 16)) as u8
                        }).collect();
                        next += len as u64;
                        backlog.put(&bytes).unwrap();
                        model.extend(bytes);
                    }
                    1 => {
                        let got = backlog.peek(&mut buffer[..len]).unwrap().to_vec();
                        let expected: Vec<u8> = model.drain(..got.len()).collect();
                        prop_assert!(got == expected);
                        prop_assert_eq!(got.len(), len.min(got.len() + model.len()));
                        backlog.taken(&got);
                    }
                    _ => {
                        let before = backlog.gap;
                        let dropped = backlog.drop_oldest(len);
                        prop_assert_eq!(backlog.gap, before + dropped);
                        model.drain(..usize::try_from(dropped).unwrap());
                        prop_assert!(backlog.room(len) == len);
                    }
                }
                prop_assert_eq!(backlog.len(), model.len() as u64);
            }
        }
    }
}
