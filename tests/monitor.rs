//! The process monitor on real processes. A monitor reaps every child of its process, so all
//! scenarios run one after another, on the first thread as in a shim: to it the kernel gives the
//! strangers.

#![allow(clippy::expect_used)]

use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use cotter::monitor::{Child, Exit, Monitor, Pid, Restart, supervise};
use nix::sys::signal::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

#[path = "common/first_thread.rs"]
mod first_thread;

/// Far above what any step takes; running out is a failure.
const LIMIT: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing happened"))
}

fn sh(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command
}

fn read_line(from: Option<OwnedFd>) -> String {
    let mut line = Vec::new();
    let mut from = std::fs::File::from(from.expect("piped"));
    let mut byte = [0];
    while from.read(&mut byte).expect("read") == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("text")
}

fn children_of_this_process() -> Vec<String> {
    let me = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc") {
        let Ok(stat) = std::fs::read_to_string(entry.expect("entry").path().join("stat")) else {
            continue;
        };
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        if after_name.split(' ').nth(1) == Some(&me) {
            found.push(stat);
        }
    }
    found
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("fds").count()
}

struct World {
    monitor: Monitor,
    others: UnboundedReceiver<Exit>,
}

fn main() {
    first_thread::test("monitor", monitor);
}

fn monitor() {
    let fds = open_fds();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let (sender, others) = unbounded_channel();
        let monitor = Monitor::start(move |exit| {
            sender.send(exit).expect("the test listens");
        })
        .expect("monitor");
        let mut world = World { monitor, others };
        let idle_fds = open_fds();

        one_per_process(&world);
        storm(&world).await;
        fast_exits_from_threads(&world).await;
        failed_spawns(&world).await;
        a_spawn_that_hangs(&mut world).await;
        statuses(&world).await;
        handles(&world).await;
        kill_after_the_reap(&world).await;
        a_process_group(&mut world).await;
        strangers(&mut world).await;
        in_slices(&mut world).await;
        what_is_known_comes_first(&mut world).await;
        dropped_handles(&mut world).await;
        restarts(&world).await;
        stops(&world).await;

        assert_eq!(world.monitor.live_children(), 0);
        assert_eq!(children_of_this_process(), Vec::<String>::new());
        assert!(world.others.try_recv().is_err(), "an exit nobody caused");
        assert_eq!(open_fds(), idle_fds);
    });
    runtime.block_on(ends_and_starts_again());
    runtime.block_on(survives_a_panic());
    drop(runtime);
    assert_eq!(open_fds(), fds);
}

fn one_per_process(world: &World) {
    let second = Monitor::start(|_| {}).expect_err("would steal exits");
    assert_eq!(second.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(world.monitor.live_children(), 0);
}

/// All signals merge into a few: no reap happens before the thousandth child is started.
async fn storm(world: &World) {
    let before = SystemTime::now();
    let mut children: Vec<Child> = (0..1000)
        .map(|n| {
            let mut command = sh(&format!("exit {}", n % 200));
            world.monitor.spawn(&mut command).expect("spawn")
        })
        .collect();
    assert_eq!(world.monitor.live_children(), 1000);
    for (n, child) in children.iter_mut().enumerate() {
        let exit = within("storm", child.exited()).await;
        assert_eq!((exit.pid, exit.status as usize), (child.pid(), n % 200));
        assert!(exit.at >= before && exit.at <= SystemTime::now());
    }
    assert_eq!(world.monitor.live_children(), 0);
}

/// Children that end while the spawning threads and the reap loop race for them.
async fn fast_exits_from_threads(world: &World) {
    let (sender, mut started) = unbounded_channel();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (monitor, sender) = (world.monitor.clone(), sender.clone());
            std::thread::spawn(move || {
                for _ in 0..100 {
                    let child = monitor.spawn(&mut Command::new("/bin/true"));
                    sender.send(child.expect("spawn")).expect("send");
                }
            })
        })
        .collect();
    drop(sender);
    let mut seen = 0;
    while let Some(mut child) = within("threads", started.recv()).await {
        assert_eq!(within("fast exit", child.exited()).await.status, 0);
        seen += 1;
    }
    assert_eq!(seen, 300);
    for thread in threads {
        thread.join().expect("no panic");
    }
}

