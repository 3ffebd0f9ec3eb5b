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
