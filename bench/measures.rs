//! The measures: each takes one contestant through one round and writes down what it saw.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cotter::error::{Error, Result};
use cotter::manager::events::Event;
use cotter::manager::stdio::Fifos;
use cotter::proto::task::*;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;

use crate::contestant::{Client, Contestant, Place, Runtime, Session};
use crate::figures::percentile;
use crate::proc;

/// How much of everything is done in a round.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Rounds of the measures that are repeated.
    pub rounds: usize,
    /// `start`s and container cycles per round.
    pub cycles: usize,
    /// Execs one after another per round.
    pub execs: usize,
    /// Execs per round at each level of parallelism.
    pub parallel: usize,
    /// Calls per RPC and round.
    pub calls: usize,
    /// Processes that die at once.
    pub storm: usize,
    /// MiB through a FIFO.
    pub stream: usize,
    /// Execs after which memory is looked at again.
    pub many_execs: usize,
    /// Containers in one shim, and shims on one machine.
    pub crowd: usize,
    /// How long an idle shim is watched.
    pub idle: Duration,
}

impl Scale {
    /// What the README's figures are made with.
    pub const FULL: Self = Self {
        rounds: 5,
        cycles: 10,
        execs: 100,
        parallel: 64,
        calls: 100,
        storm: 2000,
        stream: 1024,
        many_execs: 1000,
        crowd: 100,
        idle: Duration::from_secs(60),
    };
    /// Enough to see that everything works.
    pub const QUICK: Self = Self {
        rounds: 1,
        cycles: 2,
        execs: 5,
        parallel: 8,
        calls: 5,
        storm: 50,
        stream: 16,
        many_execs: 20,
        crowd: 3,
        idle: Duration::from_secs(1),
    };
}

/// What one contestant showed in one round: (measure, value).
pub type Seen = Vec<(String, f64)>;

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The middle and the slow end of `values`.
fn quantiles(seen: &mut Seen, name: &str, values: &[f64]) {
    seen.push((format!("{name}, p50 (ms)"), percentile(values, 0.5)));
    seen.push((format!("{name}, p99 (ms)"), percentile(values, 0.99)));
}

/// A shim and a container from nothing to nothing, as `ctr run --rm` makes them.
pub async fn cycles(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let (mut start, mut create, mut run, mut delete, mut after, mut whole) =
        (vec![], vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..scale.cycles {
        let begun = Instant::now();
        let session = Session::start(who, runtime, place, |_| {}).await?;
        start.push(ms(session.started_in));
        let step = Instant::now();
        session.create("c").await?;
        create.push(ms(step.elapsed()));
        let step = Instant::now();
        session.start_process("c", "").await?;
        run.push(ms(step.elapsed()));
        session.kill("c", "", 9).await?;
        session.wait("c", "").await?;
        let step = Instant::now();
        session.delete("c", "").await?;
        delete.push(ms(step.elapsed()));
        after.push(ms(session.end().await?));
        whole.push(ms(begun.elapsed()));
    }
    let mut seen = Seen::new();
    let named = |what: &str| format!("{what}, {}", runtime.name);
    quantiles(&mut seen, &named("start to address"), &start);
    quantiles(&mut seen, &named("Create"), &create);
    quantiles(&mut seen, &named("Start"), &run);
    quantiles(&mut seen, &named("Delete"), &delete);
    quantiles(&mut seen, &named("delete action"), &after);
    quantiles(&mut seen, &named("container cycle"), &whole);
    Ok(seen)
}

/// Execs one after another and many at a time, and State meanwhile.
pub async fn execs(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let session = Session::running(who, runtime, place).await?;
    let mut seen = Seen::new();
    let mut times = vec![];
    for n in 0..scale.execs {
        let begun = Instant::now();
        session.exec_cycle(&format!("s{n}")).await?;
        times.push(ms(begun.elapsed()));
    }
    let name = format!("exec cycle, {}", runtime.name);
    quantiles(&mut seen, &name, &times);

    for at_once in [1, 4, 16, 64] {
        let begun = Instant::now();
        let times = many_execs(&session, &format!("p{at_once}"), at_once, scale.parallel).await?;
        let wall = ms(begun.elapsed()) / times.len().max(1) as f64;
        let name = format!("exec, {at_once} at once, {}", runtime.name);
        seen.push((format!("{name}, wall per exec (ms)"), wall));
        quantiles(&mut seen, &name, &times);
    }
    session.remove("c").await?;
    session.end().await?;
    Ok(seen)
}

/// `count` execs, `at_once` of them under way; the time each took, in ms.
async fn many_execs(client: &Client, name: &str, at_once: usize, count: usize) -> Result<Vec<f64>> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let (client, next, name) = (client.clone(), Arc::clone(&next), name.to_owned());
        workers.spawn(async move {
            let mut times = vec![];
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Result::<Vec<f64>>::Ok(times);
                }
                let begun = Instant::now();
                client.exec_cycle(&format!("{name}-{n}")).await?;
                times.push(ms(begun.elapsed()));
            }
        });
    }
    let mut all = vec![];
    while let Some(done) = workers.join_next().await {
        all.extend(done.map_err(|e| Error::unknown(e.to_string()))??);
    }
    Ok(all)
}

