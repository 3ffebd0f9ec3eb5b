//! cotter, a containerd shim: one small process that starts OCI containers, watches them, moves
//! their bytes, and tells the manager in causal order what happened.
//!
//! The way data flows:
//!
//! ```text
//! manager ──ttrpc──▶ service ──▶ container ──▶ runtime (runc, crun, …) ──▶ kernel
//!                       │            │                                       │
//!                       │            ▼                                    SIGCHLD
//!                       │        lifecycle ◀───────── monitor ◀───────────────┘
//!                       │            │
//!                       ▼            ▼
//!                   snapshot      events ──▶ publisher ──ttrpc──▶ manager
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod blocking;
pub mod cgroup;
pub mod container;
pub mod error;
pub mod events;
pub mod lifecycle;
pub mod limits;
pub mod manager;
pub mod monitor;
pub mod mount;
pub mod proto;
pub mod runtime;
pub mod service;
pub mod shim;
pub mod spec;
pub mod stdio;
