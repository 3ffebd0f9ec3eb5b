//! What orders look like, and how they are followed. Shared with the shim, which writes them.
//!
//! Invariant: one order after another is carried out until one fails; then the shim is told which and why,
//! and nothing more is done.
//!
//! Orders are one piece of memory: a [`Head`], [`Order`]s, a list of the places that hold addresses within it
//! (each counted from its beginning, until it is there), and whatever these point to.

/// The most that orders may be, in bytes.
pub const ROOM: usize = 256 * 1024;

/// The beginning.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    /// Where the orders begin, and how many there are.
    pub orders: (usize, usize),
    /// Where the list of addresses begins, and how many there are.
    pub addresses: (usize, usize),
    /// With which a failure is told, on which descriptor: the number of `sendto`.
    pub tell: usize,
    /// The descriptor.
    pub to: usize,
    /// The flags.
    pub flags: usize,
}

/// What an order is.
pub mod what {
    /// A system call. A failure is the end, unless it is the one that is expected.
    pub const CALL: usize = 0;
    /// A system call that makes another process, which goes on elsewhere.
    pub const FORK: usize = 1;
    /// Of the four bytes at the first argument, those bits that the second one has are the third.
    pub const CHECK: usize = 2;
    /// The words at the first and the second argument are not both the third and the fourth.
    pub const DIFFER: usize = 5;
    /// The word at the first argument becomes the second one, and something else comes next.
    pub const SET: usize = 3;
    /// `HOME=` and the home of a user (third argument) go to the fourth (of this size, the fifth), as found
    /// in the list of users at the first (this long, the second).
    pub const HOME: usize = 4;
}

/// No error is expected.
pub const NONE: usize = 0;

/// One order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// One of [`what`].
    pub what: usize,
    /// The number of the system call.
    pub number: usize,
    /// Its arguments.
    pub args: [usize; 6],
    /// Where the answer of a call is written; none if 0.
    pub store: usize,
    /// The error that is none.
    pub expected: usize,
    /// The order that comes next then; of a fork, in the new process; of [`what::SET`], always.
    pub next: usize,
}

/// Told of an order that failed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// [`FAILED`].
    pub kind: usize,
    /// Its place among the orders.
    pub order: usize,
    /// The error's number; 0 for what is not as it has to be.
    pub error: usize,
}

/// The kind of message of a [`Failure`].
pub const FAILED: usize = 0x66;

/// Follows them; returns after the last, or the failure that was told.
///
/// # Safety
/// `room` is the beginning of [`ROOM`] bytes, of which the first `have` are orders that the shim has made.
pub unsafe fn follow(room: *mut u8, have: usize, call: impl Fn(usize, [usize; 6]) -> isize) {
    if have < size_of::<Head>() {
        return;
    }
    // SAFETY: of orders that the shim has made, all offsets are within.
    unsafe {
        let head = room.cast::<Head>().read();
        let base = room as usize;
        let addresses = room.add(head.addresses.0).cast::<usize>();
        for at in 0..head.addresses.1 {
            let word = room.add(*addresses.add(at)).cast::<usize>();
            *word += base;
        }
        let orders = room.add(head.orders.0).cast::<Order>();
        let mut at = 0;
        while at < head.orders.1 {
            let order = orders.add(at).read();
            match carry_out(&order, &call) {
                Ok(Some(next)) => at = next,
                Ok(None) => at += 1,
                Err(error) => {
                    let failure = Failure {
                        kind: FAILED,
                        order: at,
                        error,
                    };
                    let (from, size) = ((&raw const failure) as usize, size_of::<Failure>());
                    call(head.tell, [head.to, from, size, head.flags, 0, 0]);
                    return;
                }
            }
        }
    }
}

