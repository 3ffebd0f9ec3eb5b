//! What a shim costs: one thread, no wake-ups while nothing happens, and after any number of
//! containers, execs, abandoned calls and dropped connections the descriptors, children, threads and
//! memory of before.
//!
//! The bounds hold for a debug build; only what grows or wakes is judged strictly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use cotter::cgroup::Version;
use cotter::error::Code;
use cotter::manager::client::Tasks;
use cotter::manager::events::Event;
use cotter::manager::request;
use cotter::manager::spec::Spec;
use cotter::proto::task::WaitRequest;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use common::LIMIT;
use common::shim::{RUNTIMES, Shim, each, run};

/// Private memory with one container at rest, and what may be added after a burst, in KiB.
const FIRST: u64 = 1000;
/// Stacks of a debug build are most of it.
const GROWN: u64 = 400;
/// What each further container may add, in bytes, and on how many it is measured.
const EACH: u64 = 8000;
const FURTHER: usize = 50;

/// What /proc tells of a process that is to be the same again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Footprint {
    fds: Vec<String>,
    threads: usize,
    children: Vec<String>,
}

fn count(dir: &str) -> usize {
    fs::read_dir(dir).unwrap().count()
}

impl Footprint {
    fn of(pid: u32) -> Self {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        Self {
            fds: common::descriptors(pid),
            threads: count(&format!("/proc/{pid}/task")),
            children: children.split_whitespace().map(str::to_owned).collect(),
        }
    }

    /// Waits until the process is back to this.
    async fn again(&self, pid: u32) {
        let begun = Instant::now();
        loop {
            let now = Self::of(pid);
            if now == *self {
                return;
            }
            assert!(
                begun.elapsed() < LIMIT / 4,
                "not as before:\n{self:#?}\nnow:\n{now:#?}"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Private memory in KiB that is not a file's: heap and stacks.
fn anonymous(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Anonymous:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

/// How often the process has gone to sleep. That others took the processor from it is no wake-up of its own.
fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |dir: fs::DirEntry| {
        let status = fs::read_to_string(dir.path().join("status")).unwrap();
        let counts = status
            .lines()
            .filter(|line| line.starts_with("voluntary_ctxt_switches"));
        counts
            .map(|line| {
                line.split_whitespace()
                    .nth(1)
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
            })
            .sum::<u64>()
    };
    tasks.map(|task| of_task(task.unwrap())).sum()
}

/// Waits until the process has done nothing for longer than it takes to give memory back after work;
/// answers its switches so far.
async fn rested(pid: u32) -> u64 {
    let begun = Instant::now();
    let mut last = switches(pid);
    loop {
        sleep(Duration::from_secs(1)).await;
        let before = std::mem::replace(&mut last, switches(pid));
        if before == last {
            return last;
        }
        assert!(begun.elapsed() < LIMIT, "it does not come to rest");
    }
}

/// Runs an exec with three streams to its end.
async fn exec(shim: &Shim, id: &str, name: &str) {
    let fifos = shim.fifos(&format!("{id}-{name}"), true);
    let _readers = [&fifos.stdout, &fifos.stderr]
        .map(|path| pipe::OpenOptions::new().open_receiver(path).unwrap());
    shim.exec_with(id, name, &["true"], &fifos).await.unwrap();
    assert_eq!(shim.wait(id, name).await.unwrap().exit_status, 0);
    shim.delete(id, name).await.unwrap();
    for path in [&fifos.stdin, &fifos.stdout, &fifos.stderr] {
        fs::remove_file(path).unwrap();
    }
}

/// Runs a container with three streams and an exec to its end.
async fn container(shim: &mut Shim, id: &str) {
    shim.bundle(id, Spec::new(id, ["sleep", "1000"]));
    let fifos = shim.fifos(id, true);
    shim.create_with(id, &fifos).await.unwrap();
    shim.start_process(id, "").await.unwrap();
    exec(shim, id, "x").await;
    shim.remove(id).await;
}

#[test]
fn cycles_leave_nothing_behind() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            let pid = shim.pid();
            container(&mut shim, "c").await;
            let empty = Footprint::of(pid);
            assert_eq!(empty.threads, 1);
            assert_eq!(empty.children, [""; 0]);

            shim.create("c").await.unwrap();
            let init = shim.start_process("c", "").await.unwrap();
            let base = Footprint::of(pid);
            assert_eq!(base.threads, 1);
            assert_eq!(base.children, [init.to_string()]);
            for n in 0..50 {
                exec(&shim, "c", &format!("w{n}")).await;
            }
            rested(pid).await;
            let memory = anonymous(pid);
            for n in 0..150 {
                exec(&shim, "c", &format!("x{n}")).await;
            }
            base.again(pid).await;
            for n in 0..20 {
                container(&mut shim, &format!("d{n}")).await;
            }
            base.again(pid).await;
            rested(pid).await;
            let grown = anonymous(pid).saturating_sub(memory);
            assert!(grown <= 256, "{grown} KiB more than {memory}");
            shim.remove("c").await;
            empty.again(pid).await;
            shim.end().await;
        });
    }
}

