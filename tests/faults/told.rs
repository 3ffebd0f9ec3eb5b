//! What was told of an init's end stays so: whoever heard that it ended with 7 hears no other end from the
//! `delete` action of its shim, whenever that is killed, and whatever has become of the disk meanwhile.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cotter::container::exit_file;
use cotter::events::journal;
use cotter::manager::client::gone;
use cotter::manager::events::Event;
use cotter::manager::request;
use cotter::manager::spec::Spec;
use cotter::proto::task::WaitResponse;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::task::{JoinHandle, JoinSet};

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{LIMIT, signal, unique};
use crate::disk::Disk;
use crate::gone::delete;
use crate::outage::{Absence, absent, back, kept};
use crate::runtime::Faulty;
use crate::world::{GOOD, answers, good_works, in_bundle, until, world};

/// A machine that has others to serve is no reason to tell an exit before its record.
const PATIENT: [(&str, &str); 1] = [("COTTER_LIMIT_RECORD", "60s")];

/// Ends with 7 at SIGTERM, in a pid namespace of its own; before it listens nothing ends it.
const PROGRAM: &str = "trap 'exit 7' TERM; while :; do sleep 0.05; done";

/// The name under which a record is made.
fn new(bundle: &Path) -> PathBuf {
    bundle.join(format!("{}.new", exit_file::NAME))
}

/// A tmpfs in the place of a bundle, as containerd's are on one.
pub struct Memory(PathBuf);

impl Memory {
    pub fn in_place_of(bundle: &Path) -> Self {
        let config = std::fs::read(bundle.join("config.json")).unwrap();
        let (kind, size) = (Some("tmpfs"), Some("size=256k"));
        mount(Some("bundle"), bundle, kind, MsFlags::empty(), size).unwrap();
        std::fs::write(bundle.join("config.json"), config).unwrap();
        Self(bundle.to_owned())
    }

