//! Execs without the runtime, and with it: every test does the same exec both ways, in the same container. Here are
//! the way there and what may happen on it; all that can be asked for is in `tests/enter`.
//!
//! Pinned: what a process can see of itself is the same to the last byte; what fails, fails in the runtime's words;
//! and the shim's own count says each time which way it went, so that nothing is compared with itself.
//!
//! A field that is in no spec makes an exec the runtime's: the shim does not know it, and no runtime looks at it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;

mod apparmor;
mod faults;
mod filters;
mod managed;
mod processes;
mod refused;
mod seen;
mod steps;
mod switch;
mod world;
