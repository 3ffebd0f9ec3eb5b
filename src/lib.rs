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
//! `snapshot` is one of the operations (`container::operations`), `publisher` a part of [`events`].
//!
//! A newcomer may read the rooms in this order:
//!
//! - [`lifecycle`], the heart, pure; [`monitor`], who reaps;
//! - [`container`], what a container is, and the operations on it; [`sensing`], what the kernel tells of it; [`service`],
//!   their face to the manager;
//! - `direct`, an exec without its runtime, and `stub/`, the program that enters the container for it;
//! - [`runtime`], [`stdio`], [`mount`] and [`cgroup`], the hands; [`program`], how a process is started;
//! - [`events`], what is told; [`shim`], the process around it all; [`options`], what a manager may ask of it;
//! - [`blocking`] and [`mod@apart`], where what may hang is done; `slices`, where what may be long is; [`in_memory`],
//!   where nothing hangs; `kernel_file`, what is read of the kernel; `awaited`, a value that tasks wait for; [`pidfd`]
//!   and [`kin`], who a process is;
//! - `limits`, `spec`, `dump`, `error`, `errno`, `shown`, `times`: what many use;
//! - [`manager`], the other side, for the `cotter` tool (`tool/`, a package of its own) and the tests; [`proto`], the
//!   words both sides speak.
//!
//! Who may import whom is a table in `tests/house.rs`. Where to look for what is in CONTRIBUTING.md.
//!
//! # Words
//!
//! One for one thing, the field's where it has one:
//!
//! | word | what it is |
//! |---|---|
//! | manager | who starts shims and calls them: containerd, dockerd's containerd, `cotter` |
//! | client | who calls a shim over one connection; the manager mostly, or a person's tool |
//! | task, container | one thing: the manager's task service speaks of a container's task, we of the container |
//! | init | the first process of a container; *exec*: a further one that a client asked for |
//! | process | an init or an exec; what these start themselves are the container's *members* |
//! | bundle | the directory of a container: config.json, and what shims keep there |
//! | runtime | the OCI runtime, a program; *call*: one run of it |
//! | start | of a process: from the runtime's call until its pid is announced; the `start` *action* makes a shim |
//! | action | what a manager runs the shim's program for: `start`, `delete` |
//! | reap | to take a dead child's status from the kernel; an *exit* is what was taken, and when |
//! | announce | to tell a process's start; from then on its exit may be told |
//! | publish | to send an event to the manager; *settled*: it has taken it, or never will |
//! | journal | the file in a bundle with the events that no manager has taken |
//! | stub | the program that enters a container in the shim's place; *orders*: the system calls it is to make |
//! | relay | what moves one stream's bytes between a container and a FIFO, file or *logger* |
//! | stranger | a child of ours that no start of ours made: an *orphan*, adopted when its parent died |
//! | stray | what a failed exec's call has left behind, proven to be that call's |
//! | leftover | what a dead shim has left behind |
//! | group, pod | containers that share a shim; its first is the *sandbox* |
//! | limit | a time that something may take, or a bound of the kernel's; never both in one sentence |
//! | held | of a process: by a pidfd; of an exit: not told yet, for its start is not announced |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod apart;
mod awaited;
pub mod blocking;
pub mod cgroup;
pub mod container;
mod direct;
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
