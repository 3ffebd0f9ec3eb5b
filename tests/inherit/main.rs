//! A shim in odd circumstances: signals ignored and blocked by whoever started it, low limits, a strange
//! umask. It works as ever, and none of what it has set up for itself reaches what it starts.
//!
//! Pinned: what a container's processes, a runtime and a logging program inherit is, line by line, what they
//! inherit from the Go shim, but for what is listed with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod facts;
#[path = "../common/gaps.rs"]
mod gaps;
mod inside;
mod limits;
mod reaped;

use std::path::{Path, PathBuf};

use common::{TempDir, write_program};

/// A program that becomes a shim, or whatever else, in circumstances of the test's: lines of sh(1).
struct Odd {
    _dir: TempDir,
    path: PathBuf,
    program: PathBuf,
}

impl Odd {
    /// `words` stand before the program, as those of nice(1).
    fn new(lines: &str, words: &str, program: &Path) -> Self {
        let dir = TempDir::new("odd");
        let path = dir.path().join("shim");
        let shown = program.display();
        write_program(
            &path,
            // Whoever runs the tests may ignore SIGHUP (nohup): that is not in question here.
            format!("#!/bin/sh\n{lines}\nexec env --default-signal=HUP {words} {shown} \"$@\"\n"),
        );
        Self {
            _dir: dir,
            path,
            program: program.to_owned(),
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}
