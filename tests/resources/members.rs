//! Who is in a container, wherever the kernel has its processes listed: in a cgroup that is gone, moved, hidden
//! or threaded, or in thousands of them.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cotter::manager::dialect::Dialect;
use cotter::manager::request;
use cotter::manager::spec::Spec;
use cotter::mount::mountinfo;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{eventually, eventually_some, signal, unique};
use crate::{cgroup, is_delete, stats};

const FOREVER: [&str; 2] = ["sleep", "1000"];
const CHILD: &str = "sleep 1000 & wait";

/// What Pids names, each with the exec that it is.
async fn named(shim: &Shim, id: &str) -> BTreeSet<(u32, String)> {
    let answer = shim.tasks.pids(&request::pids(id)).await.unwrap();
    let of = |info: &cotter::proto::task::ProcessInfo| {
        let details = info.info.as_ref().map(|any| any.value.clone());
        let exec = details.map(|value| {
            use protobuf::Message;
            cotter::proto::runc_options::ProcessDetails::parse_from_bytes(&value)
                .unwrap()
                .exec_id
        });
        (info.pid, exec.unwrap_or_default())
    };
    answer.processes.iter().map(of).collect()
}

/// The one child of a process, once it is there.
fn child(of: u32) -> u32 {
    eventually_some("it has a child", || {
        let list = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap();
        list.split_whitespace().next()?.parse().ok()
    })
}

/// Container `c` with a child of its init and of an exec `x`, and a healthy neighbour `n`; what Pids is to
/// name of each.
struct Family {
    shim: Shim,
    ours: BTreeSet<(u32, String)>,
    neighbours: BTreeSet<(u32, String)>,
}

impl Family {
    async fn new(runtime: &str, host_pids: bool, cgroups_path: Option<&str>) -> Self {
        let spec = |id: &str, args: &[&str]| {
            let mut spec = Spec::new(id, args.iter().copied());
            spec.host_pids = host_pids;
            if let Some(path) = cgroups_path {
                spec.cgroups_path = format!("{path}/{id}");
            }
            spec
        };
        let first = spec("c", &["sh", "-c", CHILD]);
        let mut shim = Shim::start_as(Dialect::Proto23, runtime, first, "c").await;
        let init = shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        let exec = shim.exec("c", "x", &["sh", "-c", CHILD]).await.unwrap();
        shim.bundle("n", spec("n", &FOREVER));
        let other = shim.create("n").await.unwrap();
        shim.start_process("n", "").await.unwrap();
        let none = String::new;
        Self {
            shim,
            ours: [
                (init, none()),
                (child(init), none()),
                (exec, "x".into()),
                (child(exec), none()),
            ]
            .into(),
            neighbours: [(other, none())].into(),
        }
    }

    fn init(&self) -> u32 {
        let exec = self.ours.iter().find(|(_, exec)| exec == "x").unwrap().0;
        let of_init = |pid: &u32| {
            let children = format!("/proc/{pid}/task/{pid}/children");
            *pid != exec && !fs::read_to_string(children).unwrap().trim().is_empty()
        };
        self.ours.iter().map(|(pid, _)| *pid).find(of_init).unwrap()
    }

    async fn is_whole(&self, what: &str) {
        assert_eq!(named(&self.shim, "c").await, self.ours, "{what}");
        assert_eq!(named(&self.shim, "n").await, self.neighbours, "{what}");
    }

    /// Ends both, as clients do, and the shim.
    async fn end(mut self) {
        assert_eq!(self.shim.remove("c").await.exit_status, 137);
        self.shim.events_until(is_delete).await;
        let still = named(&self.shim, "n").await;
        assert_eq!(still, self.neighbours);
        self.shim
            .exec("n", "y", &["sh", "-c", "exit 7"])
            .await
            .unwrap();
        assert_eq!(self.shim.wait("n", "y").await.unwrap().exit_status, 7);
        assert_eq!(self.shim.remove("n").await.exit_status, 137);
        self.shim.end().await;
    }
}