/// A tenth of what `make chaos` does; many at once, as subscribers and runtime calls are then many.
#[test]
fn a_thousand_execs_and_fifty_containers_leave_nothing_behind() {
    run(async {
        let mut shim = Shim::start(RUNTIMES[1], "c", &["sleep", "1000"]).await;
        let pid = shim.pid();
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        let dir = shim.bundle_path("c");
        let bundle = || common::census::entries(&dir);
        let (base, files) = (Footprint::of(pid), bundle());
        let many = async |shim: &Shim, name: &str, count: usize| {
            each(8, 0..count, |n| {
                let name = format!("{name}{n}");
                async move {
                    shim.exec("c", &name, &["true"]).await.unwrap();
                    assert_eq!(shim.wait("c", &name).await.unwrap().exit_status, 0);
                    shim.delete("c", &name).await.unwrap();
                }
            })
            .await;
        };
        // As with the abandoned calls below: what is left behind adds up in every round.
        let mut memory = Vec::new();
        for round in 0..5 {
            many(&shim, &format!("x{round}-"), 200).await;
            // What waits to be told is not left behind.
            let mut exits = 0;
            while exits < 200 {
                let exit = |e: &Event| matches!(e, Event::Exit(_));
                shim.events_until(exit).await;
                exits += 1;
            }
            rested(pid).await;
            memory.push(anonymous(pid));
        }
        let grows = memory.windows(2).all(|pair| pair[1] > pair[0] + 32);
        assert!(!grows, "KiB, 200 execs each: {memory:?}");
        let memory = anonymous(pid);
        base.again(pid).await;
        assert_eq!(bundle(), files);
        for n in 0..50 {
            let id = format!("d{n}");
            shim.run(&id, &["sleep", "1000"]).await;
            shim.remove(&id).await;
        }
        base.again(pid).await;
        rested(pid).await;
        let grown = anonymous(pid).saturating_sub(memory);
        assert!(grown <= 256, "{grown} KiB more than {memory}");
        shim.remove("c").await;
        shim.end().await;
    });
}

/// Connections that end in the middle of a frame, and before one.
#[test]
fn connections_that_are_abandoned_leave_nothing_behind() {
    run(async {
        let shim = Shim::start(RUNTIMES[1], "c", &["sleep", "1000"]).await;
        let pid = shim.pid();
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        let base = Footprint::of(pid);
        // ttrpc: length 64, stream 1, a request; then less than it promises.
        let frame = [&[0, 0, 0, 64, 0, 0, 0, 1, 1, 0][..], &[10; 20]].concat();
        let abandon = async || {
            for n in 0..1000 {
                let path = shim.endpoint.socket();
                let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
                let part = &frame[..n % frame.len()];
                stream.write_all(part).await.unwrap();
            }
            shim.state("c", "").await.unwrap();
        };
        abandon().await;
        base.again(pid).await;
        rested(pid).await;
        let memory = anonymous(pid);
        abandon().await;
        base.again(pid).await;
        rested(pid).await;
        let grown = anonymous(pid).saturating_sub(memory);
        assert!(grown <= 256, "{grown} KiB more than {memory}");
        shim.remove("c").await;
        shim.end().await;
    });
}

#[test]
fn calls_that_are_abandoned_leave_nothing_behind() {
    run(async {
        let shim = Shim::start(RUNTIMES[1], "c", &["sleep", "1000"]).await;
        let pid = shim.pid();
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        exec(&shim, "c", "warm").await;
        let base = Footprint::of(pid);
        let request = WaitRequest {
            id: "c".into(),
            ..Default::default()
        };
        // How many live at once, and so how far the heap spreads, differs from round to round; what
        // is left behind by each call adds up in every round.
        let mut memory = vec![anonymous(pid)];
        let grows = |memory: &[u64]| memory.windows(2).all(|pair| pair[1] > pair[0] + 128);
        while memory.len() < 7 && grows(&memory) {
            // By their time limit, on one connection.
            let mut waits = JoinSet::new();
            for _ in 0..500 {
                let (tasks, request) = (
                    shim.tasks.within(Duration::from_millis(200)),
                    request.clone(),
                );
                waits.spawn(async move { tasks.wait_within(&request).await });
            }
            for ended in waits.join_all().await {
                let error = ended.unwrap_err();
                assert_eq!(error.code, Code::DeadlineExceeded, "{error}");
            }
            // By the loss of their connection.
            for _ in 0..20 {
                let tasks = Tasks::connect(&shim.endpoint).await.unwrap();
                let mut waits = JoinSet::new();
                for _ in 0..25 {
                    let (tasks, request) = (tasks.clone(), request.clone());
                    waits.spawn(async move { tasks.wait(&request).await });
                }
                // Answered behind the Waits that were sent before it.
                tasks.connect_task(&Default::default()).await.unwrap();
                waits.shutdown().await;
            }
            base.again(pid).await;
            memory.push(anonymous(pid));
        }
        assert!(!grows(&memory), "KiB, a thousand Waits each: {memory:?}");
        shim.remove("c").await;
        shim.end().await;
    });
}

