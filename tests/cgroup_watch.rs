//! Watches of cgroup files: each change is told to those who watch that file and to nobody else, many
//! watches cost one descriptor, and none is lost when that one cannot be read. What is watched is `cgroup.events` of cgroup v2, which any Linux has.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cotter::cgroup::{Watch, Watcher};
use tokio::time::timeout;

/// As many as need an inotify instance, and some.
const MANY: usize = 8;
/// The variable with which a test runs itself, in namespaces of its own.
const ROOT: &str = "COTTER_TEST_CGROUP2";

/// Runs the test of that name again, with a cgroup2 of its own to look at.
fn again(test: &str, namespaces: &str, first: &str) {
    let root = std::env::temp_dir().join(format!("cotter-cgroup2-{}-{test}", std::process::id()));
    fs::create_dir_all(&root).unwrap();
    let script = format!("mount -t cgroup2 cgroup2 \"${ROOT}\" && {first} exec \"$0\" \"$@\"");
    let mut unshare = Command::new("unshare");
    unshare.args([namespaces, "sh", "-c", &script]);
    unshare.arg(std::env::current_exe().unwrap());
    unshare.args(["--exact", test, "--nocapture"]);
    let status = unshare.env(ROOT, &root).status().unwrap();
    fs::remove_dir(&root).unwrap();
    assert!(status.success(), "{status}");
}

/// A cgroup in which a process can come and go.
#[derive(Debug)]
struct Group(PathBuf);

