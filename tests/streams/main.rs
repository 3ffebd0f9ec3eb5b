//! A process's standard streams, through the real shim and real runtimes.
//!
//! What is pinned: bytes arrive as they were written, whole and in order, whoever is slow, late, gone
//! or restarted; what a stream does never delays an exit or another process; what cannot be had is
//! refused by name and leaves nothing. (`tests/stdio` pins the same machinery without a shim.)
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod absent;
mod allow;
mod bytes;
mod client;
mod close_io;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/gaps.rs"]
mod gaps;
mod input_file;
mod logger;
mod many;
mod null;
mod owner;
mod refused;
mod restart;
mod tail;
