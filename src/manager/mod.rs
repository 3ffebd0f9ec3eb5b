//! The other side: starts a shim as containerd does, talks to it, and receives its events.
//!
//! Invariant: whatever is started or made here has a time limit and an owner; when the owner is
//! dropped, processes are ended, FIFOs let go and directories removed. The one thing that outlives
//! its maker on purpose is a container that was detached ([`run::Options::detach`]).
//!
//! Used by the `cotter` tool and by the tests, so that each tests the other (tests/manager.rs).
//!
//! ```text
//! spec, rootfs ──▶ bundle ──▶ launch (dialect) ──▶ client ──▶ the shim
//!                               stdio ◀── FIFOs ──────┘ │
//!                               events ◀────────────────┘
//! args ──▶ run, list (home)      the verbs of the tool, made of the above
//! ```

pub mod args;
pub mod bundle;
pub mod client;
pub mod command;
pub mod dialect;
pub mod dump;
pub mod events;
pub mod home;
pub mod launch;
pub mod list;
mod places;
pub mod process;
pub mod rootfs;
pub mod run;
pub mod signals;
pub mod spec;
pub mod stats;
pub mod stdio;
