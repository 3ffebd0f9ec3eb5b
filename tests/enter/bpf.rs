//! Filters of system calls as the kernel has them, and what they say. Two are alike if they say the same of every call
//! that can tell them apart.

use std::collections::BTreeSet;
use std::ffi::c_void;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// One instruction.
pub type Instruction = libc::sock_filter;

/// Of linux/ptrace.h; libc does not have it.
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;

/// The only one of a process that runs.
pub fn of(pid: u32) -> Vec<Instruction> {
    let pid = pid.cast_signed();
    let trace = |what: libc::c_uint, number: usize, to: *mut c_void| {
        // SAFETY: the kernel writes only where a filter is asked for, as many instructions as it can have at most.
        let answer = unsafe { libc::ptrace(what, pid, number, to) };
        usize::try_from(answer).ok()
    };
    let null = std::ptr::null_mut();
    trace(libc::PTRACE_SEIZE, 0, null).unwrap();
    trace(libc::PTRACE_INTERRUPT, 0, null).unwrap();
    waitpid(Pid::from_raw(pid), Some(WaitPidFlag::__WALL)).unwrap();
    let none = Instruction {
        code: 0,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let mut program = vec![none; 4096];
    let count = trace(PTRACE_SECCOMP_GET_FILTER, 0, program.as_mut_ptr().cast());
    let second = trace(PTRACE_SECCOMP_GET_FILTER, 1, null);
    trace(libc::PTRACE_DETACH, 0, null).unwrap();
    program.truncate(count.expect("it has a filter"));
    assert_eq!(second, None, "a second filter");
    program
}

/// As the kernel would have its bytes.
pub fn words(program: &[Instruction]) -> Vec<(u16, u8, u8, u32)> {
    program
        .iter()
        .map(|it| (it.code, it.jt, it.jf, it.k))
        .collect()
}

/// What a call is, as a filter sees it: number, architecture, address, arguments.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: u32,
    architecture: u32,
    args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let arg = |at: u32| self.args[(at / 8) as usize] >> (at % 8 * 8);
        match offset {
            0 => self.number,
            4 => self.architecture,
            // The address of the instruction: nobody asks.
            8 | 12 => 0,
            at => (arg(at - 16) & u64::from(u32::MAX)) as u32,
        }
    }
}

/// What it answers, and whether it has looked at an argument.
fn answer(program: &[Instruction], call: &Call) -> (u32, bool) {
    let (mut a, mut x, mut memory) = (0_u32, 0_u32, [0_u32; 16]);
    let (mut at, mut looked) = (0, false);
    loop {
        let it = program[at];
        at += 1;
        let operand = if it.code & 8 == 0 { it.k } else { x };
        match it.code {
            // Loads and stores.
            0x20 => {
                looked |= it.k >= 16;
                a = call.word(it.k);
            }
            0x00 => a = it.k,
            0x01 => x = it.k,
            0x60 => a = memory[it.k as usize],
            0x61 => x = memory[it.k as usize],
            0x02 => memory[it.k as usize] = a,
            0x03 => memory[it.k as usize] = x,
            0x07 => x = a,
            0x87 => a = x,
            // Arithmetic.
            0x04 | 0x0c => a = a.wrapping_add(operand),
            0x14 | 0x1c => a = a.wrapping_sub(operand),
            0x44 | 0x4c => a |= operand,
            0x54 | 0x5c => a &= operand,
            0x64 | 0x6c => a <<= operand,
            0x74 | 0x7c => a >>= operand,
            // Jumps.
            0x05 => at += it.k as usize,
            0x15 | 0x1d | 0x25 | 0x2d | 0x35 | 0x3d | 0x45 | 0x4d => {
                let holds = match it.code & 0xf0 {
                    0x10 => a == operand,
                    0x20 => a > operand,
                    0x30 => a >= operand,
                    _ => a & operand != 0,
                };
                at += usize::from(if holds { it.jt } else { it.jf });
            }
            0x06 => return (it.k, looked),
            0x16 => return (a, looked),
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// Calls of which two filters say different things, at most a few; and how many were asked about.
pub fn differences(left: &[Instruction], right: &[Instruction]) -> (Vec<String>, usize) {
    // x86_64, i386, aarch64, and none there is.
    const ARCHITECTURES: [u32; 4] = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 7];
    let constants: BTreeSet<u32> = [left, right].concat().iter().map(|it| it.k).collect();
    let near = |k: &u32| [k.wrapping_sub(1), *k, k.wrapping_add(1)];
    let values: BTreeSet<u32> = constants.iter().flat_map(near).collect();
    let (mut all, mut asked) = (Vec::new(), 0);
    let mut ask = |call: Call| {
        asked += 1;
        let (own, other) = (answer(left, &call), answer(right, &call));
        if own.0 != other.0 && all.len() < 5 {
            all.push(format!("{call:x?}: {:#x} | {:#x}", own.0, other.0));
        }
        own.1 || other.1
    };
    let numbers = (0..1024).chain([u32::MAX, 0x3fff_ffff, 0x8000_0000]);
    for (architecture, number) in ARCHITECTURES
        .into_iter()
        .flat_map(|architecture| numbers.clone().map(move |number| (architecture, number)))
        .flat_map(|(it, number)| [(it, number), (it, number | 0x4000_0000)])
    {
        let call = Call {
            number,
            architecture,
            args: [0; 6],
        };
        if !ask(call) {
            continue;
        }
        for half in 0..12 {
            for value in &values {
                let mut call = call;
                call.args[half / 2] = u64::from(*value) << (half % 2 * 32);
                ask(call);
            }
        }
    }
    (all, asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn it(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    /// Allows one call with one argument; else an error.
    fn program(number: u32, arg: u32) -> Vec<Instruction> {
        vec![
            it(0x20, 0, 0, 0),
            it(0x15, 0, 3, number),
            it(0x20, 0, 0, 16),
            it(0x15, 0, 1, arg),
            it(0x06, 0, 0, 0x7fff_0000),
            it(0x06, 0, 0, 0x5_0001),
        ]
    }

    #[test]
    fn what_differs_is_found() {
        let (none, asked) = differences(&program(7, 77), &program(7, 77));
        assert!(none.is_empty() && asked > 8000, "{none:?} {asked}");
        for other in [program(8, 77), program(7, 78)] {
            assert!(!differences(&program(7, 77), &other).0.is_empty());
        }
        let longer = [vec![it(0x00, 0, 0, 9)], program(7, 77)].concat();
        assert!(differences(&program(7, 77), &longer).0.is_empty());
    }
}
