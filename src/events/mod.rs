//! What happened, told to the manager in the order in which it happened.
//!
//! Invariant: what is pushed first is delivered first, at least once, over any outage of the
//! manager; nobody who pushes ever waits. Pinned by `tests/events.rs`.
//!
//! A state change pushes its [`Event`] into the [`Queue`] in the same step; the [`Publisher`]
//! moves the queue's head to the manager, one event in flight, and settles it only when the
//! manager has answered. Hence the order across reconnects, and hence also the one kind of
//! duplicate there can be: the head, sent again byte for byte when its answer was lost.
//!
//! While no manager answers, the [`Keeper`] has what is unpublished written into the bundles, from
//! where the `delete` action of a shim that died takes it ([`journal`]).

mod clients;
mod event;
pub mod journal;
mod keeper;
mod link;
mod oom;
mod publisher;
mod queue;
mod retry;

pub use clients::Clients;
pub use event::Event;
pub use keeper::{Keeper, Kept};
pub use oom::describe;
pub use publisher::{Publisher, Stats};
pub use queue::{MAX_BYTES, MAX_EVENTS, MAX_PAYLOAD, Queue};
pub use retry::Limits;
