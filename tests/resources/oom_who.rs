//! `/cotter/oom`: who was killed, by whose limit, and that it is told whatever becomes of the cgroup.

use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cotter::cgroup::Version;
use cotter::error::Code;
use cotter::manager::dialect::Dialect;
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::proto::cotter_oom::oom_kill::{Level, Source};
use cotter::proto::cotter_oom::{OomKill, Victim, victim::Role};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::common::{eventually, unique};
use crate::oom::catches_usr1;
use crate::{cgroup, is_delete, topics};

const LIMIT: i64 = 24 << 20;
const HUNGRY: &str = "tail /dev/zero";

fn spec(id: &str, script: &str) -> Spec {
    let mut spec = Spec::new(id, ["sh", "-c", script]);
    spec.memory_limit = Some(LIMIT);
    spec
}

async fn created(runtime: &str, spec: Spec) -> Shim {
    let shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
    shim.create("c").await.unwrap();
    shim
}

/// The next `/cotter/oom`.
async fn details(shim: &mut Shim) -> OomKill {
    let told = shim.events_until(|e| matches!(e, Event::OomKill(_))).await;
    match told.into_iter().last().map(|told| told.event) {
        Some(Event::OomKill(kill)) => kill,
        other => panic!("{other:?}"),
    }
}

fn only(kill: &OomKill) -> &Victim {
    assert_eq!(kill.victims.len(), 1, "{kill:#?}");
    &kill.victims[0]
}

fn role(victim: &Victim) -> Role {
    victim.role.enum_value().unwrap()
}

/// The path of the container's memory cgroup in its hierarchy.
fn memory_path(pid: u32) -> String {
    cgroup(pid).memory_path().unwrap().to_str().unwrap().into()
}

