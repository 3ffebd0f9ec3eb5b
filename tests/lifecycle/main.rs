//! Proofs for `cotter::lifecycle`: random worlds, and every schedule of small worlds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod every_schedule;
mod random_worlds;
mod world;
