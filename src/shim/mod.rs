//! A shim's life, one module a part of it.
//!
//! | question | module |
//! |---|---|
//! | What was typed? | [`flags`] |
//! | What does the manager want, and how is it answered? | [`bootstrap`] |
//! | Where is the socket and whose is it? | [`socket`], [`fds`] |
//! | How does a server come to be? | [`start`] |
//! | How does it live and end? | [`serve`], with [`log`] |
//! | Who cleans up when it could not? | [`delete`] |
//! | What is this program? | [`info`] |

pub mod bootstrap;
pub mod fds;
pub mod flags;
pub mod socket;

/// The name under which managers know this runtime.
pub const RUNTIME_NAME: &str = "io.containerd.cotter.v2";
