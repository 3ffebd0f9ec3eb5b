//! The program, where no container is needed: what it says of itself, and of what it does not understand.
//!
//! With containers it is tested beside the shim (`tests/manager/`, `tests/dump/`).
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn cotter(args: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_cotter"))
        .args(args)
        .env("COTTER_HOME", "/nonexistent/home")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn help_names_every_verb() {
    let (status, help, errors) = cotter(&["--help"]);
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    for verb in ["run", "ps", "kill", "rm", "dump", "stats"] {
        assert!(help.contains(&format!("cotter {verb}")), "{verb}: {help}");
    }
}

#[test]
fn the_version_is_the_shim_s() {
    let (status, version, _) = cotter(&["--version"]);
    assert_eq!(status, Some(0));
    assert_eq!(version, format!("cotter {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_not_understood_is_one_line_and_does_nothing() {
    for args in [
        &["frobnicate"][..],
        &["run", "--nonsense"],
        &["kill", "a", "NOSIGNAL"],
        &["dump"],
        &["stats"],
    ] {
        let (status, out, error) = cotter(args);
        assert_eq!((status, out.as_str()), (Some(125), ""), "{args:?}");
        assert!(error.starts_with("cotter: "), "{args:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{args:?}: {error}");
    }
}
