//! The other side: starts a shim as containerd does, talks to it, and receives its events.
//!
//! Invariant: whatever is started or made here has a time limit and an owner; when the owner is
//! dropped, processes are ended, FIFOs let go and directories removed.
//!
//! A library: used by the `cotter` tool (`tool/`) and by the tests, so that each tests the other (`tests/manager/`).
//!
//! ```text
//! spec, rootfs ──▶ bundle ──▶ launch (dialect) ──▶ client ──▶ the shim
//!                               stdio ◀── FIFOs ──────┘ │
//!                               events ◀────────────────┘
//! places                         the bundles that are there already, whoever made them
//! ```

pub mod bundle;
pub mod client;
pub mod command;
pub mod dialect;
pub mod events;
pub mod launch;
pub mod places;
pub mod process;
pub mod request;
pub mod rootfs;
pub mod signals;
pub mod spec;
pub mod stdio;
