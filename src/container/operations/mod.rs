//! What a client may ask of a container, one file each. They read like the contract.
//!
//! Invariant: operations know what a container is; nothing that a container is knows of them. Each ends in a
//! known state, and what a step has made is undone by the step if a later one fails.
//!
//! | asked | file |
//! |---|---|
//! | Create, from a bundle or a checkpoint | `create`, with `rootfs`, `streams` and `runtime` |
//! | Start, of an init, an exec or a checkpoint | `start`, `restore`; `stray`, what a failed one leaves |
//! | Exec, Kill, Delete, Pause and Resume, Update, Checkpoint | `exec`, `kill`, `delete`, `pause`, `update`, `checkpoint` |
//! | State, Connect | [`snapshot`] |
//! | Pids, Stats | [`members`], `stats` |

mod checkpoint;
mod create;
mod delete;
mod direct;
mod exec;
mod kill;
pub mod members;
mod mounting;
mod pause;
mod restore;
mod rootfs;
mod runtime;
pub mod snapshot;
mod start;
mod stats;
mod stray;
mod streams;
mod update;

pub use create::Create;
pub use delete::Deleted;
pub use runtime::DEFAULT_RUNTIME;