    /// Not a byte more goes into it.
    fn fill(&self) {
        let bytes = vec![0; 1 << 20];
        let error = std::fs::write(self.0.join("fill"), bytes).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("fill")).unwrap();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A Wait in a task of its own.
pub fn waiting(
    shim: &Shim,
    id: &str,
    exec: &str,
) -> JoinHandle<cotter::error::Result<WaitResponse>> {
    let (tasks, wait) = (shim.tasks.clone(), request::wait(id, exec));
    tokio::spawn(async move { tasks.wait(&wait).await })
}

/// A container that runs [`PROGRAM`]; its init.
async fn trapping(shim: &mut Shim, id: &str) -> u32 {
    shim.bundle(id, Spec::new(id, ["sh", "-c", PROGRAM]));
    shim.create(id).await.unwrap();
    shim.start_process(id, "").await.unwrap()
}

/// SIGTERM to an init until it has heard it, by no runtime: not before it is its program, since runc's own
/// ends by it with another status.
async fn terminate(
    pid: u32,
    wait: &mut JoinHandle<cotter::error::Result<WaitResponse>>,
) -> WaitResponse {
    let name = format!("/proc/{pid}/comm");
    let is_shell = || std::fs::read_to_string(&name).is_ok_and(|name| name == "sh\n");
    until("it is a shell", is_shell).await;
    loop {
        signal(pid, "TERM");
        match tokio::time::timeout(Duration::from_millis(50), &mut *wait).await {
            Ok(exit) => return exit.unwrap().unwrap(),
            Err(_) => continue,
        }
    }
}

/// What a manager does with a bundle whose shim is dead, for who looks what is left.
fn forget(shim: &Shim, ids: &[&str]) {
    for id in ids {
        for name in ["init.pid", "options.json", "runtime"] {
            let _ = std::fs::remove_file(shim.bundle_path(id).join(name));
        }
    }
}

/// While its record is being written an exit is not told; its neighbours are served.
#[test]
fn a_record_comes_before_the_word() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, _) = world(runtime, &PATIENT).await;
            let pid = trapping(&mut shim, "c").await;
            let disk = Disk::in_place_of(&shim.bundle_path("c"));
            disk.takes_no_write();
            let mut wait = waiting(&shim, "c", "");
            while disk.waiting() == 0 {
                signal(pid, "TERM");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            answers(&shim, GOOD).await;
            good_works(&shim).await;
            let neighbour = |e: &Event| matches!(e, Event::Exit(exit) if exit.id == "probe");
            let told = shim.events_until(neighbour).await;
            let early = |e: &Event| matches!(e, Event::Exit(exit) if exit.id == "c");
            assert!(!told.iter().any(|told| early(&told.event)), "{told:#?}");
            assert!(!wait.is_finished());
            assert_eq!(shim.state("c", "").await.unwrap().exit_status, 0);

            disk.is_back();
            assert_eq!((&mut wait).await.unwrap().unwrap().exit_status, 7);
            shim.events_until(early).await;
            disk.unmount();
            assert_eq!(shim.delete("c", "").await.unwrap().exit_status, 7);
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// On a disk and in memory, in pid namespaces of their own and in the host's.
#[test]
fn a_shim_killed_at_its_word_has_kept_it() {
    for n in 0..3 {
        for runtime in RUNTIMES {
            run(killed_at_its_word(runtime, n));
        }
    }
}

async fn killed_at_its_word(runtime: &str, round: usize) {
    let (mut shim, _) = world(runtime, &PATIENT).await;
    good_works(&shim).await;
    let mut memories = Vec::new();
    let mut inits = Vec::new();
    let ids = ["own", "own-memory", "host", "host-memory"];
    for id in ids {
        let mut spec = Spec::new(id, ["sh", "-c", PROGRAM]);
        if id.starts_with("host") {
            spec = Spec::new(id, ["sleep", "1000"]);
            spec.host_pids = true;
        }
        let bundle = shim.bundle(id, spec);
        if id.ends_with("memory") {
            memories.push(Memory::in_place_of(&bundle));
        }
        shim.create(id).await.unwrap();
        inits.push((id, shim.start_process(id, "").await.unwrap()));
    }
    let server = shim.pid();
    // Each time another is the first to end.
    inits.rotate_left(round % ids.len());
    let mut waits = JoinSet::new();
    for (id, _) in &inits {
        let (tasks, wait, id) = (shim.tasks.clone(), request::wait(id, ""), *id);
        waits.spawn(async move {
            let exit = tasks.wait(&wait).await.ok()?;
            signal(server, "KILL");
            Some((id, exit))
        });
    }
    let mut told = Vec::new();
    while !waits.is_empty() {
        for (_, pid) in &inits {
            signal(*pid, "TERM");
        }
        let next = tokio::time::timeout(Duration::from_millis(50), waits.join_next());
        if let Ok(Some(ended)) = next.await {
            told.extend(ended.unwrap());
        }
    }
    assert!(!told.is_empty());
    gone(&shim.endpoint, LIMIT).await.unwrap();
    for (id, exit) in told {
        let expected = if id.starts_with("host") { 143 } else { 7 };
        assert_eq!(exit.exit_status, expected, "{id}");
        let deleted = delete(&shim, id).await.response;
        assert_eq!(deleted.exit_status, expected, "{id} ({runtime})");
        assert_eq!(deleted.exited_at, exit.exited_at);
    }
    for id in ids {
        delete(&shim, id).await;
    }
    assert_eq!(delete(&shim, GOOD).await.response.exit_status, 137);
    drop(memories);
    forget(&shim, &[&ids[..], &[GOOD]].concat());
    shim.end_of_the_gone().await;
}

/// Its tmpfs is full when it ends: there is room for the record, and where somebody has taken that too,
/// it is written as soon as there is some.
#[test]
fn a_full_tmpfs() {
    for (runtime, room) in [
        ("RUNC", true),
        ("CRUN", true),
        ("RUNC", false),
        ("CRUN", false),
    ] {
        run(async {
            let (mut shim, _) = world(runtime, &[]).await;
            let bundle = shim.bundle("c", Spec::new("c", ["sh", "-c", PROGRAM]));
            let memory = Memory::in_place_of(&bundle);
            shim.create("c").await.unwrap();
            let pid = shim.start_process("c", "").await.unwrap();
            if !room {
                let _ = std::fs::remove_file(new(&bundle));
            }
            memory.fill();
            let mut wait = waiting(&shim, "c", "");
            assert_eq!(terminate(pid, &mut wait).await.exit_status, 7);
            if !room {
                assert_eq!(exit_file::read(&bundle).unwrap(), None);
                let log = shim.log();
                let said = |line: &String| line.contains("its exit status is not kept");
                assert_eq!(log.iter().filter(|line| said(line)).count(), 1, "{log:#?}");
                memory.free();
                until("it is written", || {
                    exit_file::read(&bundle).unwrap().is_some()
                })
                .await;
            }
            good_works(&shim).await;
            signal(shim.pid(), "KILL");
            gone(&shim.endpoint, LIMIT).await.unwrap();
            assert_eq!(delete(&shim, "c").await.response.exit_status, 7);
            let left = in_bundle(&shim, "c");
            assert!(!left.iter().any(|name| name.ends_with(".new")), "{left:?}");
            assert_eq!(delete(&shim, GOOD).await.response.exit_status, 137);
            drop(memory);
            forget(&shim, &["c", GOOD]);
            shim.end_of_the_gone().await;
        });
    }
}

/// A cgroup in which a process has no room for another thread.
struct Narrow {
    root: PathBuf,
    dir: PathBuf,
    pid: u32,
}

impl Narrow {
    fn around(pid: u32) -> Self {
        let v1 = PathBuf::from("/sys/fs/cgroup/pids");
        let root = if v1.is_dir() {
            v1
        } else {
            PathBuf::from("/sys/fs/cgroup")
        };
        let _ = std::fs::write(root.join("cgroup.subtree_control"), "+pids");
        let dir = root.join(unique("cotter-narrow"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("cgroup.procs"), pid.to_string()).unwrap();
        std::fs::write(dir.join("pids.max"), "1").unwrap();
        Self { root, dir, pid }
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        let _ = std::fs::write(self.root.join("cgroup.procs"), self.pid.to_string());
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// In memory none is needed; on a disk it is written as soon as there is one to be had.
#[test]
fn no_thread_to_be_had() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, _) = world(runtime, &[]).await;
            let (disk, spec) = ("disk", Spec::new("memory", ["sh", "-c", PROGRAM]));
            let on_disk = trapping(&mut shim, disk).await;
            let memory = Memory::in_place_of(&shim.bundle("memory", spec));
            shim.create("memory").await.unwrap();
            let in_memory = shim.start_process("memory", "").await.unwrap();

            let narrow = Narrow::around(shim.pid());
            let mut wait = waiting(&shim, "memory", "");
            assert_eq!(terminate(in_memory, &mut wait).await.exit_status, 7);
            let record = |id: &str| exit_file::read(&shim.bundle_path(id)).unwrap();
            assert_eq!(record("memory").unwrap().status, 7);
            let mut wait = waiting(&shim, disk, "");
            assert_eq!(terminate(on_disk, &mut wait).await.exit_status, 7);
            assert_eq!(record(disk), None);
            answers(&shim, GOOD).await;
            drop(narrow);
            until("it is written", || record(disk).is_some()).await;
            good_works(&shim).await;

            signal(shim.pid(), "KILL");
            gone(&shim.endpoint, LIMIT).await.unwrap();
            for (id, status) in [("memory", 7), (disk, 7), (GOOD, 137)] {
                assert_eq!(delete(&shim, id).await.response.exit_status, status, "{id}");
            }
            drop(memory);
            forget(&shim, &["memory", disk, GOOD]);
            shim.end_of_the_gone().await;
        });
    }
}

