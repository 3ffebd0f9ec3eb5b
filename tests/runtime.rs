//! The runtime driver against runc, crun and a runtime that misbehaves on purpose. The monitor
//! reaps every child of its process, so all scenarios run one after another in one test.

#![allow(clippy::expect_used)]

#[path = "runtime/fault.rs"]
mod fault;
#[path = "runtime/real.rs"]
mod real;

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cotter::monitor::{Exit, Monitor, Pid};
use cotter::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Far above what any step takes; running out is a failure.
const LIMIT: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing happened"))
}

struct World {
    monitor: Monitor,
    others: UnboundedReceiver<Exit>,
    directory: PathBuf,
}

impl World {
    /// A driver with a bundle of its own.
    fn runtime(&self, binary: &Path, name: &str) -> Runtime {
        let bundle = self.directory.join(name);
        fs::create_dir_all(&bundle).expect("bundle");
        Runtime {
            binary: binary.to_owned(),
            root: self.directory.join(format!("{name}-root")),
            log: bundle.join("log.json"),
            systemd_cgroup: false,
            monitor: self.monitor.clone(),
            limit: None,
        }
    }

    /// The status of a process that is no child of a spawn.
    async fn exit_of(&mut self, pid: Pid) -> u32 {
        within("exit", async {
            loop {
                let exit = self.others.recv().await.expect("the monitor lives");
                if exit.pid == pid {
                    return exit.status;
                }
            }
        })
        .await
    }
}

/// Names of the files for single calls that are left in a bundle.
fn leftovers(runtime: &Runtime) -> Vec<String> {
    fs::read_dir(runtime.log.parent().expect("bundle"))
        .expect("bundle")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("text")
        })
        .filter(|name| name.starts_with("log-") || name.starts_with("process-"))
        .collect()
}

/// The states of this process's children: `Z` is a zombie.
fn children() -> Vec<String> {
    let me = std::process::id().to_string();
    let state = |entry: fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(") ")?;
        let mut fields = after_name.split(' ').map(str::to_owned);
        let state = fields.next()?;
        (fields.next()? == me).then_some(state)
    };
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| state(entry.expect("entry")))
        .collect()
}

async fn no_children() {
    within("the end of all children", async {
        while !children().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[test]
fn runtime() {
    let directory = std::env::temp_dir().join(format!("cotter-runtime-{}", std::process::id()));
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("executor");
    executor.block_on(async {
        let (sender, others) = unbounded_channel();
        let monitor = Monitor::start(move |exit| sender.send(exit).expect("the test listens"));
        let mut world = World {
            monitor: monitor.expect("monitor"),
            others,
            directory: directory.clone(),
        };
        let fds = || fs::read_dir("/proc/self/fd").expect("fds").count();
        let idle_fds = fds();

        fault::all(&mut world).await;
        for binary in ["runc", "crun"] {
            real::all(&mut world, binary).await;
        }

        no_children().await;
        assert_eq!(world.monitor.live_children(), 0);
        assert_eq!(fds(), idle_fds);
    });
    fs::remove_dir_all(directory).expect("clean up");
}