/// What a runtime's own exec of `true` takes when a person calls it: the floor of an exec.
pub async fn bare(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let session = Session::running(who, runtime, place).await?;
    let root = Path::new(&session.options.root).join(session.namespace());
    let mut times = vec![];
    for _ in 0..scale.execs {
        let begun = Instant::now();
        let status = Command::new(&runtime.binary)
            .arg("--root")
            .arg(&root)
            .args(["exec", "c", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(|e| Error::io("run the runtime by hand", &e))?;
        times.push(ms(begun.elapsed()));
        if !status.success() {
            return Err(Error::unknown(format!("exec by hand: {status}")));
        }
    }
    session.remove("c").await?;
    session.end().await?;
    let mut seen = Seen::new();
    quantiles(&mut seen, &format!("exec cycle, {}", runtime.name), &times);
    Ok(seen)
}

/// Questions to a running container, alone and while execs come and go.
pub async fn calls(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let session = Session::running(who, runtime, place).await?;
    let mut seen = Seen::new();
    let id = || "c".to_owned();
    macro_rules! times {
        ($call:expr) => {{
            let mut times = vec![];
            for _ in 0..scale.calls {
                let begun = Instant::now();
                $call.await?;
                times.push(ms(begun.elapsed()));
            }
            times
        }};
    }
    let tasks = &session.tasks;
    let state = StateRequest {
        id: id(),
        ..Default::default()
    };
    let pids = PidsRequest {
        id: id(),
        ..Default::default()
    };
    let stats = StatsRequest {
        id: id(),
        ..Default::default()
    };
    quantiles(&mut seen, "State", &times!(tasks.state(&state)));
    quantiles(&mut seen, "Pids", &times!(tasks.pids(&pids)));
    quantiles(&mut seen, "Stats", &times!(tasks.stats(&stats)));
    quantiles(
        &mut seen,
        "Kill with signal 0",
        &times!(session.kill("c", "", 0)),
    );

    let client = session.client.clone();
    let count = scale.parallel * 2;
    let load = tokio::spawn(async move { many_execs(&client, "load", 16, count).await });
    let mut times = vec![];
    while !load.is_finished() {
        let begun = Instant::now();
        tasks.state(&state).await?;
        times.push(ms(begun.elapsed()));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    load.await.map_err(|e| Error::unknown(e.to_string()))??;
    quantiles(&mut seen, "State under 16 execs at once", &times);
    session.remove("c").await?;
    session.end().await?;
    Ok(seen)
}

/// Orphans of a container in the host's pid namespace die all at once, and an exec right after them:
/// how long it takes until its exit is told.
pub async fn storm(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let mut session = Session::start(who, runtime, place, |spec| spec.host_pids = true).await?;
    session.create("c").await?;
    session.start_process("c", "").await?;
    let program = format!(
        "i=0; while [ $i -lt {} ]; do (sleep 100000 &); i=$((i+1)); done",
        scale.storm
    );
    session
        .exec("c", "orphans", &["sh", "-c", &program])
        .await?;
    session.start_process("c", "orphans").await?;
    session.wait("c", "orphans").await?;
    session.exec("c", "last", &["sleep", "100000"]).await?;
    let last = session.start_process("c", "last").await?;
    let shim = session.pid().await?;
    let orphans: Vec<i32> = children(shim)
        .into_iter()
        .filter(|pid| pid.unsigned_abs() != last)
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|c| c.starts_with("sleep\x00100000"))
        })
        .collect();
    // All but the init, which is a child of the shim too.
    if orphans.len() < scale.storm {
        return Err(Error::unknown(format!("only {} orphans", orphans.len())));
    }
    let init = session
        .tasks
        .state(&StateRequest {
            id: "c".into(),
            ..Default::default()
        })
        .await?;
    let begun = Instant::now();
    for pid in orphans.iter().filter(|pid| pid.unsigned_abs() != init.pid) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::SIGKILL);
    }
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(last.cast_signed()),
        nix::sys::signal::SIGKILL,
    );
    session
        .event(|e| matches!(e, Event::Exit(exit) if exit.id == "last"))
        .await?;
    let took = begun.elapsed();
    session.remove("c").await?;
    session.end().await?;
    let rate = scale.storm as f64 / took.as_secs_f64();
    Ok(vec![
        (
            format!("exit told behind {} others (ms)", scale.storm),
            ms(took),
        ),
        ("exits in a storm (1/s)".into(), rate),
    ])
}

