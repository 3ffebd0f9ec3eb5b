//! `cotter stats`: what a container uses, what holds it up, and where its limits are.
//!
//! Invariant: everything is read once, when it is asked for; nothing is kept or polled. What cannot be
//! known is left out, never shown as zero.
//!
//! Usage comes through the shim's Stats, as every manager gets it. Zombies are not in a cgroup's list
//! of processes, though they count for its limit: they are found as children of those that are.
//! cgroup v1 knows no pressure of a container; what is shown there is the machine's, and said to be.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use cotter::cgroup::{Metrics, host_pressure};
use cotter::dump::Dump;
use cotter::error::{Error, Result};
use cotter::kin::Stat;
use cotter::monitor::children;
use cotter::proto::cgroups_v2::{PSIData, PSIStats};
use cotter::proto::task::Status;
use cotter::proto::{Any, cgroups_v1, cgroups_v2, unpack};
use cotter::shown;

use crate::ask::Ask;
use crate::{dump, list};
use cotter::manager::client::Tasks;
use cotter::manager::dialect::Endpoint;
use cotter::manager::places;
use cotter::manager::request;

/// The v1 kernel's "no limit" is the highest multiple of the page size; pages are up to 64 KiB.
const NO_LIMIT: u64 = (i64::MAX as u64) & !0xffff;

/// What is known of a container at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The container's id.
    pub id: String,
    /// E.g. `running`.
    pub status: String,
    /// The pid of its init.
    pub pid: u32,
    /// The numbers, in the order in which they are shown: part, name, value.
    figures: Vec<(&'static str, &'static str, u64)>,
    /// What it waits for.
    pressure: Vec<(&'static str, PSIStats)>,
    /// The pressure is not the container's.
    of_the_host: bool,
    /// Who put its execs into it, where that may be the shim: why not, if the runtime; how many.
    execs: Vec<(Option<String>, u64)>,
}

/// What a container uses, whichever manager made it; `home` is where the tool keeps its own.
///
/// # Errors
/// There is no such container, or there are several, it has stopped, or it has no cgroup.
pub async fn stats(ask: &Ask, home: &Path) -> Result<Report> {
    let (chosen, _) = ask.bundles(home)?;
    let bundle = places::only(&chosen, ask.id.as_deref().unwrap_or("it"))?;
    let id = bundle.id.as_str();
    let endpoint = Endpoint::load(&bundle.path)?;
    let tasks = Tasks::connect(&endpoint).await?;
    let (pid, status, code) = list::state(&tasks, id).await?;
    if status == Status::STOPPED {
        let what = format!("container {id} has stopped ({code}) and uses nothing any more");
        return Err(Error::failed_precondition(what));
    }
    let answer = tasks.stats(&request::stats(id)).await?;
    let pids = tasks.pids(&request::pids(id)).await?.processes;
    let pids: BTreeSet<i32> = pids.iter().map(|p| p.pid.cast_signed()).collect();
    let mut report = Report {
        id: id.to_owned(),
        status: list::name(status).to_owned(),
        pid,
        ..Report::default()
    };
    report.add(&metrics(&answer.stats.unwrap_or_default())?);
    report.figures.push(("pids", "zombies", zombies(&pids)));
    // Another shim has no such answer.
    if let Ok(dump) = dump::ask(&endpoint, true).await {
        report.execs = execs(&dump, id);
    }
    Ok(report)
}

/// Who put how many execs of a container into it, as its shim tells.
fn execs(dump: &Dump, id: &str) -> Vec<(Option<String>, u64)> {
    let rows = dump.section("execs by").and_then(Value::as_array);
    let own = rows
        .into_iter()
        .flatten()
        .filter(|row| row["container"] == id);
    let read = own.filter_map(|row| {
        let reason = row["reason"].as_str().map(str::to_owned);
        Some((reason, row["execs"].as_u64()?))
    });
    read.collect()
}

fn metrics(any: &Any) -> Result<Metrics> {
    let malformed = |e: protobuf::Error| Error::unknown(format!("the shim's Stats: {e}"));
    if let Some(v2) = unpack::<cgroups_v2::Metrics>(any).map_err(malformed)? {
        return Ok(Metrics::V2(v2));
    }
    let v1 = unpack::<cgroups_v1::Metrics>(any).map_err(malformed)?;
    let other = || Error::unknown(format!("the shim's Stats are of type {:?}", any.type_url));
    v1.map(Metrics::V1).ok_or_else(other)
}

/// How many children of the container's processes nobody has waited for.
fn zombies(pids: &BTreeSet<i32>) -> u64 {
    let children = pids
        .iter()
        .flat_map(|pid| children(&pid.to_string()).unwrap_or_default());
    let zombie = |pid: &i32| Stat::of(*pid).is_some_and(|stat| stat.state == 'Z');
    let found: BTreeSet<i32> = children.filter(zombie).collect();
    found.len() as u64
}

