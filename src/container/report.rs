//! The containers of a shim, their processes and their streams, for the dump.
//!
//! Invariant: it waits for no operation: what is being done to a process is seen by its turn being
//! taken, not waited for.

use std::sync::Arc;

use serde::Serialize;

use super::process::Process;
use super::state::State;
use super::{Container, Registry};
use crate::direct::Direct;
use crate::dump::{MAX_ROWS, age_ms, kernel};
use crate::events::describe;
use crate::lifecycle::Census;
use crate::monitor::Pid;
use crate::stdio::StreamReport;

/// How many execs of a container were put into it by whom, where the shim may do so itself.
#[derive(Clone, Debug, Serialize)]
pub struct ExecsReport {
    container: String,
    by: &'static str,
    /// Why not by the shim.
    reason: Option<&'static str>,
    execs: u64,
}

/// A container.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerReport {
    id: String,
    state: &'static str,
    /// Of its init.
    pid: Option<Pid>,
    age_ms: Option<u64>,
    /// Execs that have not been deleted.
    execs: usize,
    runtime: String,
    bundle: String,
}

/// A process.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessReport {
    container: String,
    /// Empty for the init.
    exec: String,
    state: &'static str,
    pid: Pid,
    age_ms: u64,
    /// How long it has been in its state.
    in_state_ms: u64,
    /// The operation on it that is under way.
    busy_with: Option<&'static str>,
    /// Its exit was collected; from here to `exit` being known it is held back for execs.
    reaped: bool,
    exit: Option<u32>,
    /// Who waits for its exit.
    waiters: usize,
    /// What the kernel says it is at, while the pid is certainly its own.
    kernel: Option<String>,
    wchan: Option<String>,
}

/// A stream of a process.
#[derive(Clone, Debug, Serialize)]
pub struct RelayReport {
    container: String,
    exec: String,
    #[serde(flatten)]
    stream: StreamReport,
    target: String,
}

/// A start in flight, or a process whose exit is awaited.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    what: &'static str,
    container: String,
    exec: String,
    pid: Option<Pid>,
}

/// The limit of a container's processes.
#[derive(Clone, Debug, Serialize)]
pub struct PidsRow {
    container: String,
    processes: Option<u64>,
    limit: Option<u64>,
    /// Set by this shim, because it was asked for and the spec had none.
    given_limit: Option<u64>,
    refused_forks: u64,
    zombies: u64,
    cgroup: String,
    /// Why nobody is told when it is reached.
    unwatched: Option<String>,
}

/// What was killed in a container for want of memory.
#[derive(Clone, Debug, Serialize)]
pub struct OomRow {
    container: String,
    /// Processes killed.
    kills: u64,
    /// The last events, in words.
    last: Vec<String>,
    /// Why nobody is told, or not at once.
    unwatched: Option<String>,
}

impl Registry {
    /// The limits of processes.
    pub fn report_pids(&self) -> Vec<PidsRow> {
        let row = |container: &Arc<Container>| {
            let report = container.sensed().pids_report();
            let own = report.levels.first();
            PidsRow {
                container: container.id.clone(),
                processes: own.map(|own| own.current),
                limit: own.and_then(|own| own.limit),
                given_limit: container.pids_limit.set(),
                refused_forks: report.hits,
                zombies: report.zombies,
                cgroup: own.map_or_else(String::new, |own| own.dir.display().to_string()),
                unwatched: report.unwatched,
            }
        };
        self.all().iter().take(MAX_ROWS).map(row).collect()
    }

    /// What was killed for want of memory.
    pub fn report_oom(&self) -> Vec<OomRow> {
        let row = |container: &Arc<Container>| {
            let (kills, last) = container.sensed().oom_kills();
            let unwatched = container.sensed().oom_unwatched().map(str::to_owned);
            (!last.is_empty() || unwatched.is_some()).then(|| OomRow {
                container: container.id.clone(),
                kills,
                last: last.iter().map(describe).collect(),
                unwatched,
            })
        };
        self.all().iter().filter_map(row).collect()
    }

    /// Who put their execs into containers, where it may be the shim.
    pub fn report_execs(&self) -> Vec<ExecsReport> {
        self.all().iter().flat_map(|c| c.report_execs()).collect()
    }

    /// All containers, those that are being made included.
    pub fn report_containers(&self) -> Vec<ContainerReport> {
        let creating = self.creating().into_iter().map(|id| ContainerReport {
            id,
            state: "creating",
            pid: None,
            age_ms: None,
            execs: 0,
            runtime: String::new(),
            bundle: String::new(),
        });
        creating
            .chain(self.all().iter().map(|c| c.report()))
            .collect()
    }