fn children(pid: u32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return vec![];
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Bytes through a FIFO, in large and in small writes.
pub async fn stream(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let mut seen = Seen::new();
    let bytes = scale.stream << 20;
    for (name, block, count) in [
        ("64 KiB writes", 64 << 10, bytes / (64 << 10)),
        ("100 byte writes", 100, bytes / 100 / 32),
    ] {
        let session = Session::start(who, runtime, place, |spec| {
            let (block, count) = (format!("bs={block}"), format!("count={count}"));
            spec.args = ["dd", "if=/dev/zero", &block, &count]
                .map(str::to_owned)
                .into();
        })
        .await?;
        let fifos = Fifos::create(&session.dir, "io", false)?;
        let mut reader = pipe::OpenOptions::new()
            .open_receiver(&fifos.stdout)
            .map_err(|e| Error::io("open the FIFO", &e))?;
        session.create_with("c", &fifos.stdout).await?;
        let shim = session.pid().await?;
        let before = proc::cpu(shim)?;
        let begun = Instant::now();
        session.start_process("c", "").await?;
        let mut buffer = vec![0; 64 << 10];
        let mut got = 0;
        while got < block * count {
            let read = reader
                .read(&mut buffer)
                .await
                .map_err(|e| Error::io("read the FIFO", &e))?;
            got += read;
            if read == 0 {
                return Err(Error::unknown(format!("stdout ended after {got} bytes")));
            }
        }
        let took = begun.elapsed().as_secs_f64();
        let cpu = proc::cpu(shim)? - before;
        let gib = got as f64 / f64::from(1 << 30);
        seen.push((format!("stdout, {name} (MiB/s)"), gib * 1024.0 / took));
        seen.push((format!("shim CPU for stdout, {name} (s/GiB)"), cpu / gib));
        session.wait("c", "").await?;
        session.delete("c", "").await?;
        session.end().await?;
    }
    Ok(seen)
}

/// Memory, threads and descriptors with one container, after many execs, and with many containers.
pub async fn footprint(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let mut session = Session::running(who, runtime, place).await?;
    let shim = session.pid().await?;
    let mut seen = Seen::new();
    let settle = || tokio::time::sleep(Duration::from_secs(1));
    settle().await;
    let one = proc::memory(shim)?;
    seen.push(("private memory, 1 container (KB)".into(), one.anonymous));
    seen.push(("PSS, 1 container (KB)".into(), one.pss));
    seen.push(("RSS, 1 container (KB)".into(), one.rss));
    seen.push(("threads, idle".into(), proc::threads(shim)?));
    seen.push(("descriptors, idle".into(), proc::fds(shim)));
    many_execs(&session, "m", 4, scale.many_execs).await?;
    settle().await;
    let after = proc::memory(shim)?.anonymous;
    seen.push((
        format!("private memory after {} execs (KB)", scale.many_execs),
        after,
    ));
    for n in 1..=scale.crowd {
        let id = format!("c{n}");
        session.bundle(&id)?;
        session.create(&id).await?;
        session.start_process(&id, "").await?;
    }
    settle().await;
    let crowd = proc::memory(shim)?.anonymous;
    let each = (crowd - after).max(0.0) / scale.crowd as f64;
    seen.push(("private memory per further container (KB)".into(), each));
    for n in 1..=scale.crowd {
        session.remove(&format!("c{n}")).await?;
    }
    session.remove("c").await?;
    session.end().await?;
    Ok(seen)
}

/// What the machine has less of with many shims, each with a container.
pub async fn marginal(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    // One first: what all share is no shim's cost.
    let mut sessions = vec![Session::running(who, runtime, place).await?];
    let before = proc::available()?;
    for _ in 0..scale.crowd {
        sessions.push(Session::running(who, runtime, place).await?);
    }
    let cost = (before - proc::available()?) / scale.crowd as f64;
    for session in sessions {
        session.remove("c").await?;
        session.end().await?;
    }
    Ok(vec![(
        format!(
            "memory of the machine per shim and container, of {} (KB)",
            scale.crowd
        ),
        cost,
    )])
}

/// How often a shim with one idle container wakes up.
pub async fn idle(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let session = Session::running(who, runtime, place).await?;
    let shim = session.pid().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = proc::switches(shim);
    tokio::time::sleep(scale.idle).await;
    let wakeups = (proc::switches(shim) - before) * 60.0 / scale.idle.as_secs_f64();
    session.remove("c").await?;
    session.end().await?;
    Ok(vec![("wake-ups of an idle shim (1/min)".into(), wakeups)])
}

/// How often each RPC runs the runtime.
pub async fn runtime_calls(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    _: &Scale,
) -> Result<Seen> {
    let list = place.dir.join("calls");
    let wrapper = place.dir.join(runtime.name);
    let failed = |e: &std::io::Error| Error::io("make the counting runtime", e);
    let script = format!(
        "#!/bin/sh\necho >>{}\nexec {} \"$@\"\n",
        list.display(),
        runtime.binary.display()
    );
    fs::write(&wrapper, script).map_err(|e| failed(&e))?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).map_err(|e| failed(&e))?;
    let counting = Runtime {
        name: runtime.name,
        binary: wrapper,
    };
    let count = || fs::read_to_string(&list).map_or(0, |list| list.lines().count());
    let mut seen = Seen::new();
    let mut before = count();
    let mut note = |what: &str| {
        let now = count();
        seen.push((format!("runtime calls of {what}"), (now - before) as f64));
        before = now;
    };
    let session = Session::start(who, &counting, place, |_| {}).await?;
    let id = || "c".to_owned();
    note("start");
    session.create("c").await?;
    note("Create");
    session.start_process("c", "").await?;
    note("Start");
    session.exec_cycle("x").await?;
    note("an exec cycle");
    let pids = PidsRequest {
        id: id(),
        ..Default::default()
    };
    session.tasks.pids(&pids).await?;
    note("Pids");
    let stats = StatsRequest {
        id: id(),
        ..Default::default()
    };
    session.tasks.stats(&stats).await?;
    note("Stats");
    let pause = PauseRequest {
        id: id(),
        ..Default::default()
    };
    session.tasks.pause(&pause).await?;
    note("Pause");
    let resume = ResumeRequest {
        id: id(),
        ..Default::default()
    };
    session.tasks.resume(&resume).await?;
    note("Resume");
    session.kill("c", "", 9).await?;
    note("Kill");
    session.wait("c", "").await?;
    session.delete("c", "").await?;
    note("exit and Delete");
    session.end().await?;
    note("Shutdown and the delete action");
    Ok(seen)
}
