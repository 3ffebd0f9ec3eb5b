//! Cgroups of real processes, on whatever hierarchies this machine has. Needs root.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::io::{BufRead, BufReader};
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
        let gone = inner.procs().unwrap_err();
        assert_eq!(gone.code, Code::NotFound, "{gone}");
        assert!(
            gone.message.contains("/below: it is not there any more"),
            "{gone}"
        );
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

/// The v2 hierarchy, which any machine has, and its line of the mount table: without v1's.
fn v2_alone() -> (PathBuf, String) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(" - cgroup2 "));
    let line = format!("{}\n", line.unwrap());
    let entry = mountinfo::parse_line(line.trim_end().as_bytes()).unwrap();
    (entry.mount_point, line)
}

fn on_v2(process: &Idle, line: &str) -> Cgroup {
    let own = fs::read("/proc/self/cgroup").unwrap();
    Cgroup::from_text(process.proc_cgroup().as_bytes(), &own, line.as_bytes()).unwrap()
}

/// The variable with which a test runs itself to be a process of some threads.
const THREADS: &str = "COTTER_TEST_THREADS";

fn threaded(dir: &Path) {
    fs::write(dir.join("cgroup.type"), "threaded").unwrap();
}

#[test]
fn threads_of_a_threaded_cgroup_are_mapped_to_their_processes() {
    if std::env::var_os(THREADS).is_some() {
        thread::spawn(|| {
            println!("{THREADS}");
            loop {
                thread::park();
            }
        });
        loop {
            thread::park();
        }
    }
    let (v2, line) = v2_alone();
    let domain = Group::new(v2.join(name()));
    let top = Group::new(domain.0.join("top"));
    let below = Group::new(top.0.join("below"));
    threaded(&top.0);
    threaded(&below.0);
    let first = Idle::new();
    first.join(&domain.0);
    first.join(&top.0);
    let mut many = Command::new(std::env::current_exe().unwrap());
    let test = "threads_of_a_threaded_cgroup_are_mapped_to_their_processes";
    let many = many.args(["--exact", test, "--nocapture"]).env(THREADS, "");
    let mut many = Idle(many.stdout(Stdio::piped()).spawn().unwrap());
    let said = BufReader::new(many.0.stdout.take().unwrap());
    assert!(said.lines().any(|line| line.unwrap().ends_with(THREADS)));
    many.join(&domain.0);
    many.join(&top.0);
    let tasks = fs::read_dir(format!("/proc/{}/task", many.pid())).unwrap();
    let thread = tasks.map(|task| task.unwrap().file_name()).max().unwrap();
    assert_ne!(thread.to_str().unwrap(), many.pid().to_string());
    fs::write(below.0.join("cgroup.threads"), thread.as_encoded_bytes()).unwrap();

    let mut both = vec![first.pid(), many.pid()];
    both.sort_unstable();
    let cgroup = on_v2(&first, &line);
    assert_eq!(cgroup.dir(""), Some(top.0.as_path()));
    assert_eq!(cgroup.procs().unwrap(), both, "a threaded one");
    fs::write(domain.0.join("cgroup.procs"), first.pid().to_string()).unwrap();
    let whole = on_v2(&first, &line);
    assert_eq!(whole.dir(""), Some(domain.0.as_path()));
    assert_eq!(whole.procs().unwrap(), both, "the domain above it");
    fs::write(below.0.join("cgroup.threads"), first.pid().to_string()).unwrap();
    let lowest = on_v2(&first, &line);
    assert_eq!(lowest.dir(""), Some(below.0.as_path()));
    assert_eq!(lowest.procs().unwrap(), both, "one that a thread is in");
    drop((first, many));
    assert_eq!(lowest.procs().unwrap(), []);
}