    /// All processes of containers that are ready.
    pub fn report_processes(&self) -> Vec<ProcessReport> {
        let all = self.processes().into_iter().enumerate();
        // The kernel is asked about those that will be shown: ten thousand take it a while.
        all.map(|(row, process)| report_process(&process, row < MAX_ROWS))
            .collect()
    }

    /// All their streams.
    pub fn report_relays(&self) -> Vec<RelayReport> {
        let mut all = Vec::new();
        for process in self.processes() {
            let Some(io) = process.io() else { continue };
            all.extend(io.report().into_iter().map(|stream| RelayReport {
                container: process.container_id.clone(),
                exec: process.exec_id.clone(),
                target: target(&process, &stream.stream).to_owned(),
                stream,
            }));
        }
        all
    }

    /// The sizes of the lifecycle.
    pub fn report_census(&self) -> Census {
        self.shared.tracker.census()
    }

    /// The exit subscribers, then the running map.
    pub fn report_held(&self) -> Vec<Held> {
        let containers = self.all();
        let starts = self
            .shared
            .tracker
            .starts()
            .into_iter()
            .map(|(key, what)| Held {
                what,
                // One that is being made has no name here yet.
                container: containers
                    .iter()
                    .find(|container| container.key == key)
                    .map_or_else(|| format!("{key:?}"), |container| container.id.clone()),
                exec: String::new(),
                pid: None,
            });
        let running = self
            .shared
            .tracker
            .running()
            .into_iter()
            .map(|(pid, process)| Held {
                what: "running",
                container: process.container_id.clone(),
                exec: process.exec_id.clone(),
                pid: Some(pid),
            });
        starts.chain(running).collect()
    }

    fn processes(&self) -> Vec<Arc<Process>> {
        let processes = |c: &Arc<Container>| {
            let mut all = vec![Arc::clone(&c.init)];
            all.extend(c.execs());
            all
        };
        self.all().iter().flat_map(processes).collect()
    }
}

impl Container {
    /// How its execs were done, if they may be done without the runtime.
    fn report_execs(&self) -> Vec<ExecsReport> {
        let Some(counts) = self.direct.as_ref().map(Direct::counts) else {
            return Vec::new();
        };
        let row = |by, reason, execs| ExecsReport {
            container: self.id.clone(),
            by,
            reason,
            execs,
        };
        let direct = row("shim", None, counts.direct);
        let runtime = counts.runtime.into_iter();
        let runtime = runtime.map(|(reason, execs)| row("runtime", Some(reason), execs));
        std::iter::once(direct).chain(runtime).collect()
    }

    fn report(&self) -> ContainerReport {
        let facts = self.init.facts();
        ContainerReport {
            id: self.id.clone(),
            state: name(facts.state),
            pid: Some(facts.pid),
            age_ms: Some(age_ms(self.init.made)),
            execs: self.execs().len(),
            runtime: self.runtime.binary.to_string_lossy().into_owned(),
            bundle: self.bundle.to_string_lossy().into_owned(),
        }
    }
}

fn report_process(process: &Process, ask_kernel: bool) -> ProcessReport {
    let facts = process.facts();
    // Reaped in this thread only, so the pid stays its own meanwhile.
    let live = (ask_kernel && facts.pid > 0 && !facts.reaped)
        .then(|| kernel::look(&facts.pid.to_string()));
    let live = live.flatten();
    ProcessReport {
        container: process.container_id.clone(),
        exec: process.exec_id.clone(),
        state: name(facts.state),
        pid: facts.pid,
        age_ms: age_ms(process.made),
        in_state_ms: age_ms(facts.since),
        busy_with: process.turn.holder().map(|(operation, _)| operation),
        reaped: facts.reaped,
        exit: process.exit().map(|exit| exit.status),
        waiters: process.waiters(),
        kernel: live.as_ref().map(|live| live.state.clone()),
        wchan: live.and_then(|live| live.wchan),
    }
}

/// Where a stream leads or comes from, as the manager said it.
fn target<'a>(process: &'a Process, stream: &str) -> &'a str {
    let stdio = &process.stdio;
    match stream.split(' ').next() {
        Some("stdin") => &stdio.stdin,
        Some("stderr") => &stdio.stderr,
        _ => &stdio.stdout,
    }
}

fn name(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::CreatedCheckpoint => "to be restored",
        State::Running => "running",
        State::Pausing => "pausing",
        State::Paused => "paused",
        State::Stopped => "stopped",
        State::Deleted => "deleted",
    }
}
