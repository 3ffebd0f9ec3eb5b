//! What a dump of the server consists of, and the signal that asks for one.
//!
//! SIGUSR1 is taken by the event loop: a signal handler may do next to nothing itself, and a thread made
//! in one could meet the allocator's lock held by the thread that it interrupted. So a loop that is
//! stuck in a system call answers neither the signal nor the request; then `cotter dump` shows what the
//! kernel tells from outside.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::config::Config;
use super::log::{DROPPED, ERRORS};
use crate::container::Registry;
use crate::dump::{Inspector, Reporter, age_ms, kernel, ms};
use crate::events::Publisher;
use crate::limits::Limits;
use crate::monitor::{Monitor, Pid};
use crate::service::Calls;
use crate::times::timestamp;

/// The shim itself.
#[derive(Serialize)]
struct Shim {
    version: &'static str,
    taken: String,
    namespace: String,
    id: String,
    pid: u32,
    uptime_ms: u64,
    connections: usize,
    tasks: usize,
    threads: usize,
    fds: Option<usize>,
    #[serde(flatten)]
    memory: kernel::Memory,
    events_address: String,
    log_lines_dropped: u64,
}

/// A child that is no container's process: a runtime call, a logging program, a mount program.
#[derive(Serialize)]
struct Child {
    what: String,
    pid: Pid,
    age_ms: u64,
    kernel: Option<String>,
    wchan: Option<String>,
}

/// Work on a thread of its own that has not ended within its limit.
#[derive(Serialize)]
struct Late {
    what: String,
    since: String,
}

/// The section about the process.
pub(super) fn shim(config: &Config, connections: watch::Receiver<usize>) -> Reporter {
    let config = config.clone();
    let started = Instant::now();
    Reporter::default().section("shim", move || Shim {
        version: env!("CARGO_PKG_VERSION"),
        taken: timestamp(SystemTime::now()),
        namespace: config.namespace.clone(),
        id: config.id.clone(),
        pid: std::process::id(),
        uptime_ms: age_ms(started),
        connections: *connections.borrow(),
        tasks: tokio::runtime::Handle::try_current()
            .map_or(0, |runtime| runtime.metrics().num_alive_tasks()),
        threads: kernel::threads("self").len(),
        fds: kernel::descriptors("self"),
        memory: kernel::memory("self"),
        events_address: config.ttrpc_address.clone(),
        log_lines_dropped: DROPPED.load(Ordering::Relaxed),
    })
}

/// The sections about what it does.
pub(super) fn sections(
    registry: &Arc<Registry>,
    publisher: &Arc<Publisher>,
    calls: &Calls,
) -> Reporter {
    // A handle for each of the sections below.
    let of = || Arc::clone(registry);
    let [r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12] = std::array::from_fn(|_| of());
    let (publisher, calls, failed) = (Arc::clone(publisher), calls.clone(), calls.clone());
    Reporter::default()
        .section("containers", move || r1.report_containers())
        .section("processes", move || r2.report_processes())
        .section("execs by", move || r12.report_execs())
        .section("streams", move || r3.report_relays())
        .section("requests", move || calls.report())
        .section("children", move || children(&r4.shared.monitor))
        .section("lifecycle", move || r5.report_census())
        .section("awaited", move || r6.report_held())
        .section("limits of processes", move || r9.report_pids())
        .section("killed for want of memory", move || r10.report_oom())
        .section("queue", move || r7.shared.tracker.queue().report())
        .section("publisher", move || publisher.stats())
        .section("kept in bundles", move || r11.shared.keeper.report())
        .section("work that hangs", late)
        .section("failed requests", move || failed.report_failed())
        .section("log", || ERRORS.report())
        .section("threads", || kernel::threads("self"))
        .section("limits", move || limits(&r8.shared.limits))
}

fn late() -> Vec<Late> {
    let late = |late: crate::blocking::Late| Late {
        what: late.what,
        since: timestamp(late.since),
    };
    crate::blocking::late().into_iter().map(late).collect()
}

fn children(monitor: &Monitor) -> Vec<Child> {
    let child = |running: crate::monitor::Running| {
        // Reaped in this thread only, so the pid is its own.
        let seen = kernel::look(&running.pid.to_string());
        Child {
            what: running.what,
            pid: running.pid,
            age_ms: age_ms(running.since),
            kernel: seen.as_ref().map(|seen| seen.state.clone()),
            wchan: seen.and_then(|seen| seen.wchan),
        }
    };
    monitor.running().into_iter().map(child).collect()
}

/// The limits, whichever there are: times in milliseconds, and numbers.
fn limits(limits: &Limits) -> Map<String, Value> {
    let Ok(Value::Object(all)) = serde_json::to_value(limits) else {
        return Map::new();
    };
    let limit = |(name, value): (String, Value)| {
        if value.is_number() {
            return (name, value);
        }
        // None: not set.
        let time = serde_json::from_value::<std::time::Duration>(value).map(ms);
        (format!("{name}_ms"), time.map_or(Value::Null, Value::from))
    };
    all.into_iter().map(limit).collect()
}

/// Where a dump may be kept: the bundle that the shim was started in, which may be gone long before the
/// others of its group, then those of its containers.
pub(super) fn bundles(own: PathBuf, registry: &Arc<Registry>) -> impl Fn() -> Vec<PathBuf> + use<> {
    let registry = Arc::clone(registry);
    move || {
        let mut all = vec![own.clone()];
        all.extend(
            registry
                .all()
                .iter()
                .map(|container| container.bundle.clone()),
        );
        all
    }
}

/// From now on SIGUSR1 has a dump taken and kept. Signals that come together are one.
pub(super) fn on_signal(inspector: Arc<Inspector>) -> io::Result<()> {
    let (read, write) = std::os::unix::net::UnixStream::pair()?;
    signal_hook::low_level::pipe::register(libc::SIGUSR1, write)?;
    read.set_nonblocking(true)?;
    let mut signals = tokio::net::UnixStream::from_std(read)?;
    tokio::spawn(async move {
        let mut some = [0; 64];
        // It ends with the runtime: the handler has the other end.
        while signals.read(&mut some).await.is_ok_and(|n| n > 0) {
            inspector.keep(inspector.look());
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_told() {
        let told = limits(&Limits::default());
        assert_eq!(told.get("exec_drain_ms"), Some(&Value::from(10_000)));
        assert_eq!(told.get("runtime_call_ms"), Some(&Value::Null));
        assert_eq!(told.get("waits"), Some(&Value::from(65_536)));
        assert!(told.len() >= 12, "{told:?}");
        let absent = told.iter().filter(|(_, value)| value.is_null()).count();
        assert_eq!(absent, 1, "{told:?}");
    }
}
