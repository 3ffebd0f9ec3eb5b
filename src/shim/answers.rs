//! What ttrpc answers for a service that there is none of, put right on its way out.
//!
//! Invariant: of all that passes, one byte changes: the code of an answer that says `<name> service does not
//! exist` and nothing else, from InvalidArgument, which the ttrpc library says, to Unimplemented, which
//! containerd's runtime documentation, gRPC and the Go shim say, and by which managers know that they have
//! to ask for an older service. It changes however the writes are cut. tests/task/service.rs asks for such
//! services.
//!
//! The library looks services up by name and has no place for one that stands for all others. Both codes
//! take one byte, so no length changes.

use std::borrow::Cow;

use crate::error::Code;

/// Bytes before each message: its length, its stream, its type, its flags.
const HEADER: usize = 10;
/// The type of an answer.
const RESPONSE: u8 = 2;
/// How the answer ends.
const SAYS: &[u8] = b" service does not exist";

/// Follows what is written to one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answers {
    header: [u8; HEADER],
    /// How much of a header is there; all of it while a message is under way.
    have: usize,
    /// How much of the message is to come.
    left: usize,
    /// How far behind the next byte the one is that changes.
    change: Option<usize>,
}

impl Answers {
    /// What to write instead of these bytes: as many.
    pub(super) fn put_right<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let mut right = Cow::Borrowed(bytes);
        let mut ahead = *self;
        ahead.pass(bytes, bytes.len(), |place| {
            if let Some(code) = right.to_mut().get_mut(place) {
                *code = Code::Unimplemented as u8;
            }
        });
        right
    }

    /// So many of these bytes were written.
    pub(super) fn written(&mut self, bytes: &[u8], written: usize) {
        self.pass(bytes, written.min(bytes.len()), |_| {});
    }

    /// Goes on by the first so many bytes; `found` is told where a code is that changes.
    fn pass(&mut self, bytes: &[u8], until: usize, mut found: impl FnMut(usize)) {
        let mut done = 0;
        while done < until {
            let most = until - done;
            if self.have < HEADER {
                let taken = most.min(HEADER - self.have);
                let part = &bytes[done..done + taken];
                self.header[self.have..self.have + taken].copy_from_slice(part);
                self.have += taken;
                done += taken;
                if self.have == HEADER {
                    self.begin(&bytes[done..]);
                }
            } else {
                let taken = most.min(self.left);
                self.change = match self.change {
                    Some(change) if change < taken => {
                        found(done + change);
                        None
                    }
                    change => change.map(|change| change - taken),
                };
                self.left -= taken;
                done += taken;
            }
            if self.have == HEADER && self.left == 0 {
                self.have = 0;
            }
        }
    }

    /// A message begins. The library writes it with its header, if it has no more than a page.
    fn begin(&mut self, rest: &[u8]) {
        let [a, b, c, d, _, _, _, _, kind, _] = self.header;
        self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let whole = rest.get(..self.left).filter(|_| kind == RESPONSE);
        self.change = whole.and_then(code_of);
    }
}

/// Where in an answer the code is that changes: `Response { status: { code: 3, message: "…" } }`.
fn code_of(answer: &[u8]) -> Option<usize> {
    let rest = answer.strip_prefix(&[0x0a])?;
    if !rest.ends_with(SAYS) {
        return None;
    }
    let length = rest.iter().position(|byte| *byte < 0x80)?;
    let status = rest.get(length + 1..)?;
    let is = status.starts_with(&[0x08, Code::InvalidArgument as u8, 0x12]);
    is.then_some(1 + length + 1 + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protobuf::Message;

    use super::*;

    fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        let header = [&length.to_be_bytes()[..], &[0, 0, 0, 7, kind, 0]].concat();
        [&header, payload].concat()
    }

    fn answer(code: ttrpc::Code, says: &str) -> Vec<u8> {
        let mut answer = ttrpc::Response::new();
        answer.set_status(ttrpc::get_status(code, says));
        message(RESPONSE, &answer.write_to_bytes().unwrap())
    }

    /// What a client gets when no more than so many bytes are taken at a time.
    fn through(messages: &[Vec<u8>], mut sizes: impl Iterator<Item = usize>) -> Vec<u8> {
        let mut answers = Answers::default();
        let mut got = Vec::new();
        for message in messages {
            let mut rest = &message[..];
            while !rest.is_empty() {
                let right = answers.put_right(rest);
                let taken = sizes.next().unwrap_or(usize::MAX).clamp(1, rest.len());
                got.extend_from_slice(&right[..taken]);
                answers.written(rest, taken);
                rest = &rest[taken..];
            }
        }
        got
    }

    #[test]
    fn only_the_code_of_a_missing_service_changes() {
        use ttrpc::Code::{INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED};
        let says = |name: &str| format!("{name} service does not exist");
        for name in ["", "x", "a.b.Task", &"x".repeat(300)] {
            let wrong = answer(INVALID_ARGUMENT, &says(name));
            let right = answer(UNIMPLEMENTED, &says(name));
            assert_eq!(through(&[wrong], [].into_iter()), right, "{name}");
        }
        let mut data = answer(INVALID_ARGUMENT, &says("x"));
        data[8] = 3;
        for same in [
            answer(NOT_FOUND, &says("x")),
            answer(
                INVALID_ARGUMENT,
                "x service does not exist: invalid argument",
            ),
            answer(INVALID_ARGUMENT, ""),
            message(RESPONSE, b""),
            message(RESPONSE, b"\x0a"),
            message(RESPONSE, SAYS),
            data,
        ] {
            assert_eq!(through(std::slice::from_ref(&same), [].into_iter()), same);
        }
    }

    proptest! {
        #[test]
        fn however_the_writes_are_cut(
            kinds in proptest::collection::vec(0..4_usize, 1..8),
            sizes in proptest::collection::vec(1..40_usize, 0..200),
        ) {
            let says = "a.b.C service does not exist";
            let all = [
                answer(ttrpc::Code::INVALID_ARGUMENT, says),
                answer(ttrpc::Code::NOT_FOUND, "no such container: not found"),
                message(RESPONSE, &[7; 5000]),
                message(RESPONSE, b""),
            ];
            let sent: Vec<_> = kinds.iter().map(|kind| all[*kind].clone()).collect();
            let mut right = all;
            right[0] = answer(ttrpc::Code::UNIMPLEMENTED, says);
            let expected: Vec<_> = kinds.iter().map(|kind| right[*kind].clone()).collect();
            prop_assert_eq!(through(&sent, sizes.into_iter()), expected.concat());
        }
    }
}
