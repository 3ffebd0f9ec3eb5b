//! Containers whose cgroups systemd makes (option SystemdCgroup), on pure cgroup v2.
//!
//! What is pinned: each container is a scope of its own, named as its spec asks; all operations
//! reach it; and whoever ends the container, a client, systemd, or the `delete` action after the
//! shim's death, the scope goes with it. Needs systemd as process 1.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use cotter::cgroup::{Metrics, Version};
use cotter::manager::dialect::Dialect;
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::proto::task::Status;
use nix::unistd::Pid;

use common::containerd::{Containerd, Form};
use common::events::Events;
use common::resources::{cgroup, pause, read, resources, resume, stats, status, update};
use common::shim::{Shim, run, until};
use common::{eventually, signal, tool, unique};

/// All that can talk to this systemd.
const RUNTIMES: [&str; 4] = ["RUNC", "RUNC_1_3", "CRUN", "CRUN_1_21"];

const MEMORY: i64 = 64 << 20;

/// A scope that is to be, below `system.slice`.
struct Scope {
    /// `slice:prefix:name`, as a spec names it.
    path: String,
    unit: String,
}

impl Scope {
    fn new() -> Self {
        let name = unique("s");
        Self {
            path: format!("system.slice:cotter:{name}"),
            unit: format!("cotter-{name}.scope"),
        }
    }

    fn dir(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup/system.slice").join(&self.unit)
    }

    /// Where the runtime puts the container: crun makes a cgroup of its own below the scope.
    fn home(&self, runtime: &str) -> PathBuf {
        if runtime.starts_with("CRUN") {
            self.dir().join("container")
        } else {
            self.dir()
        }
    }

    /// A property of the unit, as systemd knows it.
    fn property(&self, name: &str) -> String {
        systemctl(&["show", "--value", "--property", name, &self.unit])
    }

    fn assert_gone(&self) {
        eventually("the scope is gone", || {
            self.property("LoadState") == "not-found" && !self.dir().exists()
        });
    }
}

fn systemctl(args: &[&str]) -> String {
    let out = common::run(Command::new("systemctl").args(args)).ok();
    out.trim_end().to_owned()
}

/// A shim whose container `c` is created in the scope; and the pid of its init.
async fn create(runtime: &str, scope: &Scope, args: &[&str]) -> (Shim, u32) {
    let mut spec = Spec::new("c", args.iter().copied());
    spec.cgroups_path.clone_from(&scope.path);
    spec.memory_limit = Some(MEMORY);
    let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
    shim.options.systemd_cgroup = true;
    let pid = shim.create("c").await.unwrap();
    (shim, pid)
}

#[test]
#[ignore = "runs in the machine of make test-vm"]
fn all_operations_reach_the_scope() {
    for runtime in RUNTIMES {
        run(async {
            let scope = Scope::new();
            let (shim, pid) = create(runtime, &scope, &["sleep", "1000"]).await;
            let found = cgroup(pid);
            assert_eq!(found.version(), Version::V2);
            let home = scope.home(runtime);
            assert_eq!(found.dir("memory"), Some(home.as_path()), "{runtime}");
            assert_eq!(scope.property("ActiveState"), "active");
            assert_eq!(read(&found, "memory", "memory.max"), MEMORY.to_string());
            // crun limits its own cgroup below the scope, of which systemd knows nothing.
            let systemd_knows = !runtime.starts_with("CRUN");
            if systemd_knows {
                assert_eq!(scope.property("MemoryMax"), MEMORY.to_string());
            }
            shim.start_process("c", "").await.unwrap();
            let exec = shim.exec("c", "x", &["sleep", "1000"]).await.unwrap();
            assert_eq!(cgroup(exec), found, "an exec is in the same scope");
            let mut both = [pid, exec].map(|pid| Pid::from_raw(pid.cast_signed()));
            both.sort_unstable();
            assert_eq!(found.procs().unwrap(), both);

            let Metrics::V2(told) = stats(&shim.tasks, "c").await.unwrap() else {
                panic!("figures of cgroup v1");
            };
            assert_eq!(told.pids.current, 2);
            assert_eq!(told.memory.usage_limit, MEMORY.cast_unsigned());
            // systemd delegates what the runtime asked for; the shim has the rest enabled.
            assert!(told.io.is_some() && !told.hugetlb.is_empty(), "{told:?}");

            let more = r#"{"memory":{"limit":100663296},"pids":{"limit":77}}"#;
            update(&shim, Some(resources(more)), &[]).await.unwrap();
            assert_eq!(read(&found, "memory", "memory.max"), "100663296");
            assert_eq!(read(&found, "pids", "pids.max"), "77", "{runtime}");
            if systemd_knows {
                assert_eq!(scope.property("TasksMax"), "77", "{runtime}");
            }

            pause(&shim, "c").await.unwrap();
            assert_eq!(found.is_frozen(), Some(true));
            resume(&shim, "c").await.unwrap();
            assert_eq!(found.is_frozen(), Some(false));
            pause(&shim, "c").await.unwrap();
            assert_eq!(status(&shim, "c", "x").await, Status::PAUSED);
            shim.kill("c", "", 9).await.unwrap();
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
            assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 137);
            shim.delete("c", "x").await.unwrap();
            shim.delete("c", "").await.unwrap();
            scope.assert_gone();
            shim.end().await;
        });
    }
}