/// One of them; answers what comes next, if it is not the one after it, or the error.
unsafe fn carry_out(
    order: &Order,
    call: impl Fn(usize, [usize; 6]) -> isize,
) -> Result<Option<usize>, usize> {
    let args = order.args;
    // SAFETY: the addresses are within the orders, as `follow` was promised.
    unsafe {
        match order.what {
            what::CALL | what::FORK => {
                let answer = call(order.number, args);
                if (-4095..0).contains(&answer) {
                    let error = answer.unsigned_abs();
                    let expected = order.expected != NONE && order.expected == error;
                    return if expected {
                        Ok(Some(order.next))
                    } else {
                        Err(error)
                    };
                }
                if order.what == what::FORK && answer == 0 {
                    return Ok(Some(order.next));
                }
                if order.store != 0 {
                    *(order.store as *mut usize) = answer.unsigned_abs();
                }
                Ok(None)
            }
            what::CHECK => {
                let word = (args[0] as *const u32).read_unaligned() as usize;
                if word & args[1] == args[2] {
                    Ok(None)
                } else {
                    Err(0)
                }
            }
            what::DIFFER => {
                let word = |at: usize| (at as *const usize).read_unaligned();
                if word(args[0]) == args[2] && word(args[1]) == args[3] {
                    Err(0)
                } else {
                    Ok(None)
                }
            }
            what::SET => {
                *(args[0] as *mut usize) = args[1];
                Ok(Some(order.next))
            }
            what::HOME => {
                let users = core::slice::from_raw_parts(args[0] as *const u8, args[1]);
                let to = core::slice::from_raw_parts_mut(args[3] as *mut u8, args[4]);
                match super::passwd::home(users, args[2], to) {
                    true => Ok(None),
                    false => Err(0),
                }
            }
            _ => Err(0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::direct::sheet::{Orders, Sheet};

    /// What was called, and with which arguments; a call's number is the answer it gets, from `answers`.
    fn followed(orders: &Orders, answer: impl Fn(usize) -> isize) -> Vec<(usize, [usize; 6])> {
        // As aligned as the stub's.
        let mut room = vec![0_usize; ROOM / size_of::<usize>()];
        let called = RefCell::new(Vec::new());
        // SAFETY: the room is as large as orders may be, and holds some that were made for it.
        unsafe {
            let to = room.as_mut_ptr().cast::<u8>();
            to.copy_from_nonoverlapping(orders.bytes.as_ptr(), orders.bytes.len());
            follow(to, orders.bytes.len(), |number, args| {
                called.borrow_mut().push((number, args));
                answer(number)
            });
        }
        called.into_inner()
    }

    fn numbers(called: &[(usize, [usize; 6])]) -> Vec<usize> {
        called.iter().map(|(number, _)| *number).collect()
    }

    const TELL: usize = libc::SYS_sendto as usize;

    #[test]
    fn one_after_another_until_one_fails() {
        let mut sheet = Sheet::new();
        for number in [101, 102, 103] {
            sheet.step("a step");
            sheet.call(number, &[(number + 1).into()]);
        }
        let orders = sheet.finish(9).unwrap();
        assert_eq!(orders.steps, ["a step"; 3]);
        let all = followed(&orders, |_| 0);
        assert_eq!(numbers(&all), [101, 102, 103]);
        assert_eq!(all[1].1, [103, 0, 0, 0, 0, 0]);
        let failed = followed(&orders, |number| if number == 102 { -13 } else { 0 });
        assert_eq!(numbers(&failed), [101, 102, TELL]);
        assert_eq!(failed[2].1[0], 9);
        assert_eq!(failed[2].1[2], size_of::<Failure>());
    }

    #[test]
    fn an_answer_goes_where_it_is_needed_and_addresses_are_within() {
        let mut sheet = Sheet::new();
        let first = sheet.call(101, &[]);
        let text = sheet.text("text");
        let texts = sheet.texts(&[text, text]);
        let last = sheet.call(102, &[1.into(), texts.into(), 3.into()]);
        sheet.pass(first, last, 0);
        let orders = sheet.finish(9).unwrap();
        let all = followed(&orders, |_| 77);
        assert_eq!((all[1].1[0], all[1].1[2]), (77, 3));
        let place = all[1].1[1];
        assert!(place > 4096, "an address: {place}");
    }

    #[test]
    fn an_expected_error_leads_elsewhere_and_a_fork_in_two_directions() {
        let mut sheet = Sheet::new();
        let first = sheet.call(101, &[]);
        sheet.call(102, &[]);
        let there = sheet.here();
        let fork = sheet.fork(103, &[]);
        sheet.call(104, &[]);
        sheet.may_fail(first, libc::ENOENT, there);
        let child = sheet.here();
        sheet.then(fork, child);
        sheet.call(105, &[]);
        let orders = sheet.finish(9).unwrap();
        let of = |error: isize, pid: isize| {
            let answer = move |number| match number {
                101 => error,
                103 => pid,
                _ => 0,
            };
            numbers(&followed(&orders, answer))
        };
        assert_eq!(of(0, 5), [101, 102, 103, 104, 105]);
        assert_eq!(of(-2, 5), [101, 103, 104, 105]);
        assert_eq!(of(-2, 0), [101, 103, 105]);
        assert_eq!(of(-1, 0), [101, TELL]);
    }

    #[test]
    fn what_is_not_as_it_has_to_be_is_a_failure() {
        for (mask, is, fails) in [
            (0xff_u32, 1_u32, false),
            (0xff, 2, true),
            (0x100, 0, true),
            (0, 0, false),
        ] {
            let mut sheet = Sheet::new();
            let word = sheet.bytes(&0x101_u32.to_ne_bytes());
            sheet.check(word, mask, is);
            sheet.call(101, &[]);
            let called = numbers(&followed(&sheet.finish(9).unwrap(), |_| 0));
            assert_eq!(called, [if fails { TELL } else { 101 }], "{mask} {is}");
        }
    }

    #[test]
    fn what_may_not_be_the_same() {
        for (first, second, fails) in [(7_usize, 8_usize, true), (7, 9, false), (6, 8, false)] {
            let mut sheet = Sheet::new();
            let one = sheet.words(&[7_usize.into()]);
            let two = sheet.words(&[8_usize.into()]);
            sheet.differ([one, two], [first, second]);
            sheet.call(101, &[]);
            let called = numbers(&followed(&sheet.finish(9).unwrap(), |_| 0));
            assert_eq!(called, [if fails { TELL } else { 101 }], "{first} {second}");
        }
    }

    #[test]
    fn the_first_that_is_there_is_the_one_that_is_used() {
        let mut sheet = Sheet::new();
        let mut before: Option<usize> = None;
        let mut sets = Vec::new();
        for number in [101, 102] {
            let here = sheet.here();
            if let Some(before) = before {
                sheet.may_fail(before, libc::ENOENT, here);
            }
            before = Some(sheet.call(number, &[]));
            let place = sheet.text("x");
            sets.push((sheet.set(place), place));
        }
        let end = sheet.here();
        let run = sheet.call(103, &[]);
        for (set, _) in &sets {
            sheet.aim(*set, run);
            sheet.then(*set, end);
        }
        let orders = sheet.finish(9).unwrap();
        let first = followed(&orders, |_| 0);
        let second = followed(&orders, |number| if number == 101 { -2 } else { 0 });
        assert_eq!(numbers(&first), [101, 103]);
        assert_eq!(numbers(&second), [101, 102, 103]);
        assert!(first[1].1[0] != 0 && second[2].1[0] != 0);
        let none = followed(&orders, |number| if number < 103 { -2 } else { 0 });
        assert_eq!(numbers(&none), [101, 102, TELL]);
    }

    #[test]
    fn orders_that_are_too_long_are_none() {
        let mut sheet = Sheet::new();
        sheet.room(ROOM / 2);
        sheet.bytes(&vec![1; ROOM / 2 - 200]);
        assert!(sheet.finish(9).is_some());
        let mut sheet = Sheet::new();
        sheet.room(ROOM / 2);
        sheet.bytes(&vec![1; ROOM / 2]);
        assert!(sheet.finish(9).is_none());
    }
}