/// The standard library waits for a child that could not exec; the loop must not be faster.
async fn failed_spawns(world: &World) {
    let monitor = world.monitor.clone();
    let (sender, mut done) = unbounded_channel();
    let thread = std::thread::spawn(move || {
        for n in 0..100 {
            let mut command = Command::new("/nonexistent/program");
            if n % 2 == 0 {
                command.uid(0); // not the posix_spawn way
            }
            let failed = monitor.spawn(&mut command).expect_err("no such program");
            assert_eq!(failed.kind(), std::io::ErrorKind::NotFound);
        }
        sender.send(()).expect("send");
    });
    // Wake-ups for the loop meanwhile.
    while tokio::time::timeout(Duration::ZERO, done.recv())
        .await
        .is_err()
    {
        let mut child = world
            .monitor
            .spawn(&mut Command::new("/bin/true"))
            .expect("spawn");
        within("child", child.exited()).await;
    }
    thread.join().expect("no panic in the standard library");
}

/// A child that is killed before it has become a program, while something holds its spawn up: nothing
/// else waits for it, and its exit comes once it is known whose it is.
async fn a_spawn_that_hangs(world: &mut World) {
    let (mut pids, say) = std::io::pipe().expect("pipe");
    let (wait, go_on) = std::io::pipe().expect("pipe");
    let hang = move || -> std::io::Result<()> {
        // SAFETY: one thread after a fork, which makes nothing but system calls.
        unsafe {
            let helper = libc::fork();
            if helper == 0 {
                // Holds what the standard library listens to, until it is told to let go.
                let mut byte = 0u8;
                libc::read(wait.as_raw_fd(), (&raw mut byte).cast(), 1);
                libc::close_range(0, u32::MAX, 0);
                // Should the test fail.
                libc::alarm(120);
            } else {
                let both = [libc::getpid(), helper];
                libc::write(
                    say.as_raw_fd(),
                    (&raw const both).cast(),
                    size_of_val(&both),
                );
            }
            loop {
                libc::pause();
            }
        }
    };
    let mut command = sh("exit 9");
    // SAFETY: as above.
    unsafe { command.pre_exec(hang) };
    let monitor = world.monitor.clone();
    let hanging = tokio::task::spawn_blocking(move || monitor.spawn(&mut command));
    let mut pid = || {
        let mut bytes = [0; size_of::<Pid>()];
        pids.read_exact(&mut bytes).expect("a pid");
        Pid::from_ne_bytes(bytes)
    };
    let (slow, helper) = (pid(), pid());
    let kill = |pid| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("there")
    };

    assert_eq!(world.monitor.live_children(), 0);
    assert!(world.monitor.adopted().expect("children").is_empty());
    kill(slow);
    // Started here, by a thread that has ended, and by one that lives on.
    let mut here = world.monitor.spawn(&mut sh("exit 4")).expect("spawn");
    assert_eq!(within("here", here.exited()).await.status, 4);
    let elsewhere = |code: u8| {
        let monitor = world.monitor.clone();
        move || {
            let child = monitor.spawn(&mut sh(&format!("exit {code}")));
            child.expect("spawn")
        }
    };
    let thread = std::thread::spawn(elsewhere(5));
    let mut ended = thread.join().expect("no panic");
    assert_eq!(within("ended", ended.exited()).await.status, 5);
    let (send, receive) = tokio::sync::oneshot::channel();
    let (end, until) = std::sync::mpsc::channel::<()>();
    let start = elsewhere(6);
    let thread = std::thread::spawn(move || {
        send.send(start()).expect("the test listens");
        let _ = until.recv();
    });
    let mut lives = receive.await.expect("a child");
    assert_eq!(within("lives", lives.exited()).await.status, 6);
    drop(end);
    thread.join().expect("no panic");
    strangers(world).await;

    assert!(!hanging.is_finished(), "nothing of this is after it");
    (&go_on).write_all(b"x").expect("it reads");
    let mut child = hanging.await.expect("no panic").expect("spawn");
    assert_eq!(child.pid(), slow);
    assert_eq!(within("slow", child.exited()).await.status, 137);
    kill(helper);
    let other = within("helper", world.others.recv()).await.expect("open");
    assert_eq!((other.pid, other.status), (helper, 137));
}

async fn statuses(world: &World) {
    let real_time = u32::try_from(libc::SIGRTMIN() + 3).expect("positive");
    for (script, expected) in [
        ("exit 0".to_owned(), 0),
        ("exit 255".to_owned(), 255),
        ("kill -9 $$".to_owned(), 137),
        (format!("kill -{real_time} $$"), 128 + real_time),
    ] {
        let mut child = world.monitor.spawn(&mut sh(&script)).expect("spawn");
        let exit = within(&script, child.exited()).await;
        assert_eq!(exit.status, expected, "{script}");
    }
}