/// What systemd does not know it would take back with the next reload.
#[test]
#[ignore = "runs in the machine of make test-vm"]
fn a_default_limit_of_processes_is_the_scopes() {
    // crun 1.8 tells systemd no limit, whoever asked for it; systemd then sets its own.
    for runtime in RUNTIMES.iter().filter(|name| !name.starts_with("CRUN")) {
        run(async {
            let scope = Scope::new();
            let mut spec = Spec::new("c", ["sleep", "1000"]);
            spec.cgroups_path.clone_from(&scope.path);
            let annotation = ("io.cotter.pids-limit".to_owned(), "auto".to_owned());
            spec.annotations.extend([annotation]);
            let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            shim.options.systemd_cgroup = true;
            let pid = shim.create("c").await.unwrap();
            let cpus = std::thread::available_parallelism().unwrap().get();
            let auto = (cpus.max(6) * 1024).to_string();
            let limit = || read(&cgroup(pid), "pids", "pids.max");
            assert_eq!(limit(), auto, "{runtime}");
            shim.start_process("c", "").await.unwrap();
            systemctl(&["daemon-reload"]);
            assert_eq!(limit(), auto, "{runtime}");
            assert_eq!(scope.property("TasksMax"), auto, "{runtime}");
            shim.remove("c").await;
            scope.assert_gone();
            shim.end().await;
        });
    }
}

/// An operator, or a machine that is shut down, ends the container behind the manager's back.
#[test]
#[ignore = "runs in the machine of make test-vm"]
fn a_scope_that_systemd_stops_is_an_exit() {
    for runtime in RUNTIMES {
        run(async {
            let scope = Scope::new();
            let script = "trap 'exit 7' TERM; while :; do sleep 1000 & wait; done";
            let (mut shim, pid) = create(runtime, &scope, &["sh", "-c", script]).await;
            shim.start_process("c", "").await.unwrap();
            // Ready once it has a child: the trap is set.
            let found = cgroup(pid);
            until("the script waits", || found.procs().unwrap().len() == 2).await;
            systemctl(&["stop", "--no-block", &scope.unit]);
            let told = shim.events_until(|e| matches!(e, Event::Exit(_))).await;
            let Some(Event::Exit(exit)) = told.last().map(|told| &told.event) else {
                panic!("{told:#?}");
            };
            assert_eq!(exit.exit_status, 7, "{runtime}");
            // What is left of the cgroup says no more than that it is gone, or that it is empty.
            if let Ok(Metrics::V2(told)) = stats(&shim.tasks, "c").await {
                assert_eq!(told.pids.current, 0);
            }
            assert_eq!(shim.delete("c", "").await.unwrap().exit_status, 7);
            scope.assert_gone();
            shim.end().await;
        });
    }
}

#[test]
#[ignore = "runs in the machine of make test-vm"]
fn delete_after_the_shims_death_removes_the_scope() {
    for runtime in RUNTIMES {
        run(async {
            let scope = Scope::new();
            let (shim, pid) = create(runtime, &scope, &["sleep", "1000"]).await;
            shim.start_process("c", "").await.unwrap();
            pause(&shim, "c").await.unwrap();
            let process = shim.pid();
            signal(process, "KILL");
            eventually("the shim is gone", || {
                shim.processes().iter().all(|p| p.pid != process)
            });
            assert!(scope.dir().exists(), "the container outlives its shim");
            let deleted = shim.launch.delete().await.unwrap();
            assert_eq!(deleted.warnings, "", "{runtime}");
            assert_eq!(
                (deleted.response.pid, deleted.response.exit_status),
                (pid, 137)
            );
            scope.assert_gone();
            eventually("no process is left", || shim.processes().is_empty());
        });
    }
}

/// As containerd's CRI plugin asks for it with `SystemdCgroup = true`.
#[test]
#[ignore = "runs in the machine of make test-vm"]
fn under_containerd() {
    for (version, runtime) in [
        (common::containerd::Version::V1_7, "RUNC"),
        (common::containerd::Version::V2_1, "RUNC_1_3"),
        (common::containerd::Version::V2_1, "CRUN_1_21"),
    ] {
        let daemon = Containerd::start(version, Form::DropIn, &tool(runtime));
        let before = daemon.census();
        let events = Events::record(&daemon);
        let scope = Scope::new();
        let flags = [
            "-d",
            "--null-io",
            "--runc-systemd-cgroup",
            "--cgroup",
            &scope.path,
        ];
        common::run(&mut daemon.run_command(&flags, "web", &["sleep", "1000"])).ok();
        assert_eq!(scope.property("ActiveState"), "active", "{runtime}");
        let pid = daemon.pid("web").unwrap();
        let home = scope.home(runtime);
        assert_eq!(cgroup(pid).dir("memory"), Some(home.as_path()));
        assert_eq!(daemon.exec("web", &["echo", "in"]).ok(), "in\n");
        let metrics = daemon.ctr(&["tasks", "metrics", "--format", "json", "web"]);
        let metrics: serde_json::Value = serde_json::from_str(&metrics.ok()).unwrap();
        assert_eq!(metrics["pids"]["current"], 1, "{metrics}");

        // Killed: containerd runs the `delete` action.
        let shim = daemon.owner.shim("web").expect("the shim's process");
        signal(shim.pid, "KILL");
        assert_eq!(events.wait("/tasks/exit", "web").exit_status(), 137);
        events.wait("/tasks/delete", "web");
        drop(events);
        scope.assert_gone();
        daemon.ctr(&["containers", "delete", "web"]).ok();
        daemon.nothing_left_since(&before);
    }
}
