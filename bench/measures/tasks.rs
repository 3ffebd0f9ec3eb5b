//! Containers, execs and questions, one after another and many at a time.

use std::time::{Duration, Instant};

use cotter::error::{Error, Result};
use cotter::manager::request;

use super::{Scale, Seen, many_execs, ms, quantiles};
use crate::contestant::{Contestant, Place, Runtime, Session};

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
        // Enough that the beginning and the end of it, when fewer are under way, are the smaller part.
        let count = scale.parallel.max(2 * at_once.min(scale.parallel));
        let begun = Instant::now();
        let times = many_execs(&session, &format!("p{at_once}"), at_once, count).await?;
        let wall = ms(begun.elapsed()) / times.len().max(1) as f64;
        let name = format!("exec, {at_once} at once, {}", runtime.name);
        seen.push((format!("{name}, wall per exec (ms)"), wall));
        seen.push((format!("{name}, throughput (1/s)"), 1e3 / wall));
        quantiles(&mut seen, &name, &times);
    }
    session.finish().await?;
    Ok(seen)
}

/// What a runtime's own exec of `true` takes when a person calls it: the floor of an exec.
pub async fn bare(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let session = Session::running(who, runtime, place).await?;
    let mut times = vec![];
    for _ in 0..scale.execs {
        let begun = Instant::now();
        session.by_hand(&["exec", "c", "true"])?;
        times.push(ms(begun.elapsed()));
    }
    session.finish().await?;
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
    let state = request::state("c", "");
    let (pids, stats) = (request::pids("c"), request::stats("c"));
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
    session.finish().await?;
    Ok(seen)
}
