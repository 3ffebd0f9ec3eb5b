//! The measures: each takes one contestant through one round and writes down what it saw.

pub mod bursts;
pub mod output;
pub mod probes;
pub mod resources;
pub mod spawns;
pub mod tasks;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cotter::error::{Error, Result};
use tokio::task::JoinSet;

use crate::contestant::Client;
use crate::figures::percentile;

/// How much of everything is done in a round.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Rounds of the measures that are repeated, at most.
    pub rounds: usize,
    /// `start`s and container cycles per round.
    pub cycles: usize,
    /// Execs one after another per round.
    pub execs: usize,
    /// Execs per round that come alone.
    pub probes: usize,
    /// Execs per round at each level of parallelism.
    pub parallel: usize,
    /// Calls per RPC and round.
    pub calls: usize,
    /// Processes that die at once, in the smaller and the larger storm.
    pub storms: [usize; 2],
    /// Events told as fast as they are taken.
    pub events: usize,
    /// MiB through a FIFO.
    pub stream: usize,
    /// Execs after which memory is looked at again.
    pub many_execs: usize,
    /// Further containers in one shim, from few to many.
    pub crowds: [usize; 3],
    /// Shims on one machine.
    pub shims: usize,
    /// How long an idle shim is watched.
    pub idle: Duration,
    /// How long a process rests before its memory is looked at.
    pub rest: Duration,
    /// Execs of which a profile is made.
    pub profile: usize,
}

impl Scale {
    /// What the figures in the docs are made with.
    pub const FULL: Self = Self {
        rounds: 5,
        cycles: 10,
        execs: 100,
        probes: 40,
        parallel: 64,
        calls: 100,
        storms: [500, 2000],
        events: 2000,
        stream: 1024,
        many_execs: 1000,
        crowds: [1, 10, 100],
        shims: 100,
        idle: Duration::from_secs(60),
        rest: Duration::from_secs(1),
        profile: 200,
    };
    /// Enough to see that everything works.
    pub const QUICK: Self = Self {
        rounds: 1,
        cycles: 2,
        execs: 5,
        probes: 3,
        parallel: 8,
        calls: 5,
        storms: [20, 40],
        events: 50,
        stream: 16,
        many_execs: 20,
        crowds: [1, 2, 3],
        shims: 3,
        idle: Duration::from_secs(1),
        rest: Duration::from_millis(200),
        profile: 3,
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

/// `count` times `work`, `at_once` of them under way; the time each took, in ms.
async fn many<F: Future<Output = Result<()>> + Send>(
    client: &Client,
    at_once: usize,
    count: usize,
    work: impl Fn(Client, usize) -> F + Clone + Send + 'static,
) -> Result<Vec<f64>> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let (client, next, work) = (client.clone(), Arc::clone(&next), work.clone());
        workers.spawn(async move {
            let mut times = vec![];
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Result::<Vec<f64>>::Ok(times);
                }
                let begun = Instant::now();
                work(client.clone(), n).await?;
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

/// As [`many`], execs of `true` from Exec to Delete, whose names begin with `name`.
async fn many_execs(client: &Client, name: &str, at_once: usize, count: usize) -> Result<Vec<f64>> {
    let name = name.to_owned();
    many(client, at_once, count, move |client, n| {
        let exec = format!("{name}-{n}");
        async move { client.exec_cycle(&exec).await }
    })
    .await
}
