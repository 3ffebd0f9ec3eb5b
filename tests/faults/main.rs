//! What can go wrong around a shim: a runtime that is slow, fails, lies, hangs or is killed at any
//! of its operations, clients that leave in the middle, and the end of the shim itself.
//!
//! Pinned: each fault ends in an error that says what failed and why, the container or exec is
//! either whole or not there, its id is free again, nothing is left of it on the machine, and
//! meanwhile every other container of the same shim works and every question is answered.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;

mod beside;
mod checkpoint;
mod clients;
mod clock;
mod create;
mod dead_disk;
#[path = "../common/disk.rs"]
mod disk;
mod ends;
mod exec;
mod gone;
mod hang;
mod held;
#[path = "../common/held_up.rs"]
mod held_up;
mod init;
mod killing;
mod locked;
mod outage;
mod output;
mod recycled;
mod restore;
mod runtime;
mod threads;
mod told;
mod told_away;
mod world;
