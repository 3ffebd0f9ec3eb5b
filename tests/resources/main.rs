//! A container's resources, through the real shim and real runtimes: Pause and Resume, Update, Stats.
//!
//! What is pinned: State, events and the freezer say the same; a killed container ends, frozen or
//! not; a failed operation changes nothing; resources reach the runtime as they were written; and
//! Stats says what the Go shim says, field by field, of one and the same cgroup.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;
mod gate;
mod go;
mod kernel_log;
mod members;
mod mixed;
mod oom;
mod oom_loop;
mod oom_stall;
mod oom_storm;
mod oom_who;
mod pause;
mod pause_races;
mod pids;
mod stats;
mod unwatched;
mod update;

use cotter::manager::events::{Event, Told};

use common::resources::{WORK, cgroup, pause, read, resources, resume, stats, status, update};

fn topics(told: &[Told]) -> Vec<&str> {
    told.iter().map(|t| t.topic.as_str()).collect()
}

fn is_delete(event: &Event) -> bool {
    matches!(event, Event::Delete(_))
}
