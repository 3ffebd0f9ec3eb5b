//! Much at once: exits that are nobody's, and events.

use std::fs;
use std::time::{Duration, Instant};

use cotter::error::{Error, Result};
use cotter::manager::events::Event;
use cotter::manager::request;
use cotter::manager::spec::Spec;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

use super::{Scale, Seen, many, ms};
use crate::contestant::{Contestant, Place, Runtime, Session};

/// A shim that takes so long has stopped telling: no storm takes a tenth of it. Waiting on would cost the others
/// their rounds.
const SILENT: Duration = Duration::from_secs(20);
/// How long a shim is given to end after a storm.
const ENDS: Duration = Duration::from_secs(5);

/// Orphans of a container in the host's pid namespace die all at once, and an exec right after them:
/// how long it takes until its exit is told.
pub async fn storm(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let [few, many] = scale.storms;
    let host_pids = |spec: &mut Spec| spec.host_pids = true;
    let mut session = Session::running_as(who, runtime, place, host_pids).await?;
    let mut took = [Duration::ZERO; 2];
    for (took, count) in took.iter_mut().zip([few, many]) {
        let told = timeout(SILENT, orphans(&mut session, count)).await;
        let silent = || format!("{count} exits at once were not told within {SILENT:?}");
        *took = told.map_err(|_| Error::deadline_exceeded(silent()))??;
    }
    let [short, long] = took;
    // Some take a minute to end after that, which is no part of this; what is left is swept away.
    match timeout(ENDS, session.finish()).await {
        Ok(ended) => ended?,
        Err(_) => eprintln!("storm: {} had not ended {ENDS:?} after it", who.name),
    }
    let each = |took: Duration, count: usize| took.as_secs_f64() / count as f64;
    Ok(vec![
        (format!("exit told behind {many} others (ms)"), ms(long)),
        ("exits in a storm (1/s)".into(), 1.0 / each(long, many)),
        (
            format!("time per exit, {many} against {few} at once"),
            each(long, many) / each(short, few),
        ),
    ])
}

/// From the first of `count` deaths to the news of the one behind them.
async fn orphans(session: &mut Session, count: usize) -> Result<Duration> {
    let program = format!("i=0; while [ $i -lt {count} ]; do (sleep 100000 &); i=$((i+1)); done");
    let (maker, last) = (format!("maker-{count}"), format!("last-{count}"));
    session.exec("c", &maker, &["sh", "-c", &program]).await?;
    session.start_process("c", &maker).await?;
    session.wait("c", &maker).await?;
    session.delete("c", &maker).await?;
    session.exec("c", &last, &["sleep", "100000"]).await?;
    let pid = session.start_process("c", &last).await?;
    let init = session.tasks.state(&request::state("c", "")).await?.pid;
    let sleeps = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
    };
    let victims: Vec<u32> = children(session.pid().await?)
        .into_iter()
        .filter(|child| *child != pid && *child != init)
        .filter(sleeps)
        .collect();
    if victims.len() != count {
        let found = victims.len();
        return Err(Error::unknown(format!("{found} orphans of {count}")));
    }
    let begun = Instant::now();
    for pid in victims.into_iter().chain([pid]) {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    session
        .event(|e| matches!(e, Event::Exit(exit) if exit.id == last))
        .await?;
    let took = begun.elapsed();
    session.delete("c", &last).await?;
    Ok(took)
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return vec![];
    };
    let lists = tasks.flatten().map(|task| task.path().join("children"));
    let lists = lists.filter_map(|list| fs::read_to_string(list).ok());
    lists
        .flat_map(|list| {
            let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<u32>>()
        })
        .collect()
}

/// Execs that are only registered, which costs no process and tells one event each: how many events a
/// second arrive until the last has.
pub async fn events(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let mut session = Session::running(who, runtime, place).await?;
    let client = session.client.clone();
    let count = scale.events;
    let begun = Instant::now();
    let load = tokio::spawn(async move {
        many(&client, 16, count, |client, n| async move {
            client.exec("c", &format!("e{n}"), &["true"]).await
        })
        .await
    });
    for _ in 0..count {
        session.event(|e| matches!(e, Event::ExecAdded(_))).await?;
    }
    let took = begun.elapsed();
    load.await.map_err(|e| Error::unknown(e.to_string()))??;
    session.finish().await?;
    let rate = count as f64 / took.as_secs_f64();
    Ok(vec![("events (1/s)".into(), rate)])
}