/// Where a process is, in every hierarchy where the shim is not: the mount point and its cgroup's directory.
fn places(pid: u32) -> Vec<(PathBuf, PathBuf)> {
    let read = |of: &str| fs::read_to_string(format!("/proc/{of}/cgroup")).unwrap();
    let (of, own) = (read(&pid.to_string()), read("self"));
    let apart = of
        .lines()
        .filter(|line| !own.lines().any(|own| own == *line));
    let find = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap(), fields.next().unwrap());
        let is_it = |entry: &mountinfo::Entry| match controllers {
            "" => entry.fs_type == "cgroup2",
            name => entry.fs_type == "cgroup" && entry.super_options.split(',').any(|o| o == name),
        };
        let usual = |entry: &mountinfo::Entry| entry.mount_point.starts_with("/sys/fs/cgroup");
        let found = mountinfo::read(|entry| (is_it(&entry) && usual(&entry)).then_some(entry));
        let at = found.unwrap().pop().unwrap().mount_point;
        let dir = at.join(&path[1..]);
        (at, dir)
    };
    apart.map(find).collect()
}

/// Cgroups of a test's own, removed at its end with who is left in them: of a container in the host's pid
/// namespace whose cgroup is gone, no runtime finds the processes.
struct Cgroups(Vec<PathBuf>);

impl Drop for Cgroups {
    fn drop(&mut self) {
        for dir in &self.0 {
            let left = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            for pid in left.lines().filter_map(|pid| pid.parse().ok()) {
                signal(pid, "KILL");
            }
            for _ in 0..50 {
                match fs::remove_dir(dir) {
                    Err(why) if why.raw_os_error() == Some(libc::EBUSY) => {
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                    _ => break,
                }
            }
        }
    }
}

#[test]
fn moved_elsewhere_and_its_cgroup_removed() {
    for (runtime, host_pids) in [
        (RUNTIMES[0], false),
        (RUNTIMES[1], false),
        (RUNTIMES[0], true),
    ] {
        run(async {
            let family = Family::new(runtime, host_pids, None).await;
            family.is_whole("before").await;
            let mut made = Cgroups(Vec::new());
            let name = unique("cotter-moved");
            for (at, dir) in places(family.init()) {
                let elsewhere = at.join(&name);
                fs::create_dir(&elsewhere).unwrap();
                made.0.push(elsewhere.clone());
                if at.join("cpuset.mems").exists() {
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        fs::copy(dir.join(file), elsewhere.join(file)).unwrap();
                    }
                }
                for (pid, _) in &family.ours {
                    fs::write(elsewhere.join("cgroup.procs"), pid.to_string()).unwrap();
                }
                eventually("its cgroup is gone", || fs::remove_dir(&dir).is_ok());
            }
            // A stranger in the same place is none of the container's.
            let mut stranger = std::process::Command::new("sleep")
                .arg("1000")
                .spawn()
                .unwrap();
            fs::write(made.0[0].join("cgroup.procs"), stranger.id().to_string()).unwrap();
            family.is_whole(runtime).await;
            family.end().await;
            stranger.kill().unwrap();
            stranger.wait().unwrap();
        });
    }
}

/// A mount namespace of this test's thread and of what it starts, with cgroup v2 over whatever is where
/// cgroups usually are. Answers the runtimes that this can be tried with: crun needs more privileges on v2
/// than a machine of v1 may give, so there it is left to the machine that has v2 alone.
fn cover_with_v2() -> &'static [&'static str] {
    let v2_alone = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let (none, flags) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, flags, none).unwrap();
    let usual = "/sys/fs/cgroup";
    // The kernel mounts nothing over itself.
    for kind in ["tmpfs", "cgroup2"] {
        mount(Some(kind), usual, Some(kind), MsFlags::empty(), none).unwrap();
    }
    if v2_alone { &RUNTIMES } else { &RUNTIMES[..1] }
}

#[test]
fn where_v2_was_mounted_over_what_was_there() {
    for runtime in cover_with_v2() {
        run(async {
            let family = Family::new(runtime, false, None).await;
            family.is_whole(runtime).await;
            // And so are its figures, as far as there are any.
            assert!(stats(&family.shim.tasks, "c").await.is_ok());
            family.end().await;
        });
    }
}

