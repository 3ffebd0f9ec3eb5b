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
mod pause;
mod pause_races;
mod stats;
mod update;

use std::path::PathBuf;

use cotter::cgroup::Cgroup;
use cotter::manager::events::{Event, Told};
use cotter::proto::Any;
use cotter::proto::task::Status;
use nix::unistd::Pid;

use common::shim::Shim;

/// The cgroup of a process that lives.
fn cgroup(pid: u32) -> Cgroup {
    Cgroup::of_pid(Pid::from_raw(pid.cast_signed())).unwrap()
}

/// A file of the cgroup, without the line's end.
fn read(cgroup: &Cgroup, controller: &str, file: &str) -> String {
    let path: PathBuf = cgroup.dir(controller).unwrap().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    text.trim_end().to_owned()
}

async fn status(shim: &Shim, id: &str, exec: &str) -> Status {
    let state = shim.state(id, exec).await.unwrap();
    state.status.enum_value().unwrap()
}

fn topics(told: &[Told]) -> Vec<&str> {
    told.iter().map(|t| t.topic.as_str()).collect()
}

fn is_delete(event: &Event) -> bool {
    matches!(event, Event::Delete(_))
}

/// OCI resources as clients send them.
fn resources(json: &str) -> Any {
    Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
        value: json.as_bytes().to_vec(),
        ..Default::default()
    }
}