impl Report {
    fn add(&mut self, metrics: &Metrics) {
        match metrics {
            Metrics::V1(v1) => self.add_v1(v1),
            Metrics::V2(v2) => self.add_v2(v2),
        }
    }

    fn limit(&mut self, part: &'static str, value: u64) {
        // 0 is how v1 tells managers of a number of processes without a limit.
        if value < NO_LIMIT && value != 0 {
            self.figures.push((part, "limit", value));
        }
    }

    fn add_v1(&mut self, m: &cgroups_v1::Metrics) {
        if let Some(cpu) = m.cpu.as_ref() {
            let usage = cpu.usage.clone().unwrap_or_default();
            let throttle = cpu.throttling.clone().unwrap_or_default();
            self.cpu(
                [usage.total, usage.user, usage.kernel].map(|ns| ns / 1000),
                [
                    throttle.periods,
                    throttle.throttled_periods,
                    throttle.throttled_time / 1000,
                ],
            );
        }
        if let Some(memory) = m.memory.as_ref() {
            let usage = memory.usage.clone().unwrap_or_default();
            self.figures.push(("memory", "usage", usage.usage));
            self.limit("memory", usage.limit);
            self.figures.push(("memory", "peak", usage.max));
            self.figures.push(("memory", "limit_hits", usage.failcnt));
        }
        if let Some(oom) = m.memory_oom_control.as_ref() {
            self.figures.push(("memory", "oom_kills", oom.oom_kill));
        }
        if let Some(pids) = m.pids.as_ref() {
            self.figures.push(("pids", "current", pids.current));
            self.limit("pids", pids.limit);
        }
        self.of_the_host = true;
        for resource in ["cpu", "memory", "io"] {
            self.pressure(resource, host_pressure(resource));
        }
    }

    fn add_v2(&mut self, m: &cgroups_v2::Metrics) {
        if let Some(cpu) = m.cpu.as_ref() {
            self.cpu(
                [cpu.usage_usec, cpu.user_usec, cpu.system_usec],
                [cpu.nr_periods, cpu.nr_throttled, cpu.throttled_usec],
            );
        }
        if let Some(memory) = m.memory.as_ref() {
            self.figures.push(("memory", "usage", memory.usage));
            self.limit("memory", memory.usage_limit);
            // Since Linux 5.19; usage is there, so it is not zero.
            if memory.max_usage > 0 {
                self.figures.push(("memory", "peak", memory.max_usage));
            }
        }
        if let Some(events) = m.memory_events.as_ref() {
            self.figures.extend([
                ("memory", "high_events", events.high),
                ("memory", "limit_hits", events.max),
                ("memory", "oom_kills", events.oom_kill),
            ]);
        }
        if let Some(pids) = m.pids.as_ref() {
            self.figures.push(("pids", "current", pids.current));
            self.limit("pids", pids.limit);
        }
        let psi = |stats: Option<&PSIStats>| stats.cloned();
        self.pressure("cpu", psi(m.cpu.as_ref().and_then(|c| c.psi.as_ref())));
        self.pressure(
            "memory",
            psi(m.memory.as_ref().and_then(|c| c.psi.as_ref())),
        );
        self.pressure("io", psi(m.io.as_ref().and_then(|c| c.psi.as_ref())));
    }

    fn cpu(&mut self, usage: [u64; 3], throttling: [u64; 3]) {
        let names = ["usage_usec", "user_usec", "system_usec"];
        let usage = names.into_iter().zip(usage);
        self.figures
            .extend(usage.map(|(name, value)| ("cpu", name, value)));
        let names = ["periods", "throttled_periods", "throttled_usec"];
        let throttling = names.into_iter().zip(throttling);
        self.figures
            .extend(throttling.map(|(name, value)| ("cpu", name, value)));
    }

    fn pressure(&mut self, resource: &'static str, stats: Option<PSIStats>) {
        self.pressure.extend(stats.map(|stats| (resource, stats)));
    }

    fn figure(&self, part: &str, name: &str) -> Option<u64> {
        let mut figures = self.figures.iter();
        figures.find(|f| f.0 == part && f.1 == name).map(|f| f.2)
    }

