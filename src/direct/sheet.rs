//! Orders for the stub, put together in memory. Pure.
//!
//! Invariant: every place that holds an address is on the list that the stub goes by, and every address lies
//! within the sheet.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::orders::{Head, NONE, Order, ROOM, what};

/// One argument of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A number.
    Number(usize),
    /// The address of what was put here.
    At(Place),
    /// The address of an order's argument: its order, then which.
    Of(usize, usize),
}

/// Where something was put, counted from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

impl From<Place> for Arg {
    fn from(place: Place) -> Self {
        Self::At(place)
    }
}

macro_rules! numbers {
    ($($kind:ty)*) => {$(
        impl From<$kind> for Arg {
            /// As the kernel takes it: a negative one with all bits above.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, trivial_numeric_casts)]
            fn from(number: $kind) -> Self {
                Self::Number(number as usize)
            }
        }
    )*};
}
numbers!(i32 u32 i64 u64 usize);

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Nowhere,
    Word(Place),
    /// Of the order at the first place the argument at the second.
    Arg(usize, usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Draft {
    step: &'static str,
    what: usize,
    number: usize,
    args: [Arg; 6],
    store: Store,
    expected: usize,
    next: usize,
}

/// Orders in the making.
#[derive(Debug)]
pub struct Sheet {
    /// From behind the head on.
    data: Vec<u8>,
    /// Words in it that hold addresses.
    addresses: Vec<usize>,
    orders: Vec<Draft>,
    step: &'static str,
    /// What is above is given away.
    top: usize,
}

/// Orders as the stub reads them.
#[derive(Debug)]
pub struct Orders {
    /// All of them.
    pub bytes: Vec<u8>,
    /// To which step each belongs, for people.
    pub steps: Vec<&'static str>,
}

const WORD: usize = size_of::<usize>();

impl Sheet {
    pub fn new() -> Self {
        Self {
            data: Vec::new(),
            addresses: Vec::new(),
            orders: Vec::new(),
            step: "",
            top: ROOM,
        }
    }

    /// What comes now, for people.
    pub fn step(&mut self, step: &'static str) {
        self.step = step;
    }

    /// Puts bytes somewhere.
    pub fn bytes(&mut self, bytes: &[u8]) -> Place {
        while !self.data.len().is_multiple_of(WORD) {
            self.data.push(0);
        }
        let at = size_of::<Head>() + self.data.len();
        self.data.extend_from_slice(bytes);
        Place(at)
    }

    /// Puts a text and a zero byte somewhere.
    pub fn text(&mut self, text: &str) -> Place {
        let place = self.bytes(text.as_bytes());
        self.data.push(0);
        place
    }

    /// Puts a path somewhere, and a zero byte.
    pub fn path(&mut self, path: &Path) -> Place {
        let place = self.bytes(path.as_os_str().as_bytes());
        self.data.push(0);
        place
    }

    /// Memory that holds zeros at first, where the stub has it anyway.
    pub fn room(&mut self, size: usize) -> Place {
        self.top = (self.top.saturating_sub(size)) / WORD * WORD;
        Place(self.top)
    }

    /// Puts words somewhere.
    pub fn words(&mut self, words: &[Arg]) -> Place {
        let place = self.bytes(&[]);
        for word in words {
            let word = match *word {
                Arg::Number(number) => number,
                Arg::At(Place(to)) => {
                    self.addresses.push(size_of::<Head>() + self.data.len());
                    to
                }
                // Orders have their places last.
                Arg::Of(..) => 0,
            };
            self.data.extend_from_slice(&word.to_ne_bytes());
        }
        place
    }

    /// Puts a list of texts somewhere as exec takes it: addresses, and a zero.
    pub fn texts(&mut self, texts: &[Place]) -> Place {
        let words = texts.iter().map(|&text| Arg::At(text));
        let words: Vec<Arg> = words.chain([Arg::Number(0)]).collect();
        self.words(&words)
    }

    /// What is this far behind a place.
    pub fn behind(place: Place, bytes: usize) -> Place {
        Place(place.0 + bytes)
    }

    /// The number of the next order.
    pub fn here(&self) -> usize {
        self.orders.len()
    }

    fn order(&mut self, what: usize, number: libc::c_long, args: &[Arg]) -> usize {
        let mut all = [Arg::Number(0); 6];
        for (to, arg) in all.iter_mut().zip(args) {
            *to = *arg;
        }
        self.orders.push(Draft {
            step: self.step,
            what,
            number: usize::try_from(number).unwrap_or(usize::MAX),
            args: all,
            store: Store::Nowhere,
            expected: NONE,
            next: 0,
        });
        self.orders.len() - 1
    }

    /// A system call; answers the order's number.
    pub fn call(&mut self, number: libc::c_long, args: &[Arg]) -> usize {
        self.order(what::CALL, number, args)
    }

    /// A system call that makes another process.
    pub fn fork(&mut self, number: libc::c_long, args: &[Arg]) -> usize {
        self.order(what::FORK, number, args)
    }

    /// A word's bits, which are to be these.
    pub fn check(&mut self, at: Place, mask: u32, is: u32) {
        self.order(what::CHECK, 0, &[at.into(), mask.into(), is.into()]);
    }

    /// Two words, which are not to be these.
    pub fn differ(&mut self, at: [Place; 2], from: [usize; 2]) {
        let [first, second] = at;
        let [one, two] = from;
        let args = [first.into(), second.into(), one.into(), two.into()];
        self.order(what::DIFFER, 0, &args);
    }

    /// The home of a user, from a list of users with this length.
    pub fn home(&mut self, users: Place, uid: u32, to: Place, room: usize) -> usize {
        let args = [
            users.into(),
            0_usize.into(),
            uid.into(),
            to.into(),
            room.into(),
        ];
        self.order(what::HOME, 0, &args)
    }

    /// The first argument of an order, see [`aim`](Self::aim), becomes this address, and another order comes
    /// next, see [`then`](Self::then).
    pub fn set(&mut self, to: Place) -> usize {
        self.order(what::SET, 0, &[0_usize.into(), to.into()])
    }

    /// The order that a [`set`](Self::set) is about.
    pub fn aim(&mut self, set: usize, at: usize) {
        self.orders[set].args[0] = Arg::Of(at, 0);
    }

    /// Where an order's answer goes.
    pub fn store(&mut self, order: usize, word: Place) {
        self.orders[order].store = Store::Word(word);
    }

    /// An order's answer becomes an argument of another.
    pub fn pass(&mut self, from: usize, to: usize, arg: usize) {
        self.orders[from].store = Store::Arg(to, arg);
    }

    /// An order may fail so; then another comes next.
    pub fn may_fail(&mut self, order: usize, error: i32, next: usize) {
        self.orders[order].expected = error.unsigned_abs() as usize;
        self.orders[order].next = next;
    }

    /// The order that comes next elsewhere: in the new process of a fork, after a set.
    pub fn then(&mut self, order: usize, next: usize) {
        self.orders[order].next = next;
    }

    /// The system calls from this order on, with the arguments that are known.
    pub fn calls(&self, from: usize) -> impl Iterator<Item = (usize, [Option<usize>; 6])> {
        let orders = self.orders.iter().skip(from);
        let calls = orders.filter(|draft| draft.what == what::CALL || draft.what == what::FORK);
        calls.map(|draft| {
            let known = |arg: Arg| match arg {
                Arg::Number(number) => Some(number),
                Arg::At(_) | Arg::Of(..) => None,
            };
            (draft.number, draft.args.map(known))
        })
    }

    /// All of it; none if it is more than the stub has room for. A failure is told on descriptor `to`.
    pub fn finish(mut self, to: usize) -> Option<Orders> {
        self.bytes(&[]);
        let orders_at = size_of::<Head>() + self.data.len();
        let address_of_arg = |order: usize, arg: usize| {
            let order = orders_at + order * size_of::<Order>();
            order + std::mem::offset_of!(Order, args) + arg * WORD
        };
        let mut body = Vec::new();
        for (at, draft) in self.orders.iter().enumerate() {
            let mut order = Order {
                what: draft.what,
                number: draft.number,
                expected: draft.expected,
                next: draft.next,
                ..Order::default()
            };
            for (number, arg) in draft.args.iter().enumerate() {
                order.args[number] = match *arg {
                    Arg::Number(number) => number,
                    Arg::At(Place(to)) => {
                        self.addresses.push(address_of_arg(at, number));
                        to
                    }
                    Arg::Of(other, arg) => {
                        self.addresses.push(address_of_arg(at, number));
                        address_of_arg(other, arg)
                    }
                };
            }
            let store = orders_at + at * size_of::<Order>() + std::mem::offset_of!(Order, store);
            order.store = match draft.store {
                Store::Nowhere => 0,
                Store::Word(Place(to)) => to,
                Store::Arg(order, arg) => address_of_arg(order, arg),
            };
            if order.store != 0 {
                self.addresses.push(store);
            }
            body.extend(words_of(&order));
        }
        let addresses_at = orders_at + body.len() * WORD;
        let head = [
            orders_at,
            self.orders.len(),
            addresses_at,
            self.addresses.len(),
            usize::try_from(libc::SYS_sendto).ok()?,
            to,
            libc::MSG_NOSIGNAL as usize,
        ];
        let mut bytes = in_bytes(head);
        bytes.extend_from_slice(&self.data);
        bytes.extend(in_bytes(body));
        bytes.extend(in_bytes(self.addresses));
        let steps = self.orders.iter().map(|draft| draft.step).collect();
        (bytes.len() <= self.top).then_some(Orders { bytes, steps })
    }
}

fn words_of(order: &Order) -> impl Iterator<Item = usize> {
    let [a, b, c, d, e, f] = order.args;
    let (what, number) = (order.what, order.number);
    [
        what,
        number,
        a,
        b,
        c,
        d,
        e,
        f,
        order.store,
        order.expected,
        order.next,
    ]
    .into_iter()
}

fn in_bytes(words: impl IntoIterator<Item = usize>) -> Vec<u8> {
    words.into_iter().flat_map(usize::to_ne_bytes).collect()
}
