//! What the tests of this family share: refusals, conditions, a proof that a container works.

use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cotter::error::{Code, Result};
use cotter::manager::events::{Event, Told};
use cotter::proto::Timestamp;
use cotter::proto::task::{CreateTaskRequest, PidsRequest, PidsResponse};

use crate::common::shim::Shim;
use crate::common::{LIMIT, has_trap};

/// Makes a `#[test]` per runtime of each `async fn name(runtime: &'static str)`.
macro_rules! with_each_runtime {
    ($($name:ident,)*) => {
        $(mod $name {
            #[test]
            fn runc() {
                crate::common::shim::run(super::$name("RUNC"));
            }

            #[test]
            fn crun() {
                crate::common::shim::run(super::$name("CRUN"));
            }
        })*
    };
}
pub(crate) use with_each_runtime;

/// The program of a container that is only there to be talked about.
pub const SLEEP: [&str; 2] = ["sleep", "1000"];

/// How the Go shim says that there was no exit: the year 1.
pub const NO_TIME: i64 = -62_135_596_800;

/// Checks that a call was refused with this code and these words among others.
#[track_caller]
pub fn refused<T: Debug>(result: Result<T>, code: Code, words: &str) {
    let error = result.unwrap_err();
    let as_wanted = error.code == code && error.message.contains(words);
    assert!(as_wanted, "wanted {code:?} {words:?}, got {error:?}");
    let (lines, length) = (
        error.message.trim_end().lines().count(),
        error.message.len(),
    );
    assert!(lines == 1 && length < 4096, "not one line: {error:?}");
}

/// Checks that a time is that of something that happened since `before`.
#[track_caller]
pub fn recent(at: &Timestamp, before: SystemTime) {
    let at =
        UNIX_EPOCH + Duration::new(at.seconds.try_into().unwrap(), at.nanos.try_into().unwrap());
    assert!(
        before <= at && at <= SystemTime::now(),
        "{at:?} is not after {before:?}"
    );
}

/// Waits until an asynchronous condition holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition().await {
        assert!(
            Instant::now() < deadline,
            "still not so after {LIMIT:?}: {what}"
        );
        crate::common::shim::a_moment().await;
    }
}

/// Waits until process `pid` executes `program`: the runtime's own program has ended.
pub async fn until_runs(pid: u32, program: &str) {
    until(&format!("process {pid} is {program}"), async || {
        let argv = crate::common::peek::argv(pid).unwrap_or_default();
        argv.first().is_some_and(|first| first == program)
    })
    .await;
}

/// Waits until the shell script that is process `pid` handles `signal`.
pub async fn until_catches(pid: u32, signal: u32) {
    let what = format!("process {pid} catches {signal}");
    until(&what, async || has_trap(pid, signal)).await;
}

/// Checks that a running container does all that is expected of one: a process can be put in, seen,
/// waited for and taken out.
pub async fn works(shim: &Shim, id: &str) {
    assert!(
        shim.exec(id, "probe", &["sh", "-c", "exit 42"])
            .await
            .unwrap()
            > 0
    );
    assert_eq!(shim.wait(id, "probe").await.unwrap().exit_status, 42);
    shim.delete(id, "probe").await.unwrap();
    let init = shim.state(id, "").await.unwrap();
    assert_eq!(init.status.unwrap(), cotter::proto::task::Status::RUNNING);
    assert!(Path::new(&format!("/proc/{}", init.pid)).exists());
}

/// What [`works`] adds to the events.
pub const WORKS: [&str; 3] = ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"];

/// Pids.
pub async fn pids(shim: &Shim, id: &str) -> Result<PidsResponse> {
    let request = PidsRequest {
        id: id.into(),
        ..Default::default()
    };
    shim.tasks.pids(&request).await
}

/// Create, as changed by the test.
pub async fn create(shim: &Shim, request: &CreateTaskRequest) -> Result<u32> {
    Ok(shim.tasks.create(request).await?.pid)
}

/// What events say, in a line each: topic, process and, of an exit, the status.
pub fn lines(told: &[Told]) -> Vec<String> {
    let line = |told: &Told| match &told.event {
        Event::Exit(exit) => format!("{} {} {}", told.topic, exit.id, exit.exit_status),
        Event::ExecAdded(exec) => format!("{} {}", told.topic, exec.exec_id),
        Event::ExecStarted(exec) => format!("{} {}", told.topic, exec.exec_id),
        Event::Delete(delete) => format!(
            "{} {} {}",
            told.topic, delete.container_id, delete.exit_status
        ),
        event => format!("{} {}", told.topic, event.container()),
    };
    told.iter().map(line).collect()
}

/// Everything a directory holds: names and contents, and whose inode it is.
pub fn contents(dir: &Path) -> Vec<(String, u64, String)> {
    use std::os::unix::fs::MetadataExt;
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let text = if meta.is_file() && entry.file_name() != "log.json" {
                std::fs::read_to_string(entry.path()).unwrap()
            } else {
                String::new()
            };
            (
                entry.file_name().to_string_lossy().into_owned(),
                meta.ino(),
                text,
            )
        })
        .collect();
    all.sort();
    all
}

/// The mount points below a directory.
pub fn mounts(dir: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(|point| Path::new(point).starts_with(dir))
        .map(str::to_owned)
        .collect()
}
