//! The program that enters a container in the shim's place: it reads orders and follows them.
//!
//! Invariant: it knows nothing that the shim has not written into its orders, has nothing but the
//! descriptors that it was given, allocates nothing and links nothing, so that there is nothing in it that a
//! container could find or use. What the orders are is the shim's business (`src/direct`); what they look
//! like is [`orders`].
//!
//! Its arguments are the numbers of two system calls, `read` and `exit_group`: all that it must know before
//! it has its orders.

#![no_std]
#![no_main]
#![no_builtins]

mod orders;
mod passwd;

use core::arch::{asm, global_asm};
use core::ptr::addr_of_mut;

/// The descriptor from which the orders come.
const FROM: usize = 4;

/// Orders, where they can be written to.
#[repr(C, align(16))]
struct Room([u8; orders::ROOM]);

static mut ROOM: Room = Room([0; orders::ROOM]);

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call {main}", "ud2", main = sym main);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x0, sp", "bl {main}", "brk #1", main = sym main);

/// One system call: what the kernel answers, an error as its negative number.
#[cfg(target_arch = "x86_64")]
unsafe fn system(number: usize, args: [usize; 6]) -> isize {
    let answer;
    // SAFETY: as the kernel's calling convention has it. What the call does is the orders' responsibility.
    unsafe {
        asm!("syscall", inlateout("rax") number => answer, in("rdi") args[0], in("rsi") args[1],
            in("rdx") args[2], in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}

/// One system call: what the kernel answers, an error as its negative number.
#[cfg(target_arch = "aarch64")]
unsafe fn system(number: usize, args: [usize; 6]) -> isize {
    let answer;
    // SAFETY: as the kernel's calling convention has it. What the call does is the orders' responsibility.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") args[0] => answer, in("x1") args[1],
            in("x2") args[2], in("x3") args[3], in("x4") args[4], in("x5") args[5], options(nostack));
    }
    answer
}

/// Where the kernel has put the arguments: their count, then pointers to them.
unsafe extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: a process begins so; the pointers are the kernel's, up to the count.
    unsafe {
        let (read, exit) = match *stack {
            3 => (number(*stack.add(2)), number(*stack.add(3))),
            _ => stop(),
        };
        let room = addr_of_mut!(ROOM).cast::<u8>();
        let mut have = 0;
        while have < orders::ROOM {
            let rest = [FROM, room as usize + have, orders::ROOM - have, 0, 0, 0];
            match usize::try_from(system(read, rest)) {
                Ok(0) => break,
                Ok(more) => have += more,
                Err(_) => {
                    system(exit, [1; 6]);
                }
            }
        }
        orders::follow(room, have, |number, args| system(number, args));
        system(exit, [1; 6]);
    }
    stop()
}

/// A decimal number that ends with a zero byte.
unsafe fn number(text: usize) -> usize {
    let mut text = text as *const u8;
    let mut number = 0_usize;
    // SAFETY: the kernel ends each argument with a zero byte.
    unsafe {
        while *text != 0 {
            number = number
                .wrapping_mul(10)
                .wrapping_add((*text - b'0') as usize);
            text = text.add(1);
        }
    }
    number
}

/// The end of one that knows no better.
fn stop() -> ! {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: ends the process by a signal.
    unsafe {
        asm!("ud2", options(noreturn))
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: ends the process by a signal.
    unsafe {
        asm!("brk #1", options(noreturn))
    }
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    stop()
}

/// What the compiler may ask for in a program without a library.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    for at in 0..count {
        // SAFETY: the caller's promise.
        unsafe { to.add(at).write_volatile(byte as u8) };
    }
    to
}

/// What the compiler may ask for in a program without a library.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    for at in 0..count {
        // SAFETY: the caller's promise.
        unsafe { to.add(at).write_volatile(*from.add(at)) };
    }
    to
}
