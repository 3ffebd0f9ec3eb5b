//! OOM kills in numbers: none is missed, none told twice, each before the exit it caused; and how soon it is
//! told. Prints a table; the time is not judged.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use cotter::cgroup::Cgroup;
use cotter::manager::dialect::Dialect;
use cotter::manager::events::{Event, Told};
use cotter::manager::spec::Spec;
use tokio::task::LocalSet;

use crate::cgroup;
use crate::common::containers;
use crate::common::shim::{Shim, run};
use crate::oom::catches_usr1;
use crate::oom_who::kernel_log;

const LIMIT: i64 = 24 << 20;
/// As many containers as a round has.
const MANY: usize = 10;
const EXECS: usize = 3;

/// `COTTER_OOM_ROUNDS` asks for the long form, of 100.
fn rounds() -> usize {
    let asked = std::env::var("COTTER_OOM_ROUNDS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(5)
}

fn spec(id: &str, script: &str) -> Spec {
    let mut spec = Spec::new(id, ["sh", "-c", script]);
    spec.memory_limit = Some(LIMIT);
    spec
}

/// What was told of one container.
#[derive(Default)]
struct Seen {
    ooms: usize,
    kills: u64,
    before_the_exit: bool,
}

fn seen(told: &[Told]) -> BTreeMap<String, Seen> {
    let mut all: BTreeMap<String, Seen> = BTreeMap::new();
    for told in told {
        let seen = all.entry(told.event.container().to_owned()).or_default();
        match &told.event {
            Event::Oom(_) => seen.ooms += 1,
            Event::OomKill(kill) => seen.kills += kill.kills,
            Event::Exit(exit) if exit.id == exit.container_id => {
                seen.before_the_exit = seen.ooms > 0 && seen.kills > 0;
            }
            _ => {}
        }
    }
    all
}

/// Kills, and what was wrong with how they were told.
#[derive(Debug, Default)]
struct Count {
    kills: u64,
    ooms: u64,
    /// Containers whose exit came before.
    late: u64,
    missed: u64,
    twice: u64,
}

impl Count {
    fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.ooms += other.ooms;
        self.late += other.late;
        self.missed += other.missed;
        self.twice += other.twice;
    }

    fn wrong(&self) -> u64 {
        self.late + self.missed + self.twice
    }
}

/// One round: the inits of all containers eat memory at once, while processes come into them.
async fn round(shim: &mut Shim, round: usize) -> Count {
    let ids: Vec<String> = (0..MANY).map(|n| format!("r{round}-{n}")).collect();
    let mut groups: BTreeMap<String, Cgroup> = BTreeMap::new();
    for id in &ids {
        let hungry = "trap 'exec tail /dev/zero' USR1; while :; do sleep 0.02; done";
        let mut spec = spec(id, hungry);
        // Of several containers: what init leaves behind is then the shim's to end.
        spec.host_pids = true;
        shim.bundle(id, spec);
        shim.create(id).await.unwrap();
        let pid = shim.start_process(id, "").await.unwrap();
        catches_usr1(pid).await;
        groups.insert(id.clone(), cgroup(pid));
    }
    // Calls of their own, some of which come too late.
    let local = LocalSet::new();
    for id in &ids {
        for n in 0..EXECS {
            let (tasks, request) = (
                shim.tasks.clone(),
                shim.exec_request(id, &format!("x{n}"), &["sleep", "1000"]),
            );
            let start = cotter::proto::task::StartRequest {
                id: id.clone(),
                exec_id: format!("x{n}"),
                ..Default::default()
            };
            local.spawn_local(async move {
                if tasks.exec(&request).await.is_ok() {
                    let _ = tasks.start(&start).await;
                }
            });
        }
    }
    local
        .run_until(async {
            for id in &ids {
                shim.kill(id, "", 10).await.unwrap();
            }
            for id in &ids {
                assert_eq!(shim.wait(id, "").await.unwrap().exit_status, 137);
            }
        })
        .await;
    local.await;
    let counted: BTreeMap<&String, u64> = groups
        .iter()
        .map(|(id, g)| (id, g.oom_kills().unwrap()))
        .collect();
    let mut told = Vec::new();
    for id in &ids {
        shim.delete(id, "").await.unwrap();
        let last =
            |e: &Event| matches!(e, Event::Delete(d) if d.container_id == *id && d.id.is_empty());
        told.extend(shim.events_until(last).await);
    }
    let all = seen(&told);
    let mut count = Count::default();
    for id in &ids {
        let seen = &all[id];
        let (counted, ooms) = (counted[id], seen.ooms as u64);
        let this = Count {
            kills: seen.kills,
            ooms,
            late: u64::from(!seen.before_the_exit),
            missed: counted.saturating_sub(seen.kills),
            twice: seen.kills.saturating_sub(counted) + ooms.saturating_sub(seen.kills),
        };
        if this.wrong() > 0 {
            eprintln!("{id}: {counted} counted, {this:?}: {told:#?}");
        }
        count.add(&this);
    }
    count
}

