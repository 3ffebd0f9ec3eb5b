//! Nothing is broken; a neighbour is loud, or fails, in the same container or in another one of the
//! same shim. What is healthy comes out right.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cotter::error::Result;
use cotter::manager::spec::Spec;
use cotter::proto::task::PidsRequest;
use tokio::time::sleep;

use crate::Scale;
use crate::common::shim::each;
use crate::common::{LIMIT, eventually, resources};
use crate::held_up::Locked;
use crate::line::State;
use crate::runtime::Faulty;
use crate::scene::{GOOD, Scene};
use crate::verdict::Outcome;

/// The container with the neighbour in it.
const LOUD: &str = "loud";
/// How many do well at once, and how many fail beside them.
const CLIENTS: usize = 4;
/// How many children a container has lost to the shim that live on.
const KEPT: usize = 3000;
/// How long a program sleeps that is to live until it is killed; nothing else on the machine has this argument.
const LIFE: &str = "86399";

/// Who is in the loud container.
async fn pids(scene: &Scene) -> Result<Vec<u32>> {
    let request = PidsRequest {
        id: LOUD.into(),
        ..Default::default()
    };
    let answer = scene.shim.tasks.pids(&request).await?;
    Ok(answer.processes.iter().map(|process| process.pid).collect())
}

fn spec(args: &[&str], host_pids: bool) -> Spec {
    let mut spec = Spec::new(LOUD, args.iter().copied());
    spec.host_pids = host_pids;
    spec
}