/// What one shim may cost, whatever it has done. A release build has less than half of it
/// (`COTTER_TEST_SHIM=PATH` takes one); docs/bench.md has its figures.
#[test]
fn one_container_costs_little_before_and_after_a_burst() {
    run(async {
        let mut shim = Shim::start(RUNTIMES[1], "c", &["sleep", "1000"]).await;
        let pid = shim.pid();
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        rested(pid).await;
        let (first, fds) = (anonymous(pid), common::descriptors(pid));
        assert!(first <= FIRST, "{first} KiB with one container");
        assert!(fds.len() <= 20, "{fds:?}");

        let mut waits = JoinSet::new();
        for _ in 0..300 {
            let tasks = shim.tasks.within(Duration::from_millis(500));
            let request = request::wait("c", "");
            waits.spawn(async move { tasks.wait_within(&request).await });
        }
        waits.join_all().await;
        each(8, 0..100, |n| {
            let (shim, name) = (&shim, format!("x{n}"));
            async move {
                shim.exec("c", &name, &["true"]).await.unwrap();
                shim.wait("c", &name).await.unwrap();
                shim.delete("c", &name).await.unwrap();
            }
        })
        .await;
        rested(pid).await;
        let after = anonymous(pid);
        let grown = after.saturating_sub(first);
        assert!(grown <= GROWN, "{grown} KiB more than {first}");

        for n in 0..10 {
            shim.run(&format!("d{n}"), &["sleep", "1000"]).await;
        }
        rested(pid).await;
        let each = anonymous(pid).saturating_sub(after) / 10;
        assert!(each <= 25, "{each} KiB for a further container");
        for n in 0..10 {
            shim.remove(&format!("d{n}")).await;
        }
        shim.remove("c").await;
        shim.end().await;
    });
}

/// Measured behind as many others: what the heap had left would hide what the first need.
#[test]
fn further_containers_cost_little() {
    run(async {
        let mut shim = Shim::start(RUNTIMES[1], "c", &["sleep", "1000"]).await;
        let pid = shim.pid();
        shim.run("c", &["sleep", "1000"]).await;
        let mut memory = Vec::new();
        for round in ["d", "e"] {
            for n in 0..FURTHER {
                shim.run(&format!("{round}{n}"), &["sleep", "1000"]).await;
            }
            rested(pid).await;
            memory.push(anonymous(pid));
        }
        let each = memory[1].saturating_sub(memory[0]) * 1024 / FURTHER as u64;
        assert!(each <= EACH, "{each} bytes for a further container");
        for round in ["d", "e"] {
            for n in 0..FURTHER {
                shim.remove(&format!("{round}{n}")).await;
            }
        }
        shim.remove("c").await;
        shim.end().await;
    });
}

#[test]
fn an_idle_shim_sleeps() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            let pid = shim.pid();
            let mut readers = Vec::new();
            for id in ["c", "d", "e"] {
                shim.bundle(id, Spec::new(id, ["sleep", "1000"]));
                let fifos = shim.fifos(id, true);
                // The last without a client.
                if id != "e" {
                    readers.push(
                        pipe::OpenOptions::new()
                            .open_receiver(&fifos.stdout)
                            .unwrap(),
                    );
                }
                shim.create_with(id, &fifos).await.unwrap();
                shim.start_process(id, "").await.unwrap();
                exec(&shim, id, "x").await;
            }
            // Execs that live, that have ended, and that have not begun.
            shim.exec("c", "lives", &["sleep", "1000"]).await.unwrap();
            shim.exec("c", "ended", &["true"]).await.unwrap();
            shim.wait("c", "ended").await.unwrap();
            shim.tasks
                .exec(&shim.exec_request("c", "waits", &["true"]))
                .await
                .unwrap();
            // And somebody waits.
            let (tasks, request) = (
                shim.tasks.clone(),
                WaitRequest {
                    id: "c".into(),
                    ..Default::default()
                },
            );
            let wait = tokio::spawn(async move { tasks.wait(&request).await });
            exec(&shim, "c", "last").await;

            // What is under way comes to rest first.
            let last = rested(pid).await;
            sleep(Duration::from_secs(3)).await;
            let woken = switches(pid) - last;
            assert!(woken <= 2, "{woken} switches in 3 s of nothing");
            assert_eq!(count(&format!("/proc/{pid}/task")), 1);
            let memory = anonymous(pid);
            assert!(memory <= 2048, "{memory} KiB of private memory");
            for id in ["c", "d", "e"] {
                shim.remove(id).await;
            }
            assert_eq!(wait.await.unwrap().unwrap().exit_status, 137);
            shim.end().await;
        });
    }
}