#[test]
fn in_a_storm_none_is_missed_and_none_told_twice() {
    let began = Instant::now();
    let mut count = Count::default();
    for n in 0..rounds() {
        run(async {
            let mut shim = Shim::start_as(
                Dialect::Proto23,
                "RUNC",
                spec("first", "sleep 1000"),
                "first",
            )
            .await;
            // On a slow machine a call waits for its turn for long.
            shim.tasks = shim.tasks.within(Duration::from_secs(240));
            count.add(&round(&mut shim, n).await);
            shim.end().await;
        });
    }
    eprintln!("OOM: rounds  containers  kills  TaskOOM  late  missed  twice  seconds");
    eprintln!(
        "OOM: {:>6}  {:>10}  {:>5}  {:>7}  {:>4}  {:>6}  {:>5}  {:>7.1}",
        rounds(),
        rounds() * MANY,
        count.kills,
        count.ooms,
        count.late,
        count.missed,
        count.twice,
        began.elapsed().as_secs_f64()
    );
    assert_eq!(count.wrong(), 0, "{count:?}");
    assert!(count.kills >= (rounds() * MANY) as u64, "{count:?}");
}

/// The kernel's clock, in which its log is written, against ours: the moment of its zero.
fn zero_of_the_kernel() -> Instant {
    let mark = crate::common::unique("oom-clock");
    let mut log = std::fs::File::options()
        .write(true)
        .open("/dev/kmsg")
        .unwrap();
    let now = Instant::now();
    // Without its end the line would be waiting for more.
    log.write_all(format!("{mark}\n").as_bytes()).unwrap();
    now - at(&kernel_log(), &mark).unwrap()
}

/// When the first record with these words was written.
fn at(log: &str, words: &str) -> Option<Duration> {
    let line = log.lines().find(|line| line.contains(words))?;
    let time = line.split(',').nth(2)?;
    Some(Duration::from_micros(time.parse().ok()?))
}

#[test]
fn how_soon_a_kill_is_told_among_fifty_containers() {
    let (idle, killed) = (containers(50), containers(100));
    run(async {
        let mut shim =
            Shim::start_as(Dialect::Proto23, "CRUN", spec("c0", "sleep 1000"), "c0").await;
        for n in 0..idle {
            let id = format!("c{n}");
            shim.bundle(&id, spec(&id, "sleep 1000"));
            shim.create(&id).await.unwrap();
            shim.start_process(&id, "").await.unwrap();
        }
        let zero = zero_of_the_kernel();
        let mut delays = Vec::new();
        for n in 0..killed {
            let id = format!("k{n}");
            shim.bundle(&id, spec(&id, "exec tail /dev/zero"));
            shim.create(&id).await.unwrap();
            let pid = shim.start_process(&id, "").await.unwrap();
            let told = shim
                .events_until(|e| matches!(e, Event::Oom(o) if o.container_id == id))
                .await;
            let words = format!("Killed process {pid} (tail)");
            let at = at(&kernel_log(), &words).expect("the kernel logs every kill");
            let received = told.last().unwrap().received;
            delays.push(received.saturating_duration_since(zero + at));
            shim.wait(&id, "").await.unwrap();
            shim.delete(&id, "").await.unwrap();
        }
        for n in 0..idle {
            shim.remove(&format!("c{n}")).await;
        }
        shim.end().await;
        delays.sort();
        let of = |percent: usize| delays[(delays.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        eprintln!("OOM: containers  kills  p50 ms  p99 ms  (from the kill to TaskOOM)");
        eprintln!(
            "OOM: {idle:>10}  {killed:>5}  {:>6.2}  {:>6.2}",
            of(50),
            of(99)
        );
    });
}