/// Execs that cannot start, in the runtime or before it is called, in a container in which others run
/// and, where orphans come to the shim, daemons are left behind.
pub async fn failing(scale: Scale, runtime: &'static str, host_pids: bool) -> Outcome {
    let mut scene = Scene::under(runtime).await;
    scene.run_as(LOUD, spec(&["sleep", LIFE], host_pids)).await;
    let over = Cell::new(false);
    let good = async {
        each(CLIENTS, 0..scale.execs, |n| {
            let (scene, exec) = (&scene, format!("good{n}"));
            let args = ["sh", "-c", "sleep 0.02; exit 7"];
            async move {
                let status = scene.exec_to_end(LOUD, &exec, &args).await;
                if !matches!(status, Ok(7)) {
                    scene.fail(format!("exec {exec}: {status:?}"));
                }
            }
        })
        .await;
        over.set(true);
    };
    let bad = each(CLIENTS, 0..CLIENTS, |client| {
        let (scene, over) = (&scene, &over);
        async move {
            let mut n = 0;
            while !over.get() {
                n += 1;
                let exec = format!("bad{client}-{n}");
                let mut request = scene.shim.exec_request(LOUD, &exec, &["/no/such"]);
                if n % 2 == 0 {
                    request.stdout = "/no/such/directory/fifo".into();
                }
                // Refused at once, or at its start.
                if scene.add_as(&request).await.is_ok() {
                    if scene.start(LOUD, &exec).await.is_ok() {
                        scene.fail(format!("{exec} was started"));
                    }
                    let _ = scene.delete(LOUD, &exec).await;
                }
            }
        }
    });
    let daemons = async {
        let mut left = 0;
        while !over.get() {
            let daemon = format!("setsid sleep {LIFE} >/dev/null 2>&1 & exit 7");
            let exec = format!("d{left}");
            match scene.exec_to_end(LOUD, &exec, &["sh", "-c", &daemon]).await {
                Ok(7) => left += 1,
                other => scene.fail(format!("exec {exec}: {other:?}")),
            }
        }
        left
    };
    let ((), (), left) = tokio::join!(good, bad, daemons);
    // Beside its init; what a failed exec has made may need a moment to be gone.
    let begun = Instant::now();
    loop {
        let alive = pids(&scene).await.map_or(0, |pids| pids.len() - 1);
        if alive == left {
            break;
        }
        if begun.elapsed() > LIMIT {
            scene.fail(format!("{alive} of {left} daemons are alive"));
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    scene.good_works("after").await;
    scene.remove(LOUD).await;
    scene.end().await
}

/// A container in the host's pid namespace that loses children to the shim as fast as it can fork, and keeps
/// many that it has lost.
pub async fn orphans(scale: Scale, runtime: &'static str) -> Outcome {
    let mut scene = Scene::under(runtime).await;
    let program = format!(
        "n=0; while [ $n -lt {KEPT} ]; do (sleep {LIFE} & ) ; n=$((n+1)); done; while :; do (: & ) ; done"
    );
    let storm = scene
        .run_as(LOUD, spec(&["sh", "-c", &program], true))
        .await;
    let shim = scene.shim_pid();
    eventually("the container has lost its children", || {
        children(shim) > KEPT
    });
    let probe = scene.probe();
    scene.burst("x", scale.execs / 4).await;
    scene.probed(probe).await;
    // The one that forks dies although its neighbours keep the reaper busy.
    scene.remove(LOUD).await;
    let gone = !PathBuf::from(format!("/proc/{storm}/exe")).exists();
    if !gone {
        scene.fail(format!("{storm} is still there"));
    }
    eventually("what was lost is reaped", || children(shim) < 20);
    scene.good_works("after").await;
    scene.end().await
}

/// A container in the host's pid namespace whose lost children sleep: an exec beside them costs no look at each.
pub async fn sleepers(scale: Scale, runtime: &'static str) -> Outcome {
    let mut scene = Scene::under(runtime).await;
    let program = format!(
        "n=0; while [ $n -lt {KEPT} ]; do (sleep {LIFE} & ) ; n=$((n+1)); done; exec sleep {LIFE}"
    );
    scene
        .run_as(LOUD, spec(&["sh", "-c", &program], true))
        .await;
    let shim = scene.shim_pid();
    eventually("the container has lost its children", || {
        children(shim) >= KEPT
    });
    let probe = scene.probe();
    let before = reads(shim);
    let execs = scale.execs / 4;
    scene.burst_in(LOUD, "x", execs).await;
    let each = (reads(shim) - before) / execs as u64;
    if each >= KEPT as u64 {
        scene.fail(format!("{each} reads for each exec beside {KEPT} orphans"));
    }
    scene.probed(probe).await;
    scene.remove(LOUD).await;
    eventually("what was lost is reaped", || children(shim) < 20);
    scene.good_works("after").await;
    scene.end().await
}

/// How many reads a shim has made so far.
fn reads(shim: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{shim}/io")).unwrap();
    let reads = io.lines().find_map(|line| line.strip_prefix("syscr: "));
    reads.unwrap().parse().unwrap()
}

/// How many children the first thread of a process has.
fn children(pid: u32) -> usize {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    list.unwrap_or_default().split_ascii_whitespace().count()
}

/// Thousands of cgroups below a container's, some deeper than a path may be long.
pub async fn cgroups(scale: Scale, runtime: &'static str) -> Outcome {
    let mut scene = Scene::under(runtime).await;
    let init = scene.run_as(LOUD, spec(&["sleep", LIFE], false)).await;
    let cgroup = resources::cgroup(init);
    let tops = ["pids", "memory", "freezer"].map(|name| cgroup.dir(name));
    let tops = tops.into_iter().flatten().map(PathBuf::from);
    let tops: BTreeSet<PathBuf> = tops.collect();
    for top in &tops {
        for n in 0..scale.execs * 5 {
            fs::create_dir(top.join(format!("n{n}"))).unwrap();
        }
    }
    let probe = scene.probe();
    for n in 0..5 {
        let pids = pids(&scene).await;
        if !pids.as_ref().is_ok_and(|pids| pids.contains(&init)) {
            scene.fail(format!("Pids {n}: {pids:?}"));
        }
        if let Err(why) = resources::stats(&scene.shim.tasks, LOUD).await {
            scene.fail(format!("Stats {n}: {why}"));
        }
    }
    scene.burst_in(LOUD, "x", scale.execs / 4).await;
    scene.probed(probe).await;
    for top in &tops {
        for n in 0..scale.execs * 5 {
            let _ = fs::remove_dir(top.join(format!("n{n}")));
        }
    }
    scene.remove(LOUD).await;
    scene.good_works("after").await;
    scene.end().await
}

/// Somebody has moved a container's init to another cgroup and removed its own: it is as alive as before.
pub async fn moved(_: Scale, runtime: &'static str, host_pids: bool) -> Outcome {
    let mut scene = Scene::under(runtime).await;
    let init = scene.run_as(LOUD, spec(&["sleep", LIFE], host_pids)).await;
    for pod in scene.shim.owner().cgroups() {
        let own = pod.join(LOUD);
        if own.is_dir() {
            // Where it may go: cpuset wants processors first, which the pod's may not have.
            let elsewhere = fs::write(pod.join("cgroup.procs"), init.to_string());
            let root = || fs::write(pod.join("../cgroup.procs"), init.to_string());
            elsewhere.or_else(|_| root()).unwrap();
            eventually("its cgroup is empty", || fs::remove_dir(&own).is_ok());
        }
    }
    let named = pids(&scene).await;
    if !named.as_ref().is_ok_and(|pids| pids.contains(&init)) {
        scene.fail(format!("Pids of who was moved: {named:?}"));
    }
    scene.good_works("after").await;
    scene.remove(LOUD).await;
    scene.end().await
}

/// A container that runs out of memory again and again, and whose init never dies of it.
pub async fn memory(scale: Scale, runtime: &'static str) -> Outcome {
    let mut scene = Scene::under(runtime).await;
    let eats = "while :; do (head -c 100000000 /dev/zero | tail -c 100000000 > /dev/null); done";
    let mut spec = spec(&["sh", "-c", eats], false);
    spec.memory_limit = Some(16 << 20);
    scene.run_as(LOUD, spec).await;
    scene.starves(LOUD);
    let probe = scene.probe();
    scene.burst("x", scale.execs).await;
    scene.probed(probe).await;
    scene.remove(LOUD).await;
    scene.good_works("after").await;
    scene.end().await
}

/// Somebody writes to the kernel's log without end.
pub async fn kernel_log(scale: Scale, runtime: &'static str) -> Outcome {
    let mut scene = Scene::under(runtime).await;
    let mut spec = spec(&["sleep", LIFE], false);
    spec.pids_limit = Some(100);
    scene.run_as(LOUD, spec).await;
    let over = Arc::new(AtomicBool::new(false));
    let writer = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let begun = Instant::now();
            while !over.load(Ordering::Relaxed) && begun.elapsed() < LIMIT {
                // Each its own open: the kernel limits the lines of one.
                let log = fs::OpenOptions::new().write(true).open("/dev/kmsg");
                let mut log = log.unwrap();
                for n in 0..10 {
                    let _ = log.write_all(format!("<7>cotter: a loud neighbour, {n}\n").as_bytes());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    };
    let probe = scene.probe();
    scene.burst_in(LOUD, "x", scale.execs).await;
    scene.probed(probe).await;
    over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    scene.remove(LOUD).await;
    scene.good_works("after").await;
    scene.end().await
}

/// A process elsewhere holds up whoever reads its arguments; a shim dies in the middle of a call, which `delete`
/// has to find.
pub async fn held_up(scale: Scale, runtime: &'static str) -> Outcome {
    let other = Scene::under(runtime).await;
    let held = Locked::new(&[]);
    let reader = held.reader();
    let mut outcome = super::shim::killed_under(scale, runtime, "create", "slow-before").await;
    other.good_works("beside").await;
    if reader.is_finished() {
        outcome.failed.push("nothing was held up".into());
    }
    drop(held);
    reader.join().unwrap();
    outcome.add(other.end().await);
    outcome
}

/// Pids that are used again while the runtime's `exec` is still to return, by strangers that end with 99: each exec
/// has ended as it did.
pub async fn recycled(scale: Scale, runtime: &'static str, host_pids: bool) -> Outcome {
    let mut scene = Scene::under(runtime).await;
    let faulty = Faulty::new(&scene.shim, LOUD);
    scene.shim.bundle(LOUD, spec(&["sleep", LIFE], host_pids));
    let request = faulty.create_request(&scene.shim, LOUD);
    scene.create(&request).await.unwrap();
    scene.start(LOUD, "").await.unwrap();
    faulty.set("exec", "recycled=ended");
    for n in 0..scale.flaps {
        let (exec, script) = (format!("r{n}"), format!("exit {}", n % 2 * 7));
        let args = ["sh", "-c", script.as_str()];
        let prefix = format!("x{n}-");
        let ran = scene.exec_to_end(LOUD, &exec, &args);
        let (status, ()) = tokio::join!(ran, scene.burst(&prefix, 4));
        if status != Ok(n as u32 % 2 * 7) {
            scene.fail(format!("exec {exec}, {script}: {status:?}"));
        }
    }
    faulty.clear("exec");
    scene.remove(LOUD).await;
    scene.good_works("after").await;
    scene.end().await
}

/// The shim is killed as soon as it has told a client how a container ended: nobody hears another end.
pub async fn told(scale: Scale, runtime: &'static str) -> Outcome {
    let mut all = Outcome::default();
    for n in 0..scale.flaps {
        let mut scene = Scene::under(runtime).await;
        let id = format!("c{n}");
        scene.run(&id, &["sh", "-c", "sleep 0.05; exit 7"]).await;
        if !matches!(scene.wait(&id, "").await, Ok(7)) {
            scene.fail("the end of a program");
        }
        scene.kill_shim();
        scene.unsure();
        all.add(scene.deleted(|| {}).await);
    }
    all
}

/// Nobody takes events; execs end, and clients are told so; the shim is killed as soon as the last one is.
pub async fn told_away(scale: Scale, runtime: &'static str) -> Outcome {
    let scene = Scene::under(runtime).await;
    scene.line.set(State::Gone);
    sleep(Duration::from_millis(500)).await;
    scene.burst("x", scale.execs).await;
    scene.kill_shim();
    // Its init lives: its end is what `delete` answers. Of the execs all is known.
    scene.unsure_of(GOOD, "");
    scene.line.set(State::Open);
    scene.deleted(|| {}).await
}
