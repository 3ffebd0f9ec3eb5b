//! The processes that an RPC costs, and where the time of an exec goes.

use std::time::Duration;

use cotter::error::{Error, Result};
use cotter::manager::request;

use super::{Scale, Seen};
use crate::contestant::{Contestant, Place, Runtime, Session};
use crate::figures::median;
use crate::proc;
use crate::trace::{Change, Told, Trace, descendants};

/// How many processes a shim makes for each RPC, and all that come of an exec.
pub async fn spawned(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    _: &Scale,
) -> Result<Seen> {
    let trace = Trace::start()?;
    let mut told = vec![];
    let mut seen = Seen::new();
    // A process that was made is known as soon as what made it is answered.
    let mut look = |from: Option<u32>| -> Result<(usize, usize)> {
        let new = trace.take()?;
        told.extend_from_slice(&new);
        let made =
            |one: &&Told| matches!(one.change, Change::Fork { parent } if Some(parent) == from);
        Ok((
            new.iter().filter(made).count(),
            descendants(&told, std::process::id()).len(),
        ))
    };
    let session = Session::start(who, runtime, place, |_| {}).await?;
    let (_, started) = look(None)?;
    let mut note = |what: &str, count: usize| {
        seen.push((format!("processes made by {what}"), count as f64));
    };
    note("the start action, in all", started);
    session.create("c").await?;
    // Not asked earlier: the Go shim answers Connect for a container it has only.
    let shim = Some(session.pid().await?);
    note("Create", look(shim)?.0);
    session.start_process("c", "").await?;
    let (own, before) = look(shim)?;
    note("Start", own);
    session.exec_cycle("x").await?;
    let (own, after) = look(shim)?;
    note("an exec cycle", own);
    note("an exec cycle, with the runtime's own", after - before);
    session.tasks.pids(&request::pids("c")).await?;
    note("Pids", look(shim)?.0);
    session.tasks.stats(&request::stats("c")).await?;
    note("Stats", look(shim)?.0);
    session.tasks.pause(&request::pause("c")).await?;
    note("Pause", look(shim)?.0);
    session.tasks.resume(&request::resume("c")).await?;
    note("Resume", look(shim)?.0);
    session.kill("c", "", 9).await?;
    note("Kill", look(shim)?.0);
    session.wait("c", "").await?;
    session.delete("c", "").await?;
    let (own, before) = look(shim)?;
    note("exit and Delete", own);
    session.end().await?;
    note(
        "Shutdown and the delete action, in all",
        look(None)?.1 - before,
    );
    Ok(seen)
}

/// The parts of one exec, in the order in which they follow on each other.
const PARTS: [&str; 8] = [
    "Exec: register it",
    "Start: until the runtime is forked",
    "Start: until it runs",
    "Start: the runtime itself",
    "Start: from its end to the answer",
    "the program, after the answer",
    "Wait: from its exit to the answer",
    "Delete",
];

/// Where the time of an exec goes: the client's clock around each RPC, and the kernel's word on when
/// the runtime and the program began and ended. The clock is the same.
pub async fn profile(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let session = Session::running(who, runtime, place).await?;
    let shim = session.pid().await?;
    let trace = Trace::start()?;
    let mut parts: [Vec<f64>; PARTS.len()] = Default::default();
    let mut whole = vec![];
    let (own, shims, theirs) = (
        proc::own_cpu()?,
        proc::cpu(shim)?,
        proc::cpu_of_children(shim)?,
    );
    for n in 0..scale.profile {
        let exec = format!("p{n}");
        trace.take()?;
        let asked = now()?;
        session.exec("c", &exec, &["true"]).await?;
        let registered = now()?;
        let pid = session.start_process("c", &exec).await?;
        let started = now()?;
        session.wait("c", &exec).await?;
        let waited = now()?;
        session.delete("c", &exec).await?;
        let deleted = now()?;
        let told = trace.take()?;
        let call = Call::find(&told, shim, pid, registered).ok_or_else(|| {
            Error::unknown(format!("{exec} is not in what the kernel told: {told:?}"))
        })?;
        let ended = call.program_ended.clamp(started, waited);
        let marks = [
            asked,
            registered,
            call.forked,
            call.runs,
            call.ended.min(started),
            started,
            ended,
            waited,
            deleted,
        ];
        for (part, pair) in parts.iter_mut().zip(marks.windows(2)) {
            part.push(pair[1].saturating_sub(pair[0]) as f64 / 1e6);
        }
        whole.push((deleted - asked) as f64 / 1e6);
    }
    let name = runtime.name;
    let mut seen: Seen = PARTS
        .iter()
        .zip(&parts)
        .map(|(part, times)| (format!("{name}, {part} (ms)"), median(times)))
        .collect();
    seen.push((format!("{name}, the whole (ms)"), median(&whole)));
    let each = |seconds: f64| seconds * 1e3 / scale.profile as f64;
    let (user, system) = proc::cpu_of_children(shim)?;
    let mut cpu = |what: &str, seconds: f64| {
        seen.push((format!("{name}, CPU of {what} (ms)"), each(seconds)));
    };
    cpu("the manager", proc::own_cpu()? - own);
    cpu("the shim", proc::cpu(shim)? - shims);
    cpu("runtime and program, user", user - theirs.0);
    cpu("runtime and program, kernel", system - theirs.1);
    session.finish().await?;
    Ok(seen)
}

/// The clock of the kernel's word.
fn now() -> Result<u64> {
    use nix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    let now = now.map_err(|e| Error::io("read the clock", &e.into()))?;
    let now = Duration::from(now).as_nanos();
    Ok(u64::try_from(now).unwrap_or(u64::MAX))
}

/// One call of the runtime as the kernel saw it.
struct Call {
    forked: u64,
    runs: u64,
    ended: u64,
    program_ended: u64,
}

impl Call {
    /// The first child of `shim` after `since`, and the container's process `pid`.
    fn find(told: &[Told], shim: u32, pid: u32, since: u64) -> Option<Self> {
        let made = |one: &&Told| one.change == Change::Fork { parent: shim } && one.at >= since;
        let fork = told.iter().find(made)?;
        let of = |pid: u32, change: Change| {
            let mut all = told
                .iter()
                .filter(|one| one.pid == pid && one.change == change);
            all.next().map(|one| one.at)
        };
        Some(Self {
            forked: fork.at,
            runs: of(fork.pid, Change::Exec)?,
            ended: of(fork.pid, Change::Exit)?,
            program_ended: of(pid, Change::Exit)?,
        })
    }
}
