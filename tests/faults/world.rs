//! A shim with one good container, and what must hold of it and of the machine after any fault.

use std::time::{Duration, Instant};

use cotter::error::{Code, Error, Result};
use cotter::manager::client::Tasks;
use cotter::manager::dialect::Dialect;
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::proto::task::{CreateTaskRequest, PidsRequest};
use cotter::proto::types::Mount;

use tokio::task::JoinHandle;

use crate::common::census::{Census, Owner};
use crate::common::shim::{Shim, ended};
use crate::common::{LIMIT, tool};
use crate::runtime::Faulty;

/// Set in a test that runs once more in namespaces of its own.
const ALONE: &str = "COTTER_TEST_ALONE";

/// Whether this is the inner run of `test`, in the namespaces that these arguments of unshare(1)
/// make; outside, runs it and expects it to pass.
pub fn alone(test: &str, namespaces: &[&str]) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    // In a new pid namespace it gets a pid that nobody has outside: names of directories are made
    // of it.
    let before = nix::unistd::gettid().as_raw() - 1;
    let script = match namespaces.contains(&"--pid") {
        true => format!("echo {before} >/proc/sys/kernel/ns_last_pid; \"$@\""),
        false => "exec \"$@\"".to_owned(),
    };
    let mut command = std::process::Command::new("unshare");
    command
        .args(namespaces)
        .args(["--", "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1");
    let said = crate::common::run(&mut command).ok();
    assert!(said.contains("1 passed"), "{said}");
    false
}

/// The good container, which a test's faults are no business of.
pub const GOOD: &str = "good";

/// A shim with its good container running, and a faulty runtime for another.
pub async fn world(runtime: &str, environment: &[(&str, &str)]) -> (Shim, Faulty) {
    let spec = Spec::new(GOOD, ["sleep", "1000"]);
    let mut shim = Shim::start_with(Dialect::Proto23, runtime, spec, GOOD, environment).await;
    shim.create(GOOD).await.unwrap();
    shim.start_process(GOOD, "").await.unwrap();
    let created = |e: &Event| matches!(e, Event::Start(_));
    shim.events_until(created).await;
    let faulty = Faulty::new(&shim, "a");
    (shim, faulty)
}

/// Waits without holding up the test's own tasks.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "still not so after {LIMIT:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn owner(shim: &Shim) -> Owner {
    Owner {
        namespace: shim.namespace.clone(),
        dir: shim.dir().to_owned(),
        address: shim.launch.grpc_address.clone().into(),
    }
}

/// Makes a request in a task of its own, over a clone of `tasks`.
pub fn later<F>(tasks: &Tasks, request: impl FnOnce(Tasks) -> F) -> JoinHandle<Result<()>>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    tokio::spawn(request(tasks.clone()))
}

/// The machine as far as it is the test's.
pub fn census(shim: &Shim) -> Census {
    Census::take(&owner(shim), &[&shim.launch.id])
}

/// What came and went. A process that runs another program by now is the same process.
fn changes(before: &Census, after: &Census) -> String {
    let diff = before.diff(after);
    let process = |line: &str| {
        Some(
            line[1..]
                .strip_prefix(" process ")?
                .split_once(' ')?
                .0
                .to_owned(),
        )
    };
    let stayed = |line: &str| {
        let twin = if line.starts_with('+') { "-" } else { "+" };
        let same = |other: &&str| other.starts_with(twin) && process(other) == process(line);
        process(line).is_some() && diff.lines().any(|other| same(&other))
    };
    diff.lines()
        .filter(|line| !stayed(line))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Waits for the machine to be what it was.
pub async fn nothing_new(shim: &Shim, before: &Census, what: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let diff = changes(before, &census(shim));
        if diff.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: left behind:\n{diff}log {:#?}",
            shim.log()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The test's process with these arguments.
pub async fn process_with(shim: &Shim, argv: &str) -> u32 {
    let mut found = None;
    until(argv, || {
        found = owner(shim).processes().into_iter().find(|p| p.argv == argv);
        found.is_some()
    })
    .await;
    found.unwrap().pid
}

/// Whether a process is there and no zombie.
pub fn alive(pid: u32) -> bool {
    !ended(pid)
}

/// What lies in a bundle, without what its manager put there, and the runtime's log.
pub fn in_bundle(shim: &Shim, id: &str) -> Vec<String> {
    let managers = [
        "config.json",
        "rootfs",
        "log",
        "log.json",
        "bootstrap.json",
        "s",
        "address",
    ];
    let mut names: Vec<_> = std::fs::read_dir(shim.bundle_path(id))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !managers.contains(&name.as_str()))
        .collect();
    names.sort();
    names
}

/// The good container runs a program and tells how it ended.
pub async fn good_works(shim: &Shim) {
    shim.exec(GOOD, "probe", &["sh", "-c", "exit 7"])
        .await
        .unwrap();
    assert_eq!(shim.wait(GOOD, "probe").await.unwrap().exit_status, 7);
    shim.delete(GOOD, "probe").await.unwrap();
}

/// All questions about `id` are answered, here and now.
pub async fn answers(shim: &Shim, id: &str) {
    let pid = shim.state(id, "").await.unwrap().pid;
    let request = PidsRequest {
        id: id.into(),
        ..Default::default()
    };
    let pids = shim.tasks.pids(&request).await.unwrap().processes;
    assert!(pids.iter().any(|p| p.pid == pid), "{pid} in {pids:?}");
    let request = cotter::proto::task::ConnectRequest {
        id: id.into(),
        ..Default::default()
    };
    let connected = shim.tasks.connect_task(&request).await.unwrap();
    assert_eq!(connected.task_pid, pid);
}

/// A bundle for `id` whose rootfs the shim has to mount, and the Create that says so.
pub fn bundle(shim: &mut Shim, faulty: &Faulty, id: &str) -> CreateTaskRequest {
    let mut spec = Spec::new(id, ["sleep", "1000"]);
    spec.rootfs = shim
        .dir()
        .join(id)
        .join("rootfs")
        .to_string_lossy()
        .into_owned();
    shim.bundle(id, spec);
    let rootfs = Mount {
        type_: "bind".into(),
        source: tool("ROOTFS").to_string_lossy().into_owned(),
        options: vec!["rbind".into(), "rw".into()],
        ..Default::default()
    };
    CreateTaskRequest {
        rootfs: vec![rootfs],
        ..faulty.create_request(shim, id)
    }
}

/// An error for a person: one line that holds all of `parts`.
#[track_caller]
pub fn says(error: &Error, code: Code, parts: &[&str]) {
    assert_eq!(error.code, code, "{error}");
    assert_eq!(error.message.lines().count(), 1, "one line: {error}");
    for part in parts {
        assert!(error.message.contains(part), "{part:?} in {error}");
    }
}