/// Without the record, what was kept for the manager tells how it ended.
#[test]
fn delete_asks_the_journal() {
    run(async {
        let (mut shim, _) = world("RUNC", &[]).await;
        let pid = trapping(&mut shim, "c").await;
        let (path, deaf) = absent(&mut shim, Absence::Away).await;
        let mut wait = waiting(&shim, "c", "");
        let exit = terminate(pid, &mut wait).await;
        let bundle = shim.bundle_path("c");
        until("it is kept", || kept(&bundle) == 1).await;
        good_works(&shim).await;
        signal(shim.pid(), "KILL");
        gone(&shim.endpoint, LIMIT).await.unwrap();
        std::fs::remove_file(bundle.join(exit_file::NAME)).unwrap();
        back(&mut shim, &path, deaf).await;
        for _ in 0..2 {
            let deleted = delete(&shim, "c").await.response;
            assert_eq!((deleted.pid, deleted.exit_status), (pid, 7));
            assert_eq!(deleted.exited_at, exit.exited_at);
        }
        assert!(!bundle.join(journal::NAME).exists());
        delete(&shim, GOOD).await;
        forget(&shim, &["c", GOOD]);
        shim.end_of_the_gone().await;
    });
}

/// Files of the shim alone, an exec's process with its environment among them, go with the `delete` action.
#[test]
fn what_a_killed_shim_leaves_goes() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, _) = world(runtime, &[]).await;
            let faulty = Faulty::new(&shim, "h");
            shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
            let request = faulty.create_request(&shim, "c");
            shim.tasks.create(&request).await.unwrap();
            shim.start_process("c", "").await.unwrap();
            good_works(&shim).await;
            faulty.set("exec", "slow-after");
            let tasks = shim.tasks.clone();
            shim.tasks
                .exec(&shim.exec_request("c", "x", &["true"]))
                .await
                .unwrap();
            let started = tokio::spawn(async move { tasks.start(&request::start("c", "x")).await });
            faulty.arrived("exec").await;
            let private = |shim: &Shim| -> Vec<String> {
                let mut names = in_bundle(shim, "c");
                names.retain(|name| name.starts_with("process-"));
                names
            };
            assert_eq!(private(&shim).len(), 1);
            signal(shim.pid(), "KILL");
            gone(&shim.endpoint, LIMIT).await.unwrap();
            started.await.unwrap().unwrap_err();
            faulty.release("slow-after");
            let bundle = shim.bundle_path("c");
            // Half of a record, and what is no shim's.
            std::fs::write(new(&bundle), "{").unwrap();
            for name in ["process-1-x.json", "process-.json", "my-process-1-1.json"] {
                std::fs::write(bundle.join(name), "mine").unwrap();
            }
            std::fs::write(bundle.join("events.unpublished.new"), "x").unwrap();
            assert_eq!(delete(&shim, "c").await.response.exit_status, 137);
            let left = in_bundle(&shim, "c");
            let mine = ["init.pid", "my-process-1-1.json", "options.json"];
            // A pid file is no secret, and has a name that anybody may use.
            let others = ["process-.json", "process-1-x.json", "runtime", "x.pid"];
            let all = [&mine[..], &others].concat();
            assert_eq!(left, all);
            for name in all {
                std::fs::remove_file(bundle.join(name)).unwrap();
            }
            delete(&shim, GOOD).await;
            forget(&shim, &[GOOD]);
            shim.end_of_the_gone().await;
        });
    }
}
