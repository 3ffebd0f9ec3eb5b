//! The pure parts of the fault bench: what it says of a shim is only worth what its judge is worth.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../chaos/counts.rs"]
mod counts;
mod counts_tests;
#[path = "../../chaos/line.rs"]
mod line;
mod line_tests;
#[path = "../../chaos/patience.rs"]
mod patience;
mod patience_tests;
#[path = "../order/stream.rs"]
mod stream;
#[path = "../../chaos/verdict.rs"]
mod verdict;
mod verdict_tests;