/// Cancel safe, repeatable, and the pipes are there.
async fn handles(world: &World) {
    let mut command = Command::new("/bin/cat");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = world.monitor.spawn(&mut command).expect("spawn");
    tokio::select! {
        biased;
        exit = child.exited() => panic!("{exit:?} of a cat that waits"),
        () = std::future::ready(()) => {}
    }
    let mut stdin = std::fs::File::from(child.take_stdin().expect("piped"));
    assert!(child.take_stdin().is_none() && child.take_stderr().is_none());
    stdin.write_all(b"hello\n").expect("write");
    assert_eq!(read_line(child.take_stdout()), "hello");
    child.kill(Signal::SIGTERM).expect("alive");
    let first = within("cat", child.exited()).await;
    assert_eq!((first.pid, first.status), (child.pid(), 143));
    assert_eq!(child.exited().await, first);
}

async fn kill_after_the_reap(world: &World) {
    let mut child = world.monitor.spawn(&mut sh("exit 3")).expect("spawn");
    within("exit", child.exited()).await;
    for refused in [
        child.kill(Signal::SIGKILL),
        child.kill_group(Signal::SIGKILL),
    ] {
        let error = refused.expect_err("reaped");
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}

async fn a_process_group(world: &mut World) {
    let mut command = sh("exec 3<&0; /bin/cat <&3 & echo $!; wait");
    command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = world.monitor.spawn(&mut command).expect("spawn");
    let helper: Pid = read_line(child.take_stdout()).parse().expect("pid");
    child.kill_group(Signal::SIGKILL).expect("alive");
    assert_eq!(within("leader", child.exited()).await.status, 137);
    let other = within("member", world.others.recv()).await.expect("open");
    assert_eq!((other.pid, other.status), (helper, 137));
}

/// A grandchild whose parent ends first comes to the subreaper.
async fn strangers(world: &mut World) {
    let mut command = sh("exec 3<&0; /bin/sh -c 'read line; exit 7' <&3 & echo $!");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut parent = world.monitor.spawn(&mut command).expect("spawn");
    let orphan: Pid = read_line(parent.take_stdout()).parse().expect("pid");
    assert_eq!(within("parent", parent.exited()).await.status, 0);
    assert!(world.others.try_recv().is_err(), "the orphan still waits");
    drop(parent.take_stdin());
    let exit = within("orphan", world.others.recv()).await.expect("open");
    assert_eq!((exit.pid, exit.status), (orphan, 7));
}

/// As many as wait to be reaped at once. This thread is held up until they do.
const MANY: usize = 500;

fn many_dead_strangers(world: &World) -> Child {
    let script =
        format!("i=0; while [ $i -lt {MANY} ]; do (exit 3 &); i=$((i+1)); done; echo; exec cat");
    let mut command = sh(&script);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut parent = world.monitor.spawn(&mut command).expect("spawn");
    assert_eq!(read_line(parent.take_stdout()), "");
    let dead = || {
        let children = children_of_this_process();
        let dead = children.iter().filter(|stat| stat.contains(") Z "));
        dead.count() >= MANY
    };
    while !dead() {
        std::thread::yield_now();
    }
    parent
}

/// Between a few reaps, everybody else on the thread has a turn.
async fn in_slices(world: &mut World) {
    let mut parent = many_dead_strangers(world);
    let (mut reaped, mut most) = (0, 0);
    within("many", async {
        while reaped < MANY {
            tokio::task::yield_now().await;
            let mut now = 0;
            while let Ok(exit) = world.others.try_recv() {
                assert_eq!(exit.status, 3);
                now += 1;
            }
            (reaped, most) = (reaped + now, now.max(most));
        }
    })
    .await;
    assert!((1..=32).contains(&most), "{most} in one turn");
    parent.kill(Signal::SIGKILL).expect("alive");
    within("parent", parent.exited()).await;
}

/// However many strangers have ended before.
async fn what_is_known_comes_first(world: &mut World) {
    let mut parent = many_dead_strangers(world);
    let mut ours = world.monitor.spawn(&mut sh("exit 4")).expect("spawn");
    let expected = sh("exit 7").spawn().expect("spawn").id().cast_signed();
    world.monitor.expect(expected);
    // Nobody has this one.
    world.monitor.expect(Pid::MAX);
    parent.kill(Signal::SIGKILL).expect("alive");
    for pid in [ours.pid(), expected, parent.pid()] {
        let stat = format!("/proc/{pid}/stat");
        while !std::fs::read_to_string(&stat)
            .expect("unreaped")
            .contains(") Z ")
        {
            std::thread::yield_now();
        }
    }
    let first = within("expected", world.others.recv()).await.expect("open");
    assert_eq!((first.pid, first.status), (expected, 7));
    assert_eq!(within("ours", ours.exited()).await.status, 4);
    assert_eq!(within("parent", parent.exited()).await.status, 137);
    assert!(world.others.len() < MANY, "they came before the others");
    for _ in 0..MANY {
        let exit = within("the others", world.others.recv()).await;
        assert_eq!(exit.expect("open").status, 3);
    }
}

async fn dropped_handles(world: &mut World) {
    let mut command = Command::new("/bin/cat");
    command.stdin(Stdio::piped());
    let mut child = world.monitor.spawn(&mut command).expect("spawn");
    let stdin = child.take_stdin();
    drop(child);
    assert_eq!(world.monitor.live_children(), 1);
    drop(stdin);
    within("reaped", async {
        while world.monitor.live_children() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(world.others.try_recv().is_err(), "it was no stranger");
}

async fn restarts(world: &World) {
    let backoff = Duration::from_millis(1);
    let max_backoff = Duration::from_secs(3600);
    let on_failure = Restart::OnFailure {
        backoff,
        max_backoff,
        limit: 4,
    };
    for (script, policy, restarts, status) in [
        ("exit 9", Restart::Never, 0, 9),
        ("exit 0", on_failure, 0, 0),
        ("exit 9", on_failure, 4, 9),
    ] {
        let helper = supervise(&world.monitor, || sh(script), policy);
        let last = within(script, helper.ended()).await.expect("it ran");
        assert_eq!(
            (helper.restarts(), last.status),
            (restarts, status),
            "{script}"
        );
        assert_eq!((helper.last_exit(), helper.pid()), (Some(last), None));
    }

    let missing = supervise(&world.monitor, || Command::new("/nonexistent"), on_failure);
    assert_eq!(within("missing", missing.ended()).await, None);
    assert_eq!(missing.restarts(), 4);

    let mut runs = 0;
    let (sender, mut started) = unbounded_channel();
    let count = move || {
        runs += 1;
        sender.send(runs).expect("the test listens");
        sh("exit 0")
    };
    let always = supervise(
        &world.monitor,
        count,
        Restart::Always {
            backoff,
            max_backoff,
        },
    );
    for expected in 1..=5 {
        assert_eq!(within("restart", started.recv()).await, Some(expected));
    }
    within("stop", always.stop(LIMIT)).await;
    assert!(always.restarts() >= 3);
}

async fn stops(world: &World) {
    for (script, limit, status) in [
        (
            "trap 'exit 5' TERM; echo up; while :; do read x; done",
            LIMIT,
            5,
        ),
        (
            "trap '' TERM; echo up; while :; do read x; done",
            Duration::ZERO,
            137,
        ),
    ] {
        let (sender, mut ready) = unbounded_channel();
        let command = move || {
            let (read, write) = std::io::pipe().expect("pipe");
            sender.send(OwnedFd::from(read)).expect("the test listens");
            let mut command = sh(script);
            command.stdout(write);
            command
        };
        let helper = supervise(&world.monitor, command, Restart::Never);
        let output = within("start", ready.recv()).await;
        assert_eq!(read_line(output), "up");
        let exit = within(script, helper.stop(limit)).await.expect("it ran");
        assert_eq!(exit.status, status, "{script}");
        assert_eq!(within("again", helper.stop(limit)).await, Some(exit));
        assert!(ready.try_recv().is_err(), "no restart");
    }

    let forgotten = supervise(&world.monitor, || sh("exec sleep 1000"), Restart::Never);
    drop(forgotten);
    within("dropped", async {
        while world.monitor.live_children() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The monitor ends with its last handle, and another may start.
async fn ends_and_starts_again() {
    let monitor = within("the end of the first", async {
        loop {
            // The task of a dropped helper holds the first one until it is scheduled.
            match Monitor::start(|_| {}) {
                Ok(monitor) => return monitor,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    let mut child = monitor.spawn(&mut sh("exit 4")).expect("spawn");
    drop(monitor);
    assert_eq!(within("child", child.exited()).await.status, 4);
}

async fn survives_a_panic() {
    // Its text would look like a failure of this test.
    std::panic::set_hook(Box::new(|_| {}));
    let monitor = Monitor::start(|exit: Exit| panic!("handed {}", exit.pid)).expect("monitor");
    // A child the monitor doesn't know of, and one it does.
    #[expect(clippy::zombie_processes, reason = "the monitor reaps it")]
    let stranger = sh("exit 1").spawn().expect("spawn");
    let gone = format!("/proc/{}", stranger.id());
    within("reaped", async {
        while std::fs::exists(&gone).expect("proc") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(std::panic::take_hook());
    let mut child = monitor.spawn(&mut sh("exit 2")).expect("spawn");
    assert_eq!(within("child", child.exited()).await.status, 2);
}
