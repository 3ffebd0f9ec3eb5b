//! Wait: everyone who waits is told, the same, whenever they ask; who stops waiting leaves nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cotter::error::Code::{DeadlineExceeded, NotFound, ResourceExhausted, Unknown};
use cotter::error::Result;
use cotter::manager::client::Tasks;
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::proto::task::{WaitRequest, WaitResponse};
use tokio::task::{JoinHandle, JoinSet};

use crate::client::{NO_TIME, SLEEP, recent, refused, until, with_each_runtime, works};
use crate::common::shim::Shim;

with_each_runtime! {
    everyone_is_told_the_same, abandoned_waits_leave_nothing, delete_of_a_created_init_releases,
    delete_of_a_created_exec_releases, a_failed_start_releases_and_a_later_one_counts,
    an_exec_outlived_by_its_waiters, a_deadline_is_told_as_such,
    the_open_waits_of_a_container_are_limited,
}

fn request(exec: &str) -> WaitRequest {
    WaitRequest {
        id: "c".into(),
        exec_id: exec.into(),
        ..Default::default()
    }
}

/// A Wait that is with the shim when this returns: messages of a connection are read in order, so
/// it has been read when a later one is answered.
pub async fn waiting(shim: &Shim, exec: &str) -> JoinHandle<Result<WaitResponse>> {
    let (tasks, request) = (shim.tasks.clone(), request(exec));
    let waiter = tokio::spawn(async move { tasks.wait(&request).await });
    tokio::task::yield_now().await;
    shim.state("c", exec).await.unwrap();
    waiter
}

async fn everyone_is_told_the_same(runtime: &'static str) {
    let shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.create("c").await.unwrap();
    shim.tasks
        .exec(&shim.exec_request("c", "x", &SLEEP))
        .await
        .unwrap();
    let mut waiters = Vec::new();
    for _ in 0..20 {
        waiters.push(waiting(&shim, "").await);
        waiters.push(waiting(&shim, "x").await);
    }
    shim.start_process("c", "").await.unwrap();
    shim.start_process("c", "x").await.unwrap();
    // From another connection, as after a manager's restart.
    let other = Tasks::connect(&shim.endpoint).await.unwrap();
    for exec in ["", "x"] {
        let (tasks, request) = (other.clone(), request(exec));
        waiters.push(tokio::spawn(async move { tasks.wait(&request).await }));
    }
    other.connect_task(&Default::default()).await.unwrap();
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));

    let before = SystemTime::now();
    shim.kill("c", "", 9).await.unwrap();
    let init = shim.wait("c", "").await.unwrap();
    let exec = shim.wait("c", "x").await.unwrap();
    assert_eq!((init.exit_status, exec.exit_status), (137, 137));
    recent(&init.exited_at, before);
    recent(&exec.exited_at, before);
    for (n, waiter) in waiters.into_iter().enumerate() {
        let told = waiter.await.unwrap().unwrap();
        assert_eq!(
            told,
            if n % 2 == 0 {
                init.clone()
            } else {
                exec.clone()
            }
        );
    }
    assert_eq!(other.wait(&request("")).await.unwrap(), init);
    shim.delete("c", "").await.unwrap();
    refused(
        shim.wait("c", "").await,
        NotFound,
        "container not created: not found",
    );
    refused(
        shim.wait("c", "x").await,
        NotFound,
        "container not created: not found",
    );
    shim.end().await;
}

