//! Who is told of exits.
//!
//! Invariant: in the order of the reaps, each once.

use super::{Exit, Moment};

/// Who is told of the exits of children that no [`spawn`](super::Monitor::spawn) started. A closure that takes an
/// [`Exit`] is one.
pub trait Others: Send + 'static {
    /// Whether births are asked for at this moment. They cost a look at each child that ends.
    fn ask_births(&self) -> bool;

    /// One has ended and was reaped. `born` is none if births are not asked for, or it cannot be told.
    /// Called in the loop, in the order of the reaps. It must not block.
    fn ended(&mut self, exit: Exit, born: Option<Moment>);
}

impl<F: FnMut(Exit) + Send + 'static> Others for F {
    fn ask_births(&self) -> bool {
        false
    }

    fn ended(&mut self, exit: Exit, _: Option<Moment>) {
        self(exit);
    }
}
