//! Terminals, through the real shim and real runtimes.
//!
//! What is pinned: what a program writes to its terminal arrives whole, up to the last byte before
//! its exit; what is typed reaches it; its size can be set at any time; a client that detaches
//! changes nothing, one that ends the input hangs the terminal up; a runtime that sends no terminal
//! is no hang; and nothing is left, however it ended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod absent;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod end_of_input;
#[path = "../common/gaps.rs"]
mod gaps;
mod left;
mod logger;
mod output;
mod resize;
mod runtime;
mod typing;
