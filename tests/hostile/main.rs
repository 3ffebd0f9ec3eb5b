//! Clients that do not speak the protocol, or speak it with ill will, and files that say nothing
//! good: the shim answers or closes that connection, serves every other one meanwhile, and is
//! afterwards what it was before.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;

mod crowds;
mod events;
mod files;
mod frames;
mod noise;
mod orphans;
mod wire;
mod world;
