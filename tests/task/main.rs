//! Every call of the task API against the real shim with real runtimes, over both versions.
//!
//! What is pinned: the codes and words that clients match on (contract 2 and A.1, without its
//! bugs), what each answer holds, and that bad input changes nothing and loses nothing: after each
//! refusal the container still works, and at the end of each test nothing is left on the machine.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calls;
mod checkpoint;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod create;
mod create_input;
mod create_toml;
mod environment;
mod exec;
mod exec_input;
mod kill;
mod kill_signals;
mod matrix;
mod options;
mod restore;
mod rootfs;
mod service;
mod state;
mod wait;
mod words;