impl Group {
    fn new(n: usize) -> Self {
        let root = PathBuf::from(std::env::var_os(ROOT).unwrap());
        let dir = root.join(format!("cotter-watch-{}-{n}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn events(&self) -> PathBuf {
        self.0.join("cgroup.events")
    }

    /// Changes `cgroup.events` twice: a process comes, and goes.
    fn change(&self) {
        let procs = self.0.join("cgroup.procs");
        let mut join = Command::new("sh");
        join.args(["-c", "echo $$ >\"$0\""]).arg(procs);
        assert!(join.stdin(Stdio::null()).status().unwrap().success());
        let empty = || {
            let text = fs::read_to_string(self.events()).unwrap();
            text.contains("populated 0")
        };
        while !empty() {
            std::thread::yield_now();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

/// The descriptors of this process and what they are.
fn open_files() -> Vec<(RawFd, PathBuf)> {
    let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let file = |fd: fs::DirEntry| {
        let number = fd.file_name().to_str()?.parse().ok()?;
        Some((number, fs::read_link(fd.path()).ok()?))
    };
    all.filter_map(file).collect()
}

/// Those of inotify.
fn instances() -> Vec<RawFd> {
    let all = open_files().into_iter();
    let instances = all.filter(|(_, to)| to == Path::new("anon_inode:inotify"));
    instances.map(|(fd, _)| fd).collect()
}

fn descriptors() -> (usize, usize) {
    let all = open_files();
    let watched = ["cgroup.events", "cgroup.stat"];
    let files = all
        .iter()
        .filter(|(_, to)| watched.iter().any(|name| to.ends_with(name)));
    (files.count(), instances().len())
}

async fn told(watch: &mut Watch) -> bool {
    timeout(Duration::from_secs(30), watch.changed())
        .await
        .is_ok_and(|word| word == Ok(true))
}

/// Takes the words that are on their way, and answers whether there were any.
async fn told_anything(watch: &mut Watch) -> bool {
    timeout(Duration::from_millis(100), watch.changed())
        .await
        .is_ok()
}

/// Of [`MANY`] files, and one that is watched twice, with that many descriptors of files and of inotify.
async fn all_are_told(files: usize, inotify: usize) {
    let watcher = Watcher::default();
    let groups: Vec<Group> = (0..MANY).map(Group::new).collect();
    let mut watches: Vec<Watch> = groups
        .iter()
        .map(|group| watcher.watch(&group.events()).unwrap())
        .collect();
    assert_eq!(descriptors(), (files, inotify));
    for n in 0..MANY {
        groups[n].change();
        assert!(told(&mut watches[n]).await, "{n}");
        while told_anything(&mut watches[n]).await {}
        for (other, watch) in watches.iter_mut().enumerate() {
            assert!(!told_anything(watch).await, "{other} is told of {n}");
        }
    }
    // A container that shares its cgroup with another one.
    let last = groups.last().unwrap();
    let mut twin = watcher.watch(&last.events()).unwrap();
    last.change();
    assert!(told(&mut twin).await);
    drop(watches.pop());
    while told_anything(&mut twin).await {}
    last.change();
    assert!(
        told(&mut twin).await,
        "the other one's watch took this one along"
    );
    let error = watcher
        .watch(Path::new("/nowhere/cgroup.events"))
        .unwrap_err();
    assert_eq!(error.message.lines().count(), 1);
    assert!(
        error.message.starts_with("watch /nowhere/cgroup.events: "),
        "{error}"
    );
    drop((watches, twin));
    tokio::task::yield_now().await;
    assert_eq!(descriptors(), (0, 0));
}

fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(test);
}

/// What 1 to 100 containers cost, each with the two files that a shim watches on v2.
async fn of_containers() {
    let watcher = Watcher::default();
    let (mut groups, mut watches) = (Vec::new(), Vec::new());
    for (containers, cost) in [
        (1, (2, 0)),
        (2, (4, 0)),
        (3, (6, 0)),
        (4, (6, 1)),
        (10, (6, 1)),
        (50, (6, 1)),
        (100, (6, 1)),
    ] {
        for n in groups.len()..containers {
            let group = Group::new(n);
            for file in [group.events(), group.0.join("cgroup.stat")] {
                watches.push(watcher.watch(&file).unwrap());
            }
            groups.push(group);
        }
        let (files, instances) = descriptors();
        eprintln!("{containers:>3} containers: {files} files, {instances} instances of inotify");
        assert_eq!((files, instances), cost, "{containers}");
    }
    // The first and the last one's.
    for n in [0, 99] {
        groups[n].change();
        assert!(told(&mut watches[2 * n]).await, "{n}");
    }
    drop(watches);
    tokio::task::yield_now().await;
    assert_eq!(descriptors(), (0, 0));
}

/// Takes the instance from under its reader: its number is that of a file that cannot be read, and the event
/// loop goes on telling of it, since what it tells of is what the number stood for: that is returned.
fn lost_instance() -> OwnedFd {
    let instance = instances()[0];
    let unreadable = fs::OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .unwrap();
    // SAFETY: the number stays open all the time, and whoever owns it goes on owning it.
    unsafe {
        let kept = nix::unistd::dup(BorrowedFd::borrow_raw(instance)).unwrap();
        let _same = nix::unistd::dup2_raw(&unreadable, instance)
            .unwrap()
            .into_raw_fd();
        kept
    }
}

/// It fails: what it watched is polled, and who comes later has a new one.
async fn an_instance_fails() {
    let watcher = Watcher::default();
    let groups: Vec<Group> = (0..MANY + 1).map(Group::new).collect();
    let mut watches: Vec<Watch> = groups[..MANY]
        .iter()
        .map(|group| watcher.watch(&group.events()).unwrap())
        .collect();
    let (last, later) = (&groups[MANY - 1], &groups[MANY]);
    // It runs.
    last.change();
    assert!(told(&mut watches[MANY - 1]).await);
    while told_anything(&mut watches[MANY - 1]).await {}

    let kept = lost_instance();
    last.change();
    assert!(told(&mut watches[MANY - 1]).await, "it waits for ever");
    drop(kept);
    assert_eq!(instances(), [0; 0]);

    // While others still have the one that failed.
    let mut new = watcher.watch(&later.events()).unwrap();
    assert_eq!(instances().len(), 1);
    later.change();
    assert!(
        told(&mut new).await,
        "it is the watch of a reader that is dead"
    );

    for (n, watch) in watches.iter_mut().enumerate() {
        while told_anything(watch).await {}
        groups[n].change();
        assert!(told(watch).await, "{n}");
    }
    assert_eq!(descriptors(), (MANY, 1));
    drop((watches, new));
    tokio::task::yield_now().await;
    assert_eq!(descriptors(), (0, 0));
}

/// One watch cannot be polled instead, which is an error with its path; another one's cgroup goes, which is none.
async fn nothing_is_left() {
    let watcher = Watcher::default();
    let mut groups: Vec<Group> = (0..MANY).map(Group::new).collect();
    let mut watches: Vec<Watch> = groups
        .iter()
        .map(|group| watcher.watch(&group.events()).unwrap())
        .collect();
    let lost = groups[MANY - 1].events();
    let (null, bind) = (Some("/dev/null"), nix::mount::MsFlags::MS_BIND);
    nix::mount::mount(null, &lost, None::<&str>, bind, None::<&str>).unwrap();
    let kept = lost_instance();
    groups[MANY - 2].change();
    for (n, group) in groups.iter().enumerate().skip(MANY - 2) {
        let changed = timeout(Duration::from_secs(30), watches[n].changed()).await;
        match n {
            // It is polled from now on.
            n if n == MANY - 2 => assert_eq!(changed.unwrap(), Ok(true)),
            _ => {
                let error = changed.unwrap().unwrap_err();
                let why = format!(
                    "watch {} any longer: operation not permitted",
                    lost.display()
                );
                assert!(error.message.starts_with(&why), "{error} {group:?}");
            }
        }
    }
    drop(kept);
    nix::mount::umount(&lost).unwrap();
    // Of one that is gone nothing is wrong, for whoever comes to look.
    let first = groups.remove(0);
    first.change();
    drop(first);
    let changed = timeout(Duration::from_secs(30), watches[0].changed()).await;
    assert_eq!(changed.unwrap(), Ok(false));
}

#[test]
fn six_files_are_polled_and_all_others_cost_one_descriptor() {
    match std::env::var_os(ROOT) {
        Some(_) => run(all_are_told(6, 1)),
        None => again(
            "six_files_are_polled_and_all_others_cost_one_descriptor",
            "-m",
            "",
        ),
    }
}

#[test]
fn where_no_inotify_is_left_all_files_are_polled() {
    match std::env::var_os(ROOT) {
        Some(_) => run(all_are_told(MANY, 0)),
        None => again(
            "where_no_inotify_is_left_all_files_are_polled",
            "-UrmC",
            "echo 0 >/proc/sys/user/max_inotify_instances &&",
        ),
    }
}

#[test]
fn where_inotify_cannot_be_read_its_files_are_polled() {
    match std::env::var_os(ROOT) {
        Some(_) => run(an_instance_fails()),
        None => again(
            "where_inotify_cannot_be_read_its_files_are_polled",
            "-m",
            "",
        ),
    }
}

#[test]
fn what_cannot_be_polled_either_is_an_error() {
    match std::env::var_os(ROOT) {
        Some(_) => run(nothing_is_left()),
        None => again("what_cannot_be_polled_either_is_an_error", "-m", ""),
    }
}

#[test]
fn a_hundred_containers_cost_seven_descriptors() {
    match std::env::var_os(ROOT) {
        Some(_) => run(of_containers()),
        None => again("a_hundred_containers_cost_seven_descriptors", "-m", ""),
    }
}
