//! The shim under two Docker Engines, each with the containerd and the runc of its time.
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

use common::containerd::Form;
use engine::{Line, all_at_once};

/// One module per engine, one test per family of cases.
macro_rules! engines {
    ($($module:ident: $line:ident;)*) => {$(
        mod $module {
            use super::*;

            const LINE: Line = Line::$line;

            #[test]
            fn runs() {
                all_at_once(LINE, Form::DropIn, run::CASES);
            }

            #[test]
            fn execs() {
                all_at_once(LINE, Form::DropIn, exec::CASES);
            }

            #[test]
            fn output_and_input() {
                all_at_once(LINE, Form::DropIn, output::CASES);
            }

            #[test]
            fn signals_and_pauses() {
                all_at_once(LINE, Form::DropIn, signals::CASES);
            }

            #[test]
            fn resources_and_files() {
                all_at_once(LINE, Form::DropIn, resources::CASES);
            }

            #[test]
            fn restart_policies_and_health() {
                all_at_once(LINE, Form::DropIn, policies::CASES);
            }

            #[test]
            fn live_restore() {
                away::live_restore(LINE);
            }

            #[test]
            fn daemon_killed() {
                away::daemon_killed(LINE);
            }

            #[test]
            fn daemon_stopped() {
                away::daemon_stopped(LINE);
            }

            #[test]
            fn containerd_killed() {
                away::containerd_killed(LINE);
            }

            #[test]
            fn user_namespaces() {
                userns::remapped(LINE);
            }
        }
    )*};
}

engines! {
    docker_20_10: V20_10;
    docker_28_5: V28_5;
}

#[test]
fn by_runtime_type() {
    all_at_once(Line::V28_5, Form::Name, options::CASES);
}