/// Makes cgroups below each other by descriptors, since their path is too long to be one; the lowest first in
/// what is returned, to be removed.
fn deep(top: &Path, depth: usize) -> Vec<std::os::fd::OwnedFd> {
    use nix::fcntl::{OFlag, open, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let long = "x".repeat(190);
    let mut all = vec![open(top, OFlag::O_DIRECTORY, Mode::empty()).unwrap()];
    for _ in 0..depth {
        let last = all.last().unwrap();
        mkdirat(last, &*long, Mode::S_IRWXU).unwrap();
        all.push(openat(last, &*long, OFlag::O_DIRECTORY, Mode::empty()).unwrap());
    }
    all
}

fn remove_deep(mut all: Vec<std::os::fd::OwnedFd>) {
    use nix::unistd::{UnlinkatFlags, unlinkat};
    let long = "x".repeat(190);
    while all.pop().is_some() {
        let Some(parent) = all.last() else { return };
        while unlinkat(parent, &*long, UnlinkatFlags::RemoveDir) == Err(nix::Error::EBUSY) {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn the_deepest_cgroup_is_read_where_no_path_leads() {
    for hierarchy in hierarchies() {
        let top = Group::new(hierarchy.mount_point.join(name()));
        let first = Idle::new();
        first.join(&top.0);
        let all = deep(&top.0, 25);
        let lowest = Idle::new();
        let flags = nix::fcntl::OFlag::O_WRONLY;
        let mode = nix::sys::stat::Mode::empty();
        let procs = nix::fcntl::openat(all.last().unwrap(), "cgroup.procs", flags, mode).unwrap();
        nix::unistd::write(&procs, lowest.pid().to_string().as_bytes()).unwrap();
        drop(procs);
        // Beside it, so that there is a way back.
        let beside = Group::new(top.0.join("beside"));
        let other = Idle::new();
        other.join(&beside.0);
        let cgroup = Cgroup::of_pid(first.pid()).unwrap();
        let mut expected = vec![first.pid(), lowest.pid(), other.pid()];
        expected.sort_unstable();
        let found = cgroup.procs();
        let until = cgroup.procs_until(|| true).unwrap();
        drop((first, lowest, other));
        remove_deep(all);
        assert_eq!(found.unwrap(), expected);
        assert_eq!(until.whole.unwrap_err().code, Code::DeadlineExceeded);
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

/// The variable with which a test runs itself in a mount namespace of its own.
const MOUNTS: &str = "COTTER_TEST_MOUNTS";
/// How many mounts there are in it: reading their table takes some slices on the fastest machine.
const MANY: usize = 5_000;

#[test]
fn a_table_of_many_mounts_is_read_in_slices() {
    let test = "a_table_of_many_mounts_is_read_in_slices";
    let Some(dir) = std::env::var_os(MOUNTS) else {
        let dir = std::env::temp_dir().join(name());
        fs::create_dir(&dir).unwrap();
        let mut again = Command::new("unshare");
        again.arg("-m").arg(std::env::current_exe().unwrap());
        again
            .args(["--exact", test, "--nocapture"])
            .env(MOUNTS, &dir);
        let done = again.output().unwrap();
        fs::remove_dir(&dir).unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success() && said.contains("1 passed"),
            "{done:?}"
        );
        return;
    };
    let (dir, none) = (Path::new(&dir), None::<&str>);
    // All go with it.
    nix::mount::mount(none, dir, Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
    for n in 0..MANY {
        let place = dir.join(n.to_string());
        fs::create_dir(&place).unwrap();
        nix::mount::mount(Some(dir), &place, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
    }
    assert!(mountinfo::read(Some).unwrap().len() > MANY);
    let process = Idle::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let (found, turns) = runtime.unwrap().block_on(async {
        let count = std::rc::Rc::new(std::cell::Cell::new(0));
        let others = std::rc::Rc::clone(&count);
        let local = tokio::task::LocalSet::new();
        local.spawn_local(async move {
            loop {
                others.set(others.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        let found = local.run_until(Cgroup::locate(process.pid())).await;
        (found.unwrap(), count.get())
    });
    assert_eq!(found, Cgroup::of_pid(process.pid()).unwrap());
    assert!(turns >= 4, "others had {turns} turns");
}
