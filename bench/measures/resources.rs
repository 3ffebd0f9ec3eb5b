//! What a shim has when it rests: memory, threads, descriptors, and how often it wakes up.

use std::collections::BTreeSet;
use std::time::Duration;

use cotter::error::{Error, Result};

use super::{Scale, Seen, many_execs};
use crate::charged::{Charge, Charged, plausible};
use crate::contestant::{Contestant, Place, Runtime, Session};
use crate::proc;

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
    let rest = || tokio::time::sleep(scale.rest);
    rest().await;
    let one = proc::memory(shim)?;
    seen.push(("private memory, 1 container (KB)".into(), one.anonymous));
    seen.push(("PSS, 1 container (KB)".into(), one.pss));
    seen.push(("RSS, 1 container (KB)".into(), one.rss));
    seen.push(("threads, idle".into(), proc::threads(shim)?));
    seen.push(("descriptors, idle".into(), proc::fds(shim)));
    many_execs(&session, "m", 4, scale.many_execs).await?;
    rest().await;
    let after = proc::memory(shim)?.anonymous;
    let execs = scale.many_execs;
    seen.push((format!("private memory after {execs} execs (KB)"), after));
    let growth = (after - one.anonymous) / one.anonymous * 100.0;
    seen.push(("growth of private memory by execs (%)".into(), growth));
    let mut last = 0;
    for crowd in scale.crowds {
        for n in last + 1..=crowd {
            let id = format!("c{n}");
            session.bundle(&id)?;
            session.create(&id).await?;
            session.start_process(&id, "").await?;
        }
        last = crowd;
        rest().await;
        let now = proc::memory(shim)?.anonymous;
        let each = (now - after).max(0.0) / crowd as f64;
        seen.push((
            format!("private memory per further container, of {crowd} (KB)"),
            each,
        ));
    }
    seen.push((
        format!("descriptors with {last} further containers"),
        proc::fds(shim),
    ));
    for n in 1..=last {
        session.remove(&format!("c{n}")).await?;
    }
    session.finish().await?;
    Ok(seen)
}

/// What many shims, each with a container, are charged for.
pub async fn marginal(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let charged = Charged::new(&format!("cotter-bench-{}", std::process::id()))?;
    let who = Contestant {
        name: who.name.clone(),
        binary: charged.program(&who.binary, &place.dir)?,
        dialect: who.dialect,
        environment: who.environment,
    };
    // One first: what all share is no shim's cost.
    let mut sessions = vec![Session::running(&who, runtime, place).await?];
    tokio::time::sleep(scale.rest).await;
    let before = charged.now()?;
    let mut shims = BTreeSet::new();
    for _ in 0..scale.shims {
        let session = Session::running(&who, runtime, place).await?;
        shims.insert(session.pid().await?);
        sessions.push(session);
    }
    tokio::time::sleep(scale.rest).await;
    let after = charged.now()?;
    // Of each on its own: another word for the same memory, by which the sum can be checked.
    let mut private = 0.0;
    for shim in &shims {
        private += proc::memory(*shim)?.anonymous;
    }
    let apart = shims.len();
    for session in sessions {
        session.finish().await?;
    }
    let wanted = scale.shims;
    if apart != wanted {
        let told = format!("{wanted} starts made {apart} shims");
        return Err(Error::failed_precondition(told));
    }
    let mut seen = charges(before, after, wanted);
    let each = private / wanted as f64;
    plausible(seen[0].1, each).map_err(Error::failed_precondition)?;
    seen.push((
        format!("private memory of the same shims, of {wanted} (KB)"),
        each,
    ));
    Ok(seen)
}

/// What as many containers are charged for when nobody but the runtime makes them.
pub async fn bare_marginal(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let charged = Charged::new(&format!("cotter-bench-{}", std::process::id()))?;
    let runtime = Runtime {
        name: runtime.name,
        binary: charged.program(&runtime.binary, &place.dir)?,
    };
    // Its namespace, cgroups and directory, and what ends all of it if this fails.
    let mut session = Session::running(who, &runtime, place).await?;
    tokio::time::sleep(scale.rest).await;
    let before = charged.now()?;
    let ids: Vec<String> = (0..scale.shims).map(|n| format!("h{n}")).collect();
    for id in &ids {
        session.bundle(id)?;
        let bundle = session.dir.join(id);
        session.by_hand(&["run", "-d", "--bundle", &bundle.to_string_lossy(), id])?;
    }
    tokio::time::sleep(scale.rest).await;
    let after = charged.now()?;
    for id in &ids {
        session.by_hand(&["delete", "--force", id])?;
    }
    session.finish().await?;
    Ok(charges(before, after, scale.shims))
}

fn charges(before: Charge, after: Charge, count: usize) -> Seen {
    let each = |after: f64, before: f64| (after - before) / count as f64;
    let anonymous = each(after.anonymous, before.anonymous);
    let kernel = each(after.kernel, before.kernel);
    vec![
        (
            format!("memory charged per shim and container, of {count} (KB)"),
            anonymous + kernel,
        ),
        (format!("the kernel's part of it, of {count} (KB)"), kernel),
    ]
}

/// How often shims with one idle container each wake up, all in the same minute.
pub async fn idle(
    all: &[Contestant],
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Vec<Result<Seen>> {
    let mut sessions = vec![];
    for who in all {
        let begun = async {
            let session = Session::running(who, runtime, place).await?;
            let shim = session.pid().await?;
            Result::Ok((session, shim))
        };
        sessions.push(begun.await);
    }
    tokio::time::sleep(2 * scale.rest).await;
    let switches = |sessions: &[Result<(Session, u32)>]| {
        let pids = sessions.iter().map(|s| s.as_ref().map_or(0, |s| s.1));
        pids.map(proc::switches).collect::<Vec<f64>>()
    };
    let before = switches(&sessions);
    tokio::time::sleep(scale.idle).await;
    let after = switches(&sessions);
    let per_minute = Duration::from_secs(60).as_secs_f64() / scale.idle.as_secs_f64();
    let mut all = vec![];
    for (n, session) in sessions.into_iter().enumerate() {
        let ended = async {
            let (session, _) = session?;
            session.finish().await?;
            let woken = (after[n] - before[n]) * per_minute;
            Ok(vec![("wake-ups of an idle shim (1/min)".into(), woken)])
        };
        all.push(ended.await);
    }
    all
}
