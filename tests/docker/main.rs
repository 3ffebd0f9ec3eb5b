//! The shim under two Docker Engines, each with the containerd and the OCI runtimes of its time.
//!
//! Everything is asked through each engine's own `docker`. The cases of one test run at the same time on one engine,
//! and every test ends with the census of what it started with. `COTTER_TEST_SHIM=go` runs the Go shims instead: what
//! they pass, ours must.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod away;
mod engine;
mod exec;
mod options;
mod output;
mod policies;
mod resources;
mod run;
mod signals;
mod userns;

use engine::{Engine, Line, all_at_once};

/// One module per engine and OCI runtime, one test per family of cases.
macro_rules! engines {
    ($($module:ident: $line:ident, $runtime:literal, $($name:ident: $cases:path),*;)*) => {$(
        mod $module {
            use super::*;

            $(#[test]
            fn $name() {
                all_at_once(Engine::start(Line::$line, $runtime), $cases);
            })*
        }
    )*};
}

// What the engine does by itself, and through other runtimes than runc, is no other matter for each runtime; nor is
// what the runtime alone does.
engines! {
    docker_20_10: V20_10, "RUNC",
        runs: run::CASES, execs: exec::CASES, streams: output::CASES, signals: signals::CASES,
        resources: resources::CASES, policies: policies::CASES;
    docker_20_10_crun: V20_10, "CRUN",
        runs: run::CASES, execs: exec::CASES, signals: signals::CASES;
    docker_28_5: V28_5, "RUNC_1_3",
        runs: run::CASES, execs: exec::CASES, streams: output::CASES, signals: signals::CASES,
        resources: resources::CASES, policies: policies::CASES;
    docker_28_5_crun: V28_5, "CRUN_1_21",
        runs: run::CASES, execs: exec::CASES, signals: signals::CASES;
}

/// One module per behaviour that needs an engine of its own, one test per engine.
macro_rules! alone {
    ($($name:ident: $test:path;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn docker_20_10() {
                $test(Line::V20_10, "RUNC");
            }

            #[test]
            fn docker_28_5() {
                $test(Line::V28_5, "RUNC_1_3");
            }
        }
    )*};
}

alone! {
    live_restore: away::live_restore;
    daemon_killed: away::daemon_killed;
    daemon_stopped: away::daemon_stopped;
    containerd_killed: away::containerd_killed;
    both_killed: away::both_killed;
    clients_back: away::clients_back;
    user_namespaces: userns::remapped;
    execs_without_the_runtime: exec::without_the_runtime;
}
