//! Cgroups of real processes, on whatever hierarchies this machine has. Needs root.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use cotter::cgroup::{Cgroup, Version, add_process};
use cotter::error::Code;
use cotter::mount::mountinfo::{self, Entry};
use nix::unistd::Pid;

/// A process that does nothing until it is dropped.
struct Idle(Child);

impl Idle {
    fn new() -> Self {
        let mut sleep = Command::new("sleep");
        Self(sleep.arg("infinity").stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().try_into().unwrap())
    }

    fn join(&self, dir: &Path) {
        fs::write(dir.join("cgroup.procs"), self.pid().to_string()).unwrap();
    }

    fn proc_cgroup(&self) -> String {
        fs::read_to_string(format!("/proc/{}/cgroup", self.pid())).unwrap()
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cgroup of the test's own. Declare it before the processes in it.
struct Group(PathBuf);

impl Group {
    fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel lets a cgroup go a moment after its last process was reaped.
        for _ in 0..500 {
            match fs::remove_dir(&self.0) {
                Err(why) if why.raw_os_error() == Some(libc::EBUSY) => {
                    thread::sleep(Duration::from_millis(10));
                }
                _ => break,
            }
        }
    }
}

fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("cotter-test-{}-{number}", std::process::id())
}

/// One v1 hierarchy that every runtime uses and the v2 one: at least one exists anywhere.
fn hierarchies() -> Vec<Entry> {
    let wanted = |entry: &Entry| {
        entry.fs_type == "cgroup2" || (entry.fs_type == "cgroup" && has(entry, "pids"))
    };
    let found = mountinfo::read(|entry| wanted(&entry).then_some(entry)).unwrap();
    assert!(!found.is_empty(), "no cgroup hierarchy is mounted");
    found
}

fn has(entry: &Entry, controller: &str) -> bool {
    entry
        .super_options
        .split(',')
        .any(|word| word == controller)
}

#[test]
fn processes_in_and_below_the_cgroup_are_listed() {
    for hierarchy in hierarchies() {
        let top = Group::new(hierarchy.mount_point.join(name()));
        let below = Group::new(top.0.join("below"));
        let empty = Group::new(top.0.join("empty"));
        let (first, second, stranger) = (Idle::new(), Idle::new(), Idle::new());
        first.join(&top.0);
        second.join(&below.0);

        let cgroup = Cgroup::of_pid(first.pid()).unwrap();
        assert!(!cgroup.is_shared_with_us());
        let mut both = vec![first.pid(), second.pid()];
        both.sort_unstable();
        assert_eq!(cgroup.procs().unwrap(), both, "{}", top.0.display());
        let inner = Cgroup::of_pid(second.pid()).unwrap();
        assert_eq!(inner.procs().unwrap(), [second.pid()]);
        if hierarchy.fs_type == "cgroup" {
            assert_eq!(cgroup.dir("pids"), Some(top.0.as_path()));
        }

        drop((first, second, stranger));
        drop((below, empty));
        assert_eq!(cgroup.procs().unwrap(), []);
        drop(top);
        assert_eq!(inner.procs().unwrap(), [], "a cgroup that is gone");
    }
}

#[test]
fn pure_v2_sees_the_same_processes() {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let v2: String = table
        .lines()
        .filter(|line| line.contains(" - cgroup2 "))
        .map(|line| format!("{line}\n"))
        .collect();
    for hierarchy in hierarchies() {
        if hierarchy.fs_type != "cgroup2" {
            continue;
        }
        let group = Group::new(hierarchy.mount_point.join(name()));
        let process = Idle::new();
        process.join(&group.0);
        let own = fs::read("/proc/self/cgroup").unwrap();
        let of = process.proc_cgroup();
        let cgroup = Cgroup::from_text(of.as_bytes(), &own, v2.as_bytes()).unwrap();
        assert_eq!(cgroup.version(), Version::V2);
        assert_eq!(cgroup.dir("memory"), Some(group.0.as_path()));
        assert_eq!(cgroup.procs().unwrap(), [process.pid()]);
    }
}

#[test]
fn the_cgroup_we_are_in_is_never_listed() {
    let process = Idle::new();
    let cgroup = Cgroup::of_pid(process.pid()).unwrap();
    assert!(cgroup.is_shared_with_us());
    assert_eq!(cgroup.dir("memory"), None);
    let err = cgroup.procs().unwrap_err();
    assert_eq!(err.code, Code::FailedPrecondition);
}

#[test]
fn a_process_that_is_gone_has_no_cgroup() {
    let process = Idle::new();
    let pid = process.pid();
    drop(process);
    let err = Cgroup::of_pid(pid).unwrap_err();
    assert_eq!(err.code, Code::NotFound, "{err}");
}

#[test]
fn a_process_is_added_wherever_the_path_exists() {
    let own = Cgroup::of_pid(Pid::this()).unwrap();
    let v2 = own.version() == Version::V2;
    let mounts = mountinfo::read(|entry| {
        let wanted = if v2 {
            entry.fs_type == "cgroup2"
        } else {
            entry.fs_type == "cgroup" && (has(&entry, "pids") || has(&entry, "freezer"))
        };
        wanted.then_some(entry)
    })
    .unwrap();
    let name = name();
    let path = format!("/{name}/inner");
    let process = Idle::new();

    let missing = add_process(&path, process.pid()).unwrap_err();
    assert_eq!(missing.code, Code::NotFound, "{missing}");

    let parents: Vec<_> = mounts
        .iter()
        .map(|entry| Group::new(entry.mount_point.join(&name)))
        .collect();
    let groups: Vec<_> = parents
        .iter()
        .map(|parent| Group::new(parent.0.join("inner")))
        .collect();
    add_process(&path, process.pid()).unwrap();
    let of = process.proc_cgroup();
    let inside = of.lines().filter(|line| line.ends_with(&path)).count();
    assert_eq!(inside, groups.len(), "{of}");

    drop(process);
    drop(groups);
    drop(parents);
}