/// What a process holds: open descriptors and threads.
fn holds(pid: u32) -> (Vec<PathBuf>, usize) {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let list = |dir: &str| {
        std::fs::read_dir(proc.join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    let mut open: Vec<PathBuf> = list("fd")
        .filter_map(|fd| std::fs::read_link(fd).ok())
        .collect();
    // Sockets have a number of their own, which differs from one connection to the next.
    for target in &mut open {
        if target.to_string_lossy().starts_with("socket:") {
            *target = Path::new("socket").into();
        }
    }
    open.sort();
    (open, list("task").count())
}

/// Memory of its own that a process uses, in KiB.
fn anonymous(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Waits that are given up by a client that goes away. Few at a time, so that what the shim needs
/// for them meanwhile is little beside what it would keep.
async fn leave(shim: &Shim, waits: usize) {
    for _ in 0..waits.div_ceil(100) {
        let leaving = Tasks::connect(&shim.endpoint).await.unwrap();
        let mut set = JoinSet::new();
        for n in 0..100 {
            let (tasks, exec) = (leaving.clone(), if n % 2 == 0 { "" } else { "x" });
            set.spawn(async move { tasks.wait(&request(exec)).await });
        }
        tokio::task::yield_now().await;
        // Read behind all of them.
        let answer = leaving.connect_task(&Default::default()).await;
        answer.unwrap();
        assert!(set.try_join_next().is_none());
        set.shutdown().await;
    }
}

/// Waits that are given up at their deadline.
async fn time_out(shim: &Shim, waits: usize) {
    // Of its own: the library closes a connection on which a deadline cuts a message in two.
    let hasty = Tasks::connect(&shim.endpoint).await.unwrap();
    let hasty = hasty.within(Duration::from_millis(20));
    let mut set = JoinSet::new();
    for n in 0..waits {
        let (tasks, exec) = (hasty.clone(), if n % 2 == 0 { "" } else { "x" });
        set.spawn(async move { tasks.wait_within(&request(exec)).await });
    }
    while let Some(given_up) = set.join_next().await {
        given_up.unwrap().unwrap_err();
    }
}

async fn a_deadline_is_told_as_such(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    let hasty = shim.tasks.within(Duration::from_millis(50));
    refused(hasty.wait_within(&request("")).await, DeadlineExceeded, "");
    shim.remove("c").await;
    shim.end().await;
}

/// Who asks and asks is refused, and is heard again when some have been answered or have left; who waits
/// already, and who waits for another container, is not touched.
async fn the_open_waits_of_a_container_are_limited(runtime: &'static str) {
    let (limits, spec) = ([("COTTER_LIMIT_WAITS", "3")], Spec::new("c", SLEEP));
    let mut shim = Shim::start_with(Dialect::Proto23, runtime, spec, "c", &limits).await;
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    shim.exec("c", "x", &SLEEP).await.unwrap();

    let first = [waiting(&shim, "").await, waiting(&shim, "x").await];
    let leaving = Tasks::connect(&shim.endpoint).await.unwrap();
    let third = tokio::spawn({
        let leaving = leaving.clone();
        async move { leaving.wait(&request("x")).await }
    });
    tokio::task::yield_now().await;
    leaving.connect_task(&Default::default()).await.unwrap();
    for exec in ["", "x"] {
        let refusal = shim.wait("c", exec).await;
        refused(refusal, ResourceExhausted, "container c: 3 waits are open");
    }
    refused(shim.wait("c", "y").await, NotFound, "does not exist");
    shim.run("d", &SLEEP).await;
    shim.remove("d").await;
    assert!(first.iter().all(|waiter| !waiter.is_finished()));

    third.abort();
    drop((third, leaving));
    let hasty = Tasks::connect(&shim.endpoint).await.unwrap();
    let hasty = hasty.within(Duration::from_millis(50));
    let place = async || {
        let answer = hasty.wait_within(&request("")).await;
        answer.unwrap_err().code != ResourceExhausted
    };
    until("the place of who left is free", place).await;

    shim.kill("c", "x", 9).await.unwrap();
    let [init, exec] = first;
    assert_eq!(exec.await.unwrap().unwrap().exit_status, 137);
    let again = waiting(&shim, "").await;
    shim.kill("c", "", 9).await.unwrap();
    for waiter in [init, again] {
        assert_eq!(waiter.await.unwrap().unwrap().exit_status, 137);
    }
    // The exit is known: nobody has to wait for it.
    shim.remove("c").await;
    shim.end().await;
}

/// How many are abandoned: kept, they would be several MiB.
const WAITS: usize = 10_000;

async fn abandoned_waits_leave_nothing(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    shim.exec("c", "x", &SLEEP).await.unwrap();
    let pid = shim.pid();
    let before = holds(pid);
    // The first grow what the allocator and the tables keep.
    time_out(&shim, 100).await;
    leave(&shim, 1000).await;
    until("connections are closed", async || holds(pid) == before).await;
    let settled = anonymous(pid);
    time_out(&shim, 100).await;
    leave(&shim, WAITS).await;
    until("connections are closed", async || holds(pid) == before).await;
    let grown = anonymous(pid).saturating_sub(settled);
    assert!(grown < 512, "{WAITS} abandoned waits left {grown} KiB");

    works(&shim, "c").await;
    shim.kill("c", "x", 9).await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 137);
    shim.delete("c", "x").await.unwrap();
    shim.remove("c").await;
    shim.end().await;
}

/// It is killed to be deleted: a real exit, with a time (the Go shim leaves such waits hanging).
async fn delete_of_a_created_init_releases(runtime: &'static str) {
    let shim = Shim::start(runtime, "c", &SLEEP).await;
    let pid = shim.create("c").await.unwrap();
    let waiter = waiting(&shim, "").await;
    let before = SystemTime::now();
    let deleted = shim.delete("c", "").await.unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    recent(&deleted.exited_at, before);
    let told = waiter.await.unwrap().unwrap();
    assert_eq!((told.exit_status, told.exited_at), (137, deleted.exited_at));
    shim.end().await;
}

/// It never ran: status 0 and no time. Both when it is deleted itself and with its container.
async fn delete_of_a_created_exec_releases(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    let mut waiters = Vec::new();
    for exec in ["x", "y"] {
        shim.tasks
            .exec(&shim.exec_request("c", exec, &["true"]))
            .await
            .unwrap();
        waiters.push(waiting(&shim, exec).await);
    }
    let never_ran = |told: WaitResponse| {
        assert_eq!((told.exit_status, told.exited_at.seconds), (0, NO_TIME));
    };
    shim.delete("c", "x").await.unwrap();
    never_ran(waiters.remove(0).await.unwrap().unwrap());
    assert!(!waiters[0].is_finished());
    shim.remove("c").await;
    never_ran(waiters.remove(0).await.unwrap().unwrap());
    shim.end().await;
}

async fn a_failed_start_releases_and_a_later_one_counts(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    shim.tasks
        .exec(&shim.exec_request("c", "x", &["/run/late"]))
        .await
        .unwrap();
    let early = waiting(&shim, "x").await;
    refused(
        shim.start_process("c", "x").await,
        Unknown,
        "OCI runtime exec failed: ",
    );
    let told = early.await.unwrap().unwrap();
    assert_eq!((told.exit_status, told.exited_at.seconds), (0, NO_TIME));
    assert_eq!(shim.wait("c", "x").await.unwrap(), told);

    let script = "printf '#!/bin/sh\\nexec sleep 1000\\n' >/run/late && chmod +x /run/late";
    shim.exec("c", "make", &["sh", "-c", script]).await.unwrap();
    assert_eq!(shim.wait("c", "make").await.unwrap().exit_status, 0);
    let before = SystemTime::now();
    shim.start_process("c", "x").await.unwrap();
    let late = waiting(&shim, "x").await;
    assert!(!late.is_finished());
    shim.kill("c", "x", 9).await.unwrap();
    let told = late.await.unwrap().unwrap();
    assert_eq!(told.exit_status, 137);
    recent(&told.exited_at, before);
    shim.remove("c").await;
    shim.end().await;
}

/// An exec that is deleted by one client while others are about to hear of its exit.
async fn an_exec_outlived_by_its_waiters(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    for _ in 0..20 {
        shim.exec("c", "x", &SLEEP).await.unwrap();
        let waiter = waiting(&shim, "x").await;
        shim.kill("c", "x", 9).await.unwrap();
        shim.wait("c", "x").await.unwrap();
        shim.delete("c", "x").await.unwrap();
        assert_eq!(waiter.await.unwrap().unwrap().exit_status, 137);
    }
    shim.remove("c").await;
    shim.end().await;
}
