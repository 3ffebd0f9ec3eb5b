//! A container's resources and its cgroup, as the tests of more than one target look at them.

use std::path::PathBuf;

use cotter::cgroup::{Cgroup, Metrics};
use cotter::error::Result;
use cotter::manager::client::Tasks;
use cotter::manager::request;
use cotter::proto::task::{Status, UpdateTaskRequest};
use cotter::proto::{Any, cgroups_v1, cgroups_v2, unpack};
use nix::unistd::Pid;

use super::shim::Shim;

/// Shell text that uses a tenth of a second of processor time (fields 14 and 15 of its stat, in hundredths), on a slow
/// machine as on a fast one.
pub const WORK: &str = "while read -r s </proc/self/stat; set -- ${s##*) }; \
     [ $((${12} + ${13})) -lt 10 ]; do :; done";

/// The cgroup of a process that lives.
pub fn cgroup(pid: u32) -> Cgroup {
    Cgroup::of_pid(Pid::from_raw(pid.cast_signed())).unwrap()
}

/// A file of the cgroup, without the line's end.
pub fn read(cgroup: &Cgroup, controller: &str, file: &str) -> String {
    let path: PathBuf = cgroup.dir(controller).unwrap().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    text.trim_end().to_owned()
}

/// What State says of a process.
pub async fn status(shim: &Shim, id: &str, exec: &str) -> Status {
    let state = shim.state(id, exec).await.unwrap();
    state.status.enum_value().unwrap()
}

/// OCI resources as clients send them.
pub fn resources(json: &str) -> Any {
    Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
        value: json.as_bytes().to_vec(),
        ..Default::default()
    }
}

/// Stats, decoded.
pub async fn stats(tasks: &Tasks, id: &str) -> Result<Metrics> {
    let any = tasks.stats(&request::stats(id)).await?.stats.unwrap();
    if any.type_url == "io.containerd.cgroups.v1.Metrics" {
        return Ok(Metrics::V1(
            unpack::<cgroups_v1::Metrics>(&any).unwrap().unwrap(),
        ));
    }
    assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
    Ok(Metrics::V2(
        unpack::<cgroups_v2::Metrics>(&any).unwrap().unwrap(),
    ))
}

/// Pause.
pub async fn pause(shim: &Shim, id: &str) -> Result<()> {
    shim.tasks.pause(&request::pause(id)).await.map(drop)
}

/// Resume.
pub async fn resume(shim: &Shim, id: &str) -> Result<()> {
    shim.tasks.resume(&request::resume(id)).await.map(drop)
}

/// Update of container `c`.
pub async fn update(
    shim: &Shim,
    resources: Option<Any>,
    annotations: &[(&str, &str)],
) -> Result<()> {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let request = UpdateTaskRequest {
        id: "c".into(),
        resources: resources.into(),
        annotations: annotations.iter().map(own).collect(),
        ..Default::default()
    };
    shim.tasks.update(&request).await.map(drop)
}