/// Waits until nothing happens, and answers how often the shim has been switched by then.
async fn comes_to_rest(pid: u32) -> u64 {
    let mut last = switches(pid);
    loop {
        sleep(Duration::from_millis(500)).await;
        let before = std::mem::replace(&mut last, switches(pid));
        if before == last {
            return last;
        }
    }
}

type Kinds = BTreeMap<&'static str, usize>;

/// Of a shim's descriptors those with which the kernel's counts are watched, by what they are; and an eventfd
/// that every shim has.
fn watches(pid: u32) -> Kinds {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut watches = BTreeMap::new();
    for fd in fds {
        let to = fs::read_link(fd.unwrap().path()).unwrap_or_default();
        let kind = match to.to_str() {
            Some("anon_inode:[eventfd]") => "eventfd",
            Some("anon_inode:inotify") => "inotify",
            Some(path) if path.starts_with("/sys/fs/cgroup/") => "file",
            _ => continue,
        };
        *watches.entry(kind).or_insert(0) += 1;
    }
    watches
}

/// What it takes to watch the memory and the processes of so many containers: on v2 the two files of each of three,
/// and for all others one inotify instance.
fn needed(containers: usize, version: Version) -> Kinds {
    match version {
        Version::V1 => [("eventfd", containers)].into(),
        Version::V2 if containers > 3 => [("file", 6), ("inotify", 1)].into(),
        Version::V2 => [("file", 2 * containers)].into(),
    }
}

/// The memory and the processes of all of them are watched. On v1 Linux since 6.11 tells nobody of refused
/// forks: there a shim looks, once a second at most, for all its containers at once.
#[test]
fn a_hundred_containers_wake_nobody_and_cost_few_descriptors() {
    run(async {
        let mut shim = Shim::start(RUNTIMES[1], "c0", &["sleep", "1000"]).await;
        let pid = shim.pid();
        let most = common::containers(100);
        let without = watches(pid);
        let mut made = 0;
        let mut rest = None;
        let mut version = Version::V2;
        for count in [1, 2, 3, 4, 10, 50, 100].map(|count| most.min(count)) {
            for n in made..count {
                let id = format!("c{n}");
                let mut spec = Spec::new(&id, ["sleep", "1000"]);
                spec.memory_limit = Some(64 << 20);
                spec.pids_limit = Some(64);
                shim.bundle(&id, spec);
                shim.create(&id).await.unwrap();
                let init = shim.start_process(&id, "").await.unwrap();
                version = common::resources::cgroup(init).version();
            }
            made = count;
            let before = comes_to_rest(pid).await;
            let begun = switches(pid);
            assert!(begun >= before);
            sleep(Duration::from_secs(3)).await;
            let woken = switches(pid) - begun;
            let (all, mut watches) = (common::descriptors(pid), watches(pid));
            for (kind, count) in &without {
                *watches.get_mut(kind).unwrap() -= count;
            }
            watches.retain(|_, count| *count > 0);
            eprintln!(
                "idle: {count:>3} containers, {} descriptors, {watches:?} of them to watch, \
                 {woken} switches in 3 s",
                all.len()
            );
            // Of each second's look it waits once, and a little more when it begins.
            let looks = match version {
                Version::V1 => 4 * 3,
                Version::V2 => 0,
            };
            assert!(woken <= looks, "{woken}");
            assert_eq!(watches, needed(count, version), "{count}");
            // Of all else there is no more for many than for one.
            let others = all.len() - watches.values().sum::<usize>();
            assert_eq!(*rest.get_or_insert(others), others, "{count}: {all:?}");
        }
        for n in 0..made {
            shim.remove(&format!("c{n}")).await;
        }
        shim.end().await;
    });
}
