//! Execs that the shim does without the runtime: nobody can tell.
//!
//! Pinned: whatever a process can see of itself, and whatever a client is told, is the same, line by line, as
//! when the container's runtime has made the process of the same spec; what is not sure to be the same is done
//! by the runtime, with the reason that the dump gives. And what stands in a container that attacks whoever
//! enters it.
//!
//! One container serves both sides of a comparison, so that even the numbers of its namespaces agree: a field
//! that nobody knows ([`world::UNKNOWN`]) makes an exec the runtime's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/disk.rs"]
mod disk;
#[path = "../inherit/facts.rs"]
#[allow(dead_code)] // It can do more than is needed here.
mod facts;

mod attacks;
mod bpf;
mod containers;
mod dump;
mod filters;
mod held;
mod homes;
mod matrix;
mod programs;
mod ran;
mod random;
mod root;
mod users;
mod world;
