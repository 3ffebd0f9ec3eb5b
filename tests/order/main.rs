//! Causal order and nothing lost, with runc and with crun: every process that was started gets
//! exactly one exit, after its start; execs exit before their init and that before its delete; what
//! a Wait has answered is told before what comes after. Under load, when init dies early, with and
//! without a pid namespace of the container's own, and with a manager that is away.
//!
//! Each test lets [`stream::check`] judge all events of its shim against all it asked for; the
//! checker is tested itself, with streams that are wrong in one way each.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;

mod death;
mod early;
mod held;
mod ledger;
mod load;
mod strangers;
mod stream;
mod stream_tests;
mod world;
