//! The filter of system calls that an exec is to have, as the kernel takes it.
//!
//! Invariant: it is the runtime's own, byte for byte, or there is none.

use std::path::Path;

use super::Reason;
use crate::spec::read_own;

/// The most instructions that the kernel takes.
pub const MOST: usize = 4096;

/// Of one instruction, in bytes.
pub const SIZE: usize = size_of::<libc::sock_filter>();

/// Of linux/audit.h: who calls, if it is this very program.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Instructions, and the flags with which they are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// As `struct sock_filter`s.
    pub instructions: Vec<u8>,
    /// Of `seccomp(2)`.
    pub flags: u64,
}

impl Program {
    /// What is one; else why not.
    pub fn new(instructions: Vec<u8>, flags: u64) -> Result<Self, Reason> {
        let is_whole = instructions.len().is_multiple_of(SIZE);
        match is_whole && (1..=MOST).contains(&(instructions.len() / SIZE)) {
            true => Ok(Self {
                instructions,
                flags,
            }),
            false => Err("its filter of system calls is not understood"),
        }
    }

    /// crun's, from its file.
    pub fn read(path: &Path, flags: u64) -> Result<Self, Reason> {
        let longest = (MOST * SIZE) as u64;
        let read =
            read_own(path, longest).map_err(|_| "its filter of system calls cannot be read")?;
        Self::new(read, flags)
    }

    /// Whether it lets a call pass for certain, logged or not. An argument that is an address is not known.
    ///
    /// Told by what its instructions do (`seccomp(2)`); only those are understood that runtimes make.
    pub fn lets(&self, number: usize, args: &[Option<usize>; 6]) -> bool {
        let verdict = self.run(number, args);
        let action = verdict.map(|verdict| verdict & libc::SECCOMP_RET_ACTION_FULL);
        matches!(
            action,
            Some(libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG)
        )
    }

    fn run(&self, number: usize, args: &[Option<usize>; 6]) -> Option<u32> {
        const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
        const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
        const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
        const ANY_OF: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
        let (mut held, mut at) = (0_u32, 0_usize);
        // It only jumps forward, so that it ends.
        loop {
            let [code, code2, yes, no, k @ ..] =
                *self.instructions.get(at * SIZE..)?.first_chunk::<SIZE>()?;
            let (code, k) = (u16::from_ne_bytes([code, code2]), u32::from_ne_bytes(k));
            at += 1;
            let mut jump = |is: bool| at += usize::from(if is { yes } else { no });
            match code {
                LOAD => held = asked(k, number, args)?,
                AND => held &= k,
                RETURN => return Some(k),
                JUMP => at += k as usize,
                EQUAL => jump(held == k),
                GREATER => jump(held > k),
                AT_LEAST => jump(held >= k),
                ANY_OF => jump(held & k != 0),
                _ => return None,
            }
        }
    }
}

/// What the kernel shows of a call at this offset (`struct seccomp_data`), if it is known.
#[allow(clippy::cast_possible_truncation)]
fn asked(offset: u32, number: usize, args: &[Option<usize>; 6]) -> Option<u32> {
    match offset {
        0 => u32::try_from(number).ok(),
        4 => Some(ARCHITECTURE),
        16..64 if offset.is_multiple_of(4) => {
            let value = args[(offset as usize - 16) / 8]? as u64;
            let upper = offset.is_multiple_of(8) == cfg!(target_endian = "big");
            Some(if upper {
                (value >> 32) as u32
            } else {
                value as u32
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const DENY: u32 = libc::SECCOMP_RET_ERRNO;

    fn program(instructions: &[(u32, u8, u8, u32)]) -> Program {
        let bytes = instructions.iter().flat_map(|&(code, yes, no, k)| {
            let [first, second] = u16::try_from(code).unwrap().to_ne_bytes();
            let [a, b, c, d] = k.to_ne_bytes();
            [first, second, yes, no, a, b, c, d]
        });
        Program::new(bytes.collect(), 0).unwrap()
    }

    #[test]
    fn what_is_a_program() {
        for (bytes, is_one) in [
            (0, false),
            (7, false),
            (8, true),
            (9, false),
            (MOST * SIZE, true),
            (MOST * SIZE + SIZE, false),
        ] {
            assert_eq!(Program::new(vec![0; bytes], 0).is_ok(), is_one, "{bytes}");
        }
    }

    /// A filter as runtimes make them: another architecture is ended, one call is refused, of one an argument is
    /// looked at in both its halves, one is logged.
    #[test]
    fn what_it_lets_pass() {
        let program = program(&[
            (0x20, 0, 0, 4),
            (0x15, 0, 10, ARCHITECTURE),
            (0x20, 0, 0, 0),
            (0x15, 9, 0, 7),
            (0x15, 0, 5, 8),
            // The second argument is 5 and 1 above.
            (0x20, 0, 0, 28),
            (0x15, 0, 6, 1),
            (0x20, 0, 0, 24),
            (0x54, 0, 0, 0xff),
            (0x15, 2, 3, 5),
            (0x35, 3, 0, 0x4000_0000),
            (0x15, 3, 0, 9),
            (0x06, 0, 0, ALLOW),
            (0x06, 0, 0, DENY),
            (0x06, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
            (0x06, 0, 0, libc::SECCOMP_RET_LOG),
        ]);
        let five = (1 << 32) | 5;
        for (number, second, lets) in [
            (1, Some(0), true),
            (7, Some(0), false),
            (8, Some(five), true),
            (8, Some(five | 0xf00), true),
            (8, Some(5), false),
            (8, Some(five + 1), false),
            (8, None, false),
            (9, None, true),
            (0x4000_0001, None, false),
        ] {
            let args = [None, second, None, None, None, None];
            assert_eq!(program.lets(number, &args), lets, "{number} {second:x?}");
        }
    }

    #[test]
    fn what_is_not_understood_lets_nothing_pass() {
        for instructions in [
            // It ends without a verdict, here and there.
            &[(0x20, 0, 0, 0)][..],
            &[(0x05, 0, 0, u32::MAX), (0x06, 0, 0, ALLOW)],
            &[(0x15, 9, 9, 0), (0x06, 0, 0, ALLOW)],
            // The address of the call, beyond all, an odd one, another way to load.
            &[(0x20, 0, 0, 8), (0x06, 0, 0, ALLOW)],
            &[(0x20, 0, 0, 64), (0x06, 0, 0, ALLOW)],
            &[(0x20, 0, 0, 17), (0x06, 0, 0, ALLOW)],
            &[(0x28, 0, 0, 0), (0x06, 0, 0, ALLOW)],
            // An error that is none, somebody who is asked.
            &[(0x06, 0, 0, DENY)],
            &[(0x06, 0, 0, libc::SECCOMP_RET_TRACE)],
            &[(0x06, 0, 0, libc::SECCOMP_RET_USER_NOTIF)],
        ] {
            assert!(
                !program(instructions).lets(1, &[Some(0); 6]),
                "{instructions:x?}"
            );
        }
    }
}
