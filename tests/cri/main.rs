//! The shim under containerd's CRI plugin, as a kubelet drives it: pods, probes, logs, terminals,
//! limits, and what is left when containerd or the shim dies.
//!
//! Each test has a containerd of its own and ends with the census: nothing of the pod is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod api;
#[path = "../common/mod.rs"]
mod common;
mod grpc;
mod life;
mod node;
mod stream;
