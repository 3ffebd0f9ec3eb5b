//! The manager's side, through a real shim and a real runtime: the `cotter` tool as a person uses
//! it (tool.rs), the library as other tests use it (library.rs), and shims that misbehave (bad.rs).
//!
//! The shim is ours. COTTER_TEST_SHIM and COTTER_TEST_DIALECT name another one, to hold these tests
//! themselves against the Go shim: what fails there is a wrong expectation, or a bug of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad;
mod library;
mod odd;
#[path = "../common/peek.rs"]
mod peek;
#[path = "../common/cotter.rs"]
mod program;
mod shown;
mod tool;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cotter::manager::command::{Output, output};
use cotter::manager::dialect::Dialect;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn shim() -> PathBuf {
    std::env::var_os("COTTER_TEST_SHIM").map_or_else(
        || env!("CARGO_BIN_EXE_containerd-shim-cotter-v2").into(),
        PathBuf::from,
    )
}

/// The dialects that the shim knows.
fn dialects() -> Vec<(&'static str, Dialect)> {
    let named = std::env::var("COTTER_TEST_DIALECT");
    ["plain", "json", "proto"]
        .into_iter()
        .filter(|name| named.as_ref().is_ok_and(|only| only == name) || named.is_err())
        .map(|name| (name, Dialect::by_name(name).unwrap()))
        .collect()
}

/// A home for containers, of which nothing is left at the end: no file but its own, no mount, no
/// process.
struct Home(PathBuf);

impl Home {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cotter-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// The tool, with this home and the shim under test.
    fn cotter(&self, line: &str) -> Command {
        let mut command = Command::new(program::cotter());
        command.env("COTTER_HOME", &self.0);
        let mut words = line.split_whitespace();
        if line.starts_with("run ") {
            command.arg(words.next().unwrap()).arg("--shim").arg(shim());
            if !line.contains("--dialect") {
                command.arg("--dialect").arg(dialects().pop().unwrap().0);
            }
        }
        command.args(words);
        command
    }

    /// Runs the tool to its end: exit status, standard output and standard error.
    async fn run(&self, line: &str, args: &[&str], input: &[u8]) -> (i32, String, String) {
        let mut command = self.cotter(line);
        command.args(args);
        let Output {
            status,
            stdout,
            stderr,
        } = output(command, input, LIMIT).await.unwrap();
        (
            status.code().unwrap(),
            String::from_utf8(stdout).unwrap(),
            String::from_utf8(stderr).unwrap(),
        )
    }

    fn containers(&self) -> Vec<String> {
        fs::read_dir(self.0.join("c")).map_or_else(
            |_| Vec::new(),
            |entries| {
                entries
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect()
            },
        )
    }

    /// What is left, if anything.
    fn leftovers(&self) -> Vec<String> {
        let mut left = self.containers();
        let home = self.0.to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(home))
                .map(str::to_owned),
        );
        for seen in peek::all() {
            let line = seen.argv.join(" ");
            let there = fs::read_link(format!("/proc/{}/exe", seen.pid)).is_ok();
            if line.contains(home) && there {
                left.push(line);
            }
        }
        left
    }

    /// A process that has answered its last call may still be on its way out.
    #[track_caller]
    fn is_left_clean(&self) {
        let begin = Instant::now();
        while !self.leftovers().is_empty() && begin.elapsed() < LIMIT {
            sleep(Duration::from_millis(10));
        }
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
