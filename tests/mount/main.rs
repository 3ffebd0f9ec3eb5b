//! Rootfs mounts on the real kernel. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod fuse;
mod idmap;
mod image;
mod kernel;
mod overlay;
mod space;
mod target;
mod unmount;
