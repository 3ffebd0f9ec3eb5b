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
//!
//! A newcomer may read the rooms in this order: [`lifecycle`], the heart, pure; [`monitor`], who
//! reaps; [`container`], the operations; [`service`], their face to the manager; [`runtime`],
//! [`stdio`], [`mount`] and [`cgroup`], the hands; [`events`], what is told; [`shim`], the
//! process around it all; [`options`], what a manager may ask of it; [`blocking`] and [`mod@apart`], where
//! what may hang is done, `slices`, where what may be long is, `kernel_file`, what is read of the kernel, and [`in_memory`], where nothing hangs;
//! `awaited`, a value that tasks wait for; [`program`], how one is started; [`pidfd`] and [`kin`], who a process is; [`manager`], the other side,
//! for the `cotter` tool and the tests; [`proto`], the
//! words both sides speak.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod apart;
mod awaited;
pub mod blocking;
pub mod cgroup;
pub mod container;
pub mod dump;
pub mod errno;
pub mod error;
pub mod events;
#[doc(hidden)]
pub mod fuzzing;
pub mod in_memory;
mod kernel_file;
pub mod kin;
pub mod lifecycle;
pub mod limits;
pub mod manager;
pub mod monitor;
pub mod mount;
pub mod options;
pub mod pidfd;
pub mod program;
pub mod proto;
pub mod runtime;
pub mod sensing;
pub mod service;
pub mod shim;
pub mod shown;
mod slices;
pub mod spec;
pub mod stdio;
mod times;
