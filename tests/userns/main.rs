//! Containers in user namespaces, whose root is nobody's on the host: with a rootfs that the shim
//! maps or that belongs to them, with pipes, execs and terminals of their own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../streams/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "../common/mod.rs"]
mod common;
mod image;
mod managers;
mod shim;
