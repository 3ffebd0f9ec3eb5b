//! Probes: execs of `true`, as a kubelet asks for them, each by itself or many at once, and what all of it takes of
//! the processors: the shim, the runtime, whatever stands between, and the program.

use std::time::{Duration, Instant};

use cotter::error::{Error, Result};
use cotter::manager::request;

use super::{Scale, Seen, many_execs, ms, quantiles};
use crate::contestant::{Contestant, Place, Runtime, Session};
use crate::proc::{cpu, cpu_of_children};

/// Between two probes that come alone: what the kernel defers to its next quiet moment is over by then.
const APART: Duration = Duration::from_millis(200);

/// Wall and processor time of a probe.
pub async fn probes(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let session = Session::running(who, runtime, place).await?;
    let shim = session.pid().await?;
    // What there is to be found out is found out at the first.
    session.exec_cycle("first").await?;
    let mut seen = Seen::new();
    let name = |how: &str| format!("probe {how}, {}", runtime.name);

    let (begun, mut times) = (processor(shim)?, vec![]);
    for n in 0..scale.probes {
        tokio::time::sleep(APART).await;
        let begun = Instant::now();
        session.exec_cycle(&format!("a{n}")).await?;
        times.push(ms(begun.elapsed()));
    }
    let each = (processor(shim)? - begun) / times.len().max(1) as f64;
    quantiles(&mut seen, &name("alone"), &times);
    seen.push((format!("{}, processor time (ms)", name("alone")), each));

    for (how, at_once) in [("after probe", 1), ("16 at once", 16), ("64 at once", 64)] {
        let count = scale.parallel.max(2 * at_once.min(scale.parallel));
        let begun = (processor(shim)?, Instant::now());
        let times = many_execs(&session, &format!("p{at_once}"), at_once, count).await?;
        let count = times.len().max(1) as f64;
        let wall = ms(begun.1.elapsed()) / count;
        let each = (processor(shim)? - begun.0) / count;
        seen.push((format!("{}, wall per probe (ms)", name(how)), wall));
        seen.push((format!("{}, processor time (ms)", name(how)), each));
    }

    let client = session.client.clone();
    let count = scale.parallel * 2;
    let load = tokio::spawn(async move { many_execs(&client, "load", 16, count).await });
    let (state, mut times) = (request::state("c", ""), vec![]);
    while !load.is_finished() {
        let begun = Instant::now();
        session.tasks.state(&state).await?;
        times.push(ms(begun.elapsed()));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    load.await.map_err(|e| Error::unknown(e.to_string()))??;
    let under = format!("State under 16 probes at once, {}", runtime.name);
    quantiles(&mut seen, &under, &times);
    tokio::time::sleep(scale.rest).await;
    let memory = crate::proc::memory(shim)?.anonymous;
    let after = format!("private memory after probes, {} (KB)", runtime.name);
    seen.push((after, memory));
    session.finish().await?;
    Ok(seen)
}

/// What a shim and all of its children that have ended have had of the processors, in milliseconds. All that an exec
/// starts ends as a child of the shim's, or of one of its children.
fn processor(shim: u32) -> Result<f64> {
    let (user, system) = cpu_of_children(shim)?;
    Ok((cpu(shim)? + user + system) * 1e3)
}
