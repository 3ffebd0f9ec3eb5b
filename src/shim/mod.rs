//! A shim's life, one module a part of it.
//!
//! | question | module |
//! |---|---|
//! | What was typed? | [`flags`] |
//! | What does the manager want, and how is it answered? | [`bootstrap`] |
//! | Where is the socket and whose is it? | [`socket`], [`fds`] |
//! | How does a server come to be? | [`start`] |
//! | What is it made of? | [`assemble`], from [`config`] |
//! | How does it live and end? | [`serve`], with [`accept`] and [`log`] |
//! | When is it not needed any more? | [`life`] |
//! | How does one look inside? | [`inspect`] |
//! | Who cleans up when it could not? | [`delete`] |
//! | What is this program? | [`info`] |
//! | How is a program run to its end? | [`call`] |

pub mod accept;
mod answers;
pub mod assemble;
pub mod bootstrap;
pub mod call;
pub mod config;
pub mod delete;
pub mod fds;
pub mod flags;
pub mod info;
mod inspect;
mod life;
pub mod log;
mod memory;
pub mod serve;
pub mod socket;
pub mod start;

/// The name under which managers know this runtime.
pub const RUNTIME_NAME: &str = "io.containerd.cotter.v2";