#[test]
fn in_a_threaded_cgroup() {
    for runtime in cover_with_v2() {
        run(async {
            let path = format!("/{}", unique("cotter-threaded"));
            let top = Path::new("/sys/fs/cgroup").join(&path[1..]);
            let made = Cgroups(vec![top.join("thread"), top.clone()]);
            fs::create_dir_all(&made.0[0]).unwrap();
            fs::write(made.0[0].join("cgroup.type"), "threaded").unwrap();
            let kind = |dir: &Path| fs::read_to_string(dir.join("cgroup.type")).unwrap();
            assert_eq!(kind(&top), "domain threaded\n");
            let family = Family::new(runtime, false, Some(&path)).await;
            assert_eq!(kind(&top.join("c")), "threaded\n");
            family.is_whole(runtime).await;
            family.end().await;
            drop(made);
        });
    }
}

/// How many cgroups a container has made in this test.
const MANY: usize = 3_000;

/// What the container made below its cgroup, whose paths are too long to be one, removed at the end.
struct Tree {
    top: PathBuf,
    many: usize,
    deep: Vec<OwnedFd>,
}

impl Tree {
    fn new(top: PathBuf, many: usize, depth: usize) -> Self {
        for n in 0..many {
            fs::create_dir(top.join(n.to_string())).unwrap();
        }
        let open = |dir: &OwnedFd, name: &str| {
            let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            openat(dir, name, flags, Mode::empty()).unwrap()
        };
        let mut deep = vec![fs::File::open(&top).unwrap().into()];
        for _ in 0..depth {
            let last: &OwnedFd = deep.last().unwrap();
            mkdirat(last, LONG.as_str(), Mode::S_IRWXU).unwrap();
            deep.push(open(last, &LONG));
        }
        Self { top, many, deep }
    }

    /// Moves a process into the lowest one.
    fn take(&self, pid: u32) {
        let lowest = self.deep.last().unwrap();
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let procs = openat(lowest, "cgroup.procs", flags, Mode::empty()).unwrap();
        nix::unistd::write(&procs, pid.to_string().as_bytes()).unwrap();
    }

    fn give_back(&self, pid: u32) {
        fs::write(self.top.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        while self.deep.pop().is_some() {
            if let Some(parent) = self.deep.last() {
                let _ = unlinkat(parent, LONG.as_str(), UnlinkatFlags::RemoveDir);
            }
        }
        for n in 0..self.many {
            let _ = fs::remove_dir(self.top.join(n.to_string()));
        }
    }
}

static LONG: LazyLock<String> = LazyLock::new(|| "x".repeat(190));

/// State answers while Pids is read, and Pids is complete. Counted is what is answered meanwhile, not how long
/// that takes; and it is tried again on a machine that gives this test or the shim no time.
#[test]
fn thousands_of_cgroups_and_one_without_a_path_hold_nobody_up() {
    for runtime in RUNTIMES {
        run(async {
            let family = Family::new(runtime, false, None).await;
            let init = family.init();
            let top = cgroup(init);
            let top = top.dir("pids").or(top.dir("")).unwrap().to_owned();
            let tree = Tree::new(top, MANY, 25);
            let deep = child(init);
            tree.take(deep);
            let mut answered = 0;
            for _ in 0..5 {
                let (tasks, request) = (family.shim.tasks.clone(), request::pids("c"));
                let pids = tokio::spawn(async move { tasks.pids(&request).await.map(drop) });
                let mut meanwhile = 0;
                while !pids.is_finished() {
                    family.shim.state("n", "").await.unwrap();
                    meanwhile += usize::from(!pids.is_finished());
                }
                pids.await.unwrap().unwrap();
                answered = answered.max(meanwhile);
                if answered >= 10 {
                    break;
                }
            }
            assert!(
                answered >= 10,
                "{runtime}: {answered} were answered meanwhile"
            );
            family.is_whole(runtime).await;
            tree.give_back(deep);
            drop(tree);
            family.end().await;
        });
    }
}
