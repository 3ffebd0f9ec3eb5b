//! Pods: several containers, and several connections, in one shim; and the end of a shim that nobody
//! needs any more.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;

mod end;
mod group;
mod siblings;
