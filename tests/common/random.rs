//! Bytes that are random and the same in every run, and bytes bent at random.

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

/// A source of chance with a beginning that can be named.
pub struct Random(TestRng);

impl Random {
    /// The one that begins with `seed`.
    pub fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }

    /// Fewer than `end` bytes.
    pub fn bytes(&mut self, end: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.below(end)];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// One of them.
    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// `text` with a few changes: bytes and whole runs changed, doubled, gone, or put in from `other`.
    pub fn bend(&mut self, text: &[u8], other: &[u8]) -> Vec<u8> {
        /// Where parsers look.
        const SPECIAL: &[u8] = b"\0\n\r\t \"'\\/:;,.=-+{}[]<>()0129aexXnN\x7f\x80\xc3\xff";
        let mut text = text.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(text.len() + 1);
            let run = at..(at + 1 + self.below(16)).min(text.len()).max(at);
            match self.below(8) {
                0 => drop(text.splice(run, [])),
                1 => text.truncate(at),
                2 => drop(text.splice(at..at, [*self.of(SPECIAL)])),
                3 => drop(text.splice(run, [*self.of(SPECIAL)])),
                4 => {
                    let bytes = self.bytes(8);
                    text.splice(run, bytes);
                }
                5 => {
                    let times = 1 + self.below(200);
                    let run = text[run].repeat(times);
                    text.splice(at..at, run);
                }
                6 if !other.is_empty() => {
                    let from = self.below(other.len());
                    let to = (from + 1 + self.below(40)).min(other.len());
                    text.splice(run, other[from..to].iter().copied());
                }
                _ => {
                    if let Some(byte) = text.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
        text
    }
}