    /// For programs: an object on one line.
    pub fn json(&self) -> Value {
        let mut all = Map::new();
        all.insert("id".into(), json!(self.id));
        all.insert("status".into(), json!(self.status));
        all.insert("pid".into(), json!(self.pid));
        for (part, name, value) in &self.figures {
            all.entry(*part).or_insert_with(|| json!({}))[name] = json!(value);
        }
        let mut pressure = Map::new();
        let of = if self.of_the_host {
            "host"
        } else {
            "container"
        };
        pressure.insert("of".into(), json!(of));
        for (resource, stats) in &self.pressure {
            let data = |data: &PSIData| json!({"avg10": data.avg10, "avg60": data.avg60, "avg300": data.avg300, "total_usec": data.total});
            let mut both = Map::new();
            both.extend(
                stats
                    .some
                    .as_ref()
                    .map(|some| ("some".to_owned(), data(some))),
            );
            both.extend(
                stats
                    .full
                    .as_ref()
                    .map(|full| ("full".to_owned(), data(full))),
            );
            pressure.insert((*resource).into(), both.into());
        }
        all.insert("pressure".into(), pressure.into());
        if !self.execs.is_empty() {
            let direct = self.execs.iter().find(|(reason, _)| reason.is_none());
            let runtime = self
                .execs
                .iter()
                .filter_map(|(reason, count)| Some((reason.clone()?, json!(count))));
            let runtime: Map<String, Value> = runtime.collect();
            let execs =
                json!({"by_shim": direct.map_or(0, |(_, count)| *count), "by_runtime": runtime});
            all.insert("execs".into(), execs);
        }
        Value::Object(all)
    }

    /// For people.
    pub fn text(&self) -> String {
        let id = shown::line(&self.id);
        let mut text = format!("{id}  {}, pid {}\n", self.status, self.pid);
        let mut line = |part: &str, rest: &[Option<String>]| {
            let rest: Vec<&str> = rest.iter().flatten().map(String::as_str).collect();
            if !rest.is_empty() {
                let _ = writeln!(text, "  {part:<9} {}", rest.join(", "));
            }
        };
        let seconds = |name| self.figure("cpu", name).map(|usec| usec as f64 / 1e6);
        let throttled = self.figure("cpu", "throttled_periods").unwrap_or(0);
        let periods = self.figure("cpu", "periods").filter(|&periods| periods > 0);
        line(
            "cpu",
            &[
                seconds("usage_usec").map(|s| format!("{s:.2} s used")),
                seconds("user_usec").map(|s| format!("{s:.2} s in programs")),
                seconds("system_usec").map(|s| format!("{s:.2} s in the kernel")),
                periods.map(|all| {
                    let held = seconds("throttled_usec").unwrap_or(0.0);
                    format!("throttled in {throttled} of {all} periods for {held:.2} s")
                }),
            ],
        );
        let memory = |name| self.figure("memory", name);
        let times = |name, what| {
            let some = memory(name).filter(|&times| times > 0);
            some.map(|times| format!("{times} times {what}"))
        };
        line(
            "memory",
            &[
                memory("usage").map(|usage| of(bytes(usage), memory("limit").map(bytes))),
                memory("peak").map(|peak| format!("at most {}", bytes(peak))),
                times("high_events", "over memory.high"),
                times("limit_hits", "at the limit"),
                memory("oom_kills").map(|kills| format!("{kills} killed for want of it")),
            ],
        );
        let pids = |name| self.figure("pids", name);
        line(
            "pids",
            &[
                pids("current").map(|n| of(n.to_string(), pids("limit").map(|n| n.to_string()))),
                pids("zombies").map(|zombies| format!("{zombies} zombies")),
            ],
        );
        let execs = self.execs.iter().map(|(reason, count)| match reason {
            None => format!("{count} by the shim"),
            Some(reason) => format!("{count} by the runtime ({reason})"),
        });
        line("execs", &execs.map(Some).collect::<Vec<_>>());
        let whose = match (self.pressure.is_empty(), self.of_the_host) {
            (true, _) => "not kept by this kernel",
            (_, true) => "of the whole machine (cgroup v1 keeps none of a container):",
            (_, false) => "share of time in which some or all wait, in the last 10, 60, 300 s:",
        };
        line("pressure", &[Some(whose.to_owned())]);
        for (resource, stats) in &self.pressure {
            let shares = |name: &str, data: Option<&PSIData>| {
                data.map(|d| format!("{name} {:.2} {:.2} {:.2} %", d.avg10, d.avg60, d.avg300))
            };
            let part = format!("  {resource}");
            line(
                &part,
                &[
                    shares("some", stats.some.as_ref()),
                    shares("all", stats.full.as_ref()),
                ],
            );
        }
        text
    }
}

fn of(value: String, limit: Option<String>) -> String {
    match limit {
        Some(limit) => format!("{value} of {limit}"),
        None => format!("{value} without a limit"),
    }
}

fn bytes(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{mib:.1} MiB"),
    }
}

#[cfg(test)]
mod tests;