/// Tries until the kernel has logged a kill in whole, which it does not for more than ten in five seconds
/// on all of the machine; then the shim can know all of it. `scenario` answers the memory cgroup of the
/// victim and what was told.
async fn whole<T>(scenario: impl AsyncFn() -> (String, T)) -> T {
    loop {
        let (cgroup, told) = scenario().await;
        if kernel_log().contains(&format!(",task_memcg={cgroup},task=")) {
            return told;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

pub fn kernel_log() -> String {
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .unwrap();
    let (mut text, mut record) = (String::new(), [0; 8192]);
    loop {
        match file.read(&mut record) {
            Ok(length) => text += &String::from_utf8_lossy(&record[..length]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return text,
            // Overwritten meanwhile.
            Err(e) => assert_eq!(e.kind(), ErrorKind::BrokenPipe),
        }
    }
}

async fn end(shim: Shim) {
    shim.remove("c").await;
    shim.end().await;
}

#[test]
fn an_init_is_named_with_its_memory_and_its_limit() {
    for runtime in RUNTIMES {
        run(async {
            let (pid, path, kill) = whole(async || {
                let mut shim = created(runtime, spec("c", &format!("exec {HUNGRY}"))).await;
                let pid = shim.state("c", "").await.unwrap().pid;
                let path = memory_path(pid);
                shim.start_process("c", "").await.unwrap();
                let kill = details(&mut shim).await;
                end(shim).await;
                (path.clone(), (pid, path, kill))
            })
            .await;
            let victim = only(&kill);
            assert_eq!((victim.pid, victim.container_pid), (pid, 1));
            let who = (victim.command.as_str(), role(victim));
            assert_eq!(who, ("tail", Role::ROLE_INIT));
            let (anon, limit) = (victim.anon_bytes, LIMIT.cast_unsigned());
            assert!(anon > limit / 2 && anon <= limit, "{kill:#?}");
            assert_eq!(kill.level.enum_value(), Ok(Level::LEVEL_CONTAINER));
            assert_eq!(
                (kill.level_path.as_str(), kill.limit_bytes),
                (&*path, limit)
            );
            assert_eq!((kill.kills, kill.kills_total, kill.group), (1, 1, false));
            assert_eq!(kill.source.enum_value(), Ok(Source::SOURCE_KERNEL_LOG));
        });
    }
}

#[test]
fn a_child_is_told_from_the_init() {
    run(async {
        let kill = whole(async || {
            let script = format!("trap '{HUNGRY}' USR1; while :; do sleep 0.05; done");
            let mut shim = created("RUNC", spec("c", &script)).await;
            let pid = shim.start_process("c", "").await.unwrap();
            let path = memory_path(pid);
            catches_usr1(pid).await;
            shim.kill("c", "", 10).await.unwrap();
            let kill = details(&mut shim).await;
            end(shim).await;
            (path, kill)
        })
        .await;
        let victim = only(&kill);
        let who = (victim.command.as_str(), role(victim));
        assert_eq!(who, ("tail", Role::ROLE_CHILD));
    });
}

/// A process that the shim knows is known in the log even where the kernel does not name its cgroup.
#[test]
fn an_exec_is_named() {
    run(async {
        let mut shim = created("RUNC", spec("c", "while :; do sleep 0.05; done")).await;
        shim.start_process("c", "").await.unwrap();
        let exec = ["sh", "-c", &format!("exec {HUNGRY}")];
        let pid = shim.exec("c", "x", &exec).await.unwrap();
        let kill = details(&mut shim).await;
        let victim = only(&kill);
        assert_eq!((victim.pid, role(victim)), (pid, Role::ROLE_EXEC));
        let who = (victim.exec_id.as_str(), victim.command.as_str());
        assert_eq!(who, ("x", "tail"));
        end(shim).await;
    });
}

/// A directory above the container's cgroup in the memory hierarchy.
struct Pod(PathBuf);

impl Pod {
    /// A pod for a container whose spec names this path, with a limit on the pod alone.
    fn new(name: &str) -> Self {
        let own = cgroup(std::process::id());
        let (root, files) = match own.version() {
            Version::V1 => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            Version::V2 => ("/sys/fs/cgroup", "memory.max"),
        };
        let root = Path::new(root);
        if own.version() == Version::V2 {
            std::fs::write(root.join("cgroup.subtree_control"), "+memory").unwrap();
        }
        let dir = root.join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(files), LIMIT.to_string()).unwrap();
        Self(dir)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // The runtime has made it in the other hierarchies, too.
        let name = self.0.file_name().unwrap();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(name));
        }
        eventually("the pod's cgroup can go", || {
            !self.0.exists() || std::fs::remove_dir(&self.0).is_ok()
        });
    }
}

/// Runs a container in a pod's cgroup that has the only limit.
async fn killed_below(pod: &str, runtime: &str, script: &str) -> OomKill {
    let mut spec = spec("c", script);
    spec.memory_limit = None;
    let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
    let config = shim.bundle_path("c").join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["linux"]["cgroupsPath"] = format!("/{pod}/c").into();
    std::fs::write(&config, json.to_string()).unwrap();
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    let kill = details(&mut shim).await;
    end(shim).await;
    kill
}

/// A bigger limit of the container would not have helped.
#[test]
fn a_limit_above_the_container_is_named() {
    for runtime in RUNTIMES {
        run(async {
            let (name, kill) = whole(async || {
                let name = unique("pod");
                let _pod = Pod::new(&name);
                let kill = killed_below(&name, runtime, &format!("exec {HUNGRY}")).await;
                (format!("/{name}/c"), (name, kill))
            })
            .await;
            assert_eq!(kill.level.enum_value(), Ok(Level::LEVEL_ABOVE), "{kill:#?}");
            assert_eq!(kill.level_path, format!("/{name}"));
            assert_eq!(kill.limit_bytes, LIMIT.cast_unsigned());
        });
    }
}

/// As systemd escapes a slice's name, and a process that has called itself something that is no text: the
/// kernel's log escapes both once more.
#[test]
fn names_that_the_log_escapes() {
    run(async {
        let (name, kill) = whole(async || {
            let name = format!(r"{}-a\x2db.slice", unique("system"));
            let _pod = Pod::new(&name);
            // The shell itself, since a program that it starts has its own name.
            let script =
                r"printf 'x\\n\ny\303' >/proc/$$/comm; x=0123456789; while :; do x=$x$x; done";
            let kill = killed_below(&name, "RUNC", script).await;
            (format!("/{}/c", name.replace('\\', r"\x5c")), (name, kill))
        })
        .await;
        assert_eq!(kill.level.enum_value(), Ok(Level::LEVEL_ABOVE), "{kill:#?}");
        assert_eq!(kill.level_path, format!("/{name}"));
        let victim = only(&kill);
        let who = (victim.command.as_str(), role(victim), victim.container_pid);
        assert_eq!(who, ("x\\n\ny\u{fffd}", Role::ROLE_INIT, 1));
    });
}

/// As systemd does it with a scope whose last process is gone. Here the shim is held meanwhile, so that
/// it always comes too late to count.
#[test]
fn a_kill_is_told_before_the_exit_though_the_cgroup_is_gone() {
    run(async {
        let mut shim = created("RUNC", spec("c", &format!("read -r line; exec {HUNGRY}"))).await;
        // Standard input is empty: the program goes on as soon as it is started. Hold the shim first.
        let init = shim.state("c", "").await.unwrap().pid;
        let memory = cgroup(init).dir("memory").unwrap().to_owned();
        let pid = shim.pid();
        let me = Pid::from_raw(pid.cast_signed());
        let runtime = shim.options.binary_name.clone();
        kill(me, Signal::SIGSTOP).unwrap();
        // The shim cannot: so the runtime is asked to start it.
        let started = std::process::Command::new(runtime)
            .args(["--root", shim.state_dir().to_str().unwrap(), "start", "c"])
            .status()
            .unwrap();
        assert!(started.success());
        until("the cgroup is empty and removed", || {
            std::fs::remove_dir(&memory).is_ok()
        })
        .await;
        kill(me, Signal::SIGCONT).unwrap();
        assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
        shim.delete("c", "").await.unwrap();
        let told = shim.events_until(is_delete).await;
        let seen = topics(&told);
        let oom = seen.iter().position(|t| *t == "/tasks/oom");
        let exit = seen.iter().position(|t| *t == "/tasks/exit").unwrap();
        assert!(oom.is_some_and(|oom| oom < exit), "{seen:?}");
        assert_eq!(seen.iter().filter(|t| t.ends_with("oom")).count(), 2);
        shim.end().await;
    });
}

/// One is killed, and the kernel takes the others with it; where it cannot, the wish is refused before
/// anything is made.
#[test]
fn a_container_is_killed_as_a_whole_where_the_kernel_can() {
    for runtime in RUNTIMES {
        run(async {
            let mut spec = spec("c", &format!("sleep 1000 & {HUNGRY}; sleep 1000"));
            let asked = ("io.cotter.oom-group", "true");
            spec.annotations.insert(asked.0.into(), asked.1.into());
            let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            let created = shim.create("c").await;
            if cgroup(std::process::id()).version() == Version::V1 {
                let why = created.unwrap_err();
                assert_eq!(why.code, Code::InvalidArgument);
                assert!(why.message.contains("memory.oom.group"), "{why}");
                assert!(!shim.state_dir().join("c").exists());
                assert!(shim.end().await.is_empty());
                return;
            }
            created.unwrap();
            shim.start_process("c", "").await.unwrap();
            let kill = details(&mut shim).await;
            // Otherwise only tail would have died, and the shell have gone on to sleep.
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
            assert!(kill.kills > 0, "{kill:#?}");
            shim.delete("c", "").await.unwrap();
            let told = shim.events_until(is_delete).await;
            assert!(
                !topics(&told).contains(&"/tasks/oom"),
                "one burst: {told:#?}"
            );
            shim.end().await;
        });
    }
}

#[test]
fn a_wish_that_is_no_wish_makes_nothing() {
    run(async {
        let mut spec = spec("c", "true");
        let wish = "perhaps\nnot".to_owned();
        spec.annotations.insert("io.cotter.oom-group".into(), wish);
        let shim = Shim::start_as(Dialect::Proto23, "RUNC", spec, "c").await;
        let why = shim.create("c").await.unwrap_err();
        assert_eq!(why.code, Code::InvalidArgument);
        assert_eq!(why.message.lines().count(), 1);
        assert!(shim.end().await.is_empty());
    });
}
