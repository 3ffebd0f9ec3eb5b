//! A shim with one good container, a manager that writes down what it asked and was told, and the
//! end, at which all is counted.
//!
//! Invariant: what a scene reports is what was seen; a fault's own mistakes are panics, which its
//! process turns into a failed outcome. Nothing here waits without an end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cotter::error::{Error, Result};
use cotter::manager::client::{Tasks, gone};
use cotter::manager::dialect::Dialect;
use cotter::manager::events::{Event, Told};
use cotter::manager::launch::Launch;
use cotter::manager::spec::Spec;
use cotter::proto::task::{
    CreateTaskRequest, DeleteResponse, ExecProcessRequest, ShutdownRequest, StateRequest,
};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::common::census::Census;
use crate::common::containerd::go_shim;
use crate::common::shim::{Shim, each};
use crate::common::{TempDir, signal};
use crate::counts::{Allowance, Counts};
use crate::ledger::{Ledger, key, seen};
use crate::line::{Line, State};
use crate::patience::Patience;
use crate::stream::{Key, exit_of, expected};
use crate::verdict::Outcome;

/// The container which a fault is no business of.
pub const GOOD: &str = "good";

/// How long a question may take: what containerd grants to State (`io.containerd.timeout.task.state`).
const QUESTION: Duration = Duration::from_secs(2);
/// What may come on top of the runtime's calls: clean-up, drains, a busy machine.
const MARGIN: Duration = Duration::from_secs(8);
/// How long events and traces may take to come and go once the fault is over.
const SETTLE: Duration = Duration::from_secs(15);
/// How long a burst of execs may take, and then some for each.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long anything may take that the Go shim does: its longest limit, which many waits do not have.
const GO_CALL: Duration = Duration::from_secs(10);
/// How long its calls are waited for beyond that; once anything was waited for in vain, everything is waited
/// for so long.
const GO_MARGIN: Duration = Duration::from_secs(2);
/// How long what is left of a killed Go shim is looked at that nobody is there any more to take away.
const GO_STILL: Duration = Duration::from_secs(1);
/// What the Go shim leaves in a bundle for its manager to remove.
const GO_FILES: [&str; 3] = ["init.pid", "options.json", "runtime"];
/// What the heap of a shim may have more than before, in KiB.
const GROWTH: u64 = 512;
/// The same where garbage is collected.
const GO_GROWTH: u64 = 8 * 1024;
/// After so many execs that have failed no more are tried.
const ENOUGH: usize = 16;
/// The same with the Go shim: as many as run at once, each of which may have waited for an answer in vain.
const GO_ENOUGH: usize = PARALLEL;
/// How many execs run at once.
const PARALLEL: usize = 8;

/// The limits of our shim under test: the shortest that a loaded machine can hold.
const LIMITS: [(&str, &str); 3] = [
    ("COTTER_LIMIT_IO_DRAIN", "2s"),
    ("COTTER_LIMIT_MANAGER_SETTLING", "200ms"),
    ("COTTER_LIMIT_EXEC_DRAIN", "2s"),
];

/// A shim under a fault.
pub struct Scene {
    /// The shim and what its manager has.
    pub shim: Shim,
    /// What its events go through.
    pub line: Line,
    outcome: RefCell<Outcome>,
    ledger: Ledger,
    told: Vec<Told>,
    /// What one call of the runtime may take.
    call: Duration,
    /// What it had before the fault.
    base: Counts,
    /// Whether memory is judged too.
    lean: bool,
    pid: u32,
    /// How long what has to come by itself is waited for.
    settle: Cell<Duration>,
    _dir: TempDir,
}

impl Scene {
    /// With the good container running.
    pub async fn new() -> Self {
        Self::with_call_limit(Duration::from_secs(20)).await
    }

    /// With the good container running under this runtime, a name in the tools' list.
    pub async fn under(runtime: &'static str) -> Self {
        let call = Duration::from_secs(20);
        Self::bare_under(runtime, GOOD, &["sleep", "100000"], call)
            .await
            .furnished()
            .await
    }

    /// With this limit on calls of the runtime, which our shim keeps and the Go shim does not know.
    pub async fn with_call_limit(call: Duration) -> Self {
        Self::bare(GOOD, &["sleep", "100000"], call)
            .await
            .furnished()
            .await
    }

    /// With a runtime that is this shell script, in which `$real` is the real one.
    pub async fn with_runtime(script: &str) -> Self {
        let call = Duration::from_secs(20);
        let mut scene = Self::bare(GOOD, &["sleep", "100000"], call).await;
        let path = scene.shim.dir().join("runtime.sh");
        let real = &scene.shim.options.binary_name;
        fs::write(&path, format!("#!/bin/sh\nreal={real}\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        scene.shim.options.binary_name = path.to_string_lossy().into_owned();
        scene.furnished().await
    }

    async fn furnished(mut self) -> Self {
        let scene = &mut self;
        let create = scene.shim.create_request(GOOD);
        scene.create(&create).await.unwrap();
        scene.start(GOOD, "").await.unwrap();
        // Whatever is made with the first exec and kept.
        scene.exec_to_end(GOOD, "warm", &["true"]).await.unwrap();
        scene.base = scene.counts();
        self
    }

    /// Without a container; the bundle of `id`, which is the shim's too, runs `args`.
    pub async fn bare(id: &str, args: &[&str], call: Duration) -> Self {
        Self::bare_under("CRUN", id, args, call).await
    }

    /// The same under this runtime, a name in the tools' list.
    pub async fn bare_under(runtime: &str, id: &str, args: &[&str], call: Duration) -> Self {
        let dir = TempDir::new("cotter-line");
        let front = dir.path().join("events.sock");
        let address = front.to_string_lossy().into_owned();
        let limit = format!("{}ms", call.as_millis());
        let mut environment = vec![
            ("TTRPC_ADDRESS", address.as_str()),
            ("COTTER_LIMIT_RUNTIME_CALL", limit.as_str()),
        ];
        environment.extend(LIMITS);
        // The newest that each of the two speaks; only the last has the address elsewhere too.
        let dialect = Dialect::Json17;
        let spec = Spec::new(id, args.iter().copied());
        let line = Line::new(&front).await;
        let mut shim = Shim::start_with(dialect, runtime, spec, id, &environment).await;
        line.lead_to(&shim.events.address());
        let limit = match go_shim() {
            true => GO_CALL + GO_MARGIN,
            false => 2 * call + 2 * MARGIN,
        };
        let pid = shim.pid();
        shim.tasks = shim.tasks.within(limit);
        Self {
            shim,
            line,
            outcome: RefCell::default(),
            ledger: Ledger::default(),
            told: Vec::new(),
            call,
            base: Counts::default(),
            lean: false,
            pid,
            settle: Cell::new(if go_shim() { GO_CALL } else { SETTLE }),
            _dir: dir,
        }
    }

    /// The limit of our shim for calls that have the runtime do something.
    pub fn work(&self) -> Duration {
        match go_shim() {
            true => GO_CALL,
            false => 2 * self.call + MARGIN,
        }
    }

    async fn timed<T>(
        &self,
        what: &str,
        limit: Duration,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        let answer = call.await;
        self.outcome
            .borrow_mut()
            .called(what, begun.elapsed(), limit);
        answer
    }

    /// A Go shim that has not answered something will not answer much else: it is not waited for as
    /// long again, so that a fault has its end. One of ours has its limits.
    pub fn hurry(&mut self) {
        let outcome = self.outcome.get_mut();
        let hangs = outcome
            .call
            .as_ref()
            .is_some_and(|call| call.took > call.limit);
        if go_shim() && hangs {
            self.in_vain();
            self.shim.tasks = self.shim.tasks.within(GO_MARGIN);
        }
    }

    /// Something was waited for to the end, and did not come: what else has to come or go by itself is not
    /// waited for as long, if it is the Go shim's.
    fn in_vain(&self) {
        if go_shim() {
            self.settle.set(GO_MARGIN);
        }
    }

    /// Create.
    pub async fn create(&self, request: &CreateTaskRequest) -> Result<u32> {
        let call = self.ledger.create(&self.shim, request);
        self.timed("Create", self.work(), call).await
    }

    /// Makes a bundle and a container that runs `args`, and starts it.
    pub async fn run(&mut self, id: &str, args: &[&str]) -> u32 {
        self.run_as(id, Spec::new(id, args.iter().copied())).await
    }

    /// The same with a spec of the fault's.
    pub async fn run_as(&mut self, id: &str, spec: Spec) -> u32 {
        self.shim.bundle(id, spec);
        self.create(&self.shim.create_request(id)).await.unwrap();
        self.start(id, "").await.unwrap()
    }

    /// A container may run out of memory: that is no event uncalled for.
    pub fn starves(&self, id: &str) {
        self.ledger.starves(id);
    }

    /// Registers an exec.
    pub async fn add(&self, id: &str, exec: &str, args: &[&str]) -> Result<()> {
        let call = self.ledger.add(&self.shim, id, exec, args);
        self.timed("Exec", QUESTION, call).await
    }

    /// Registers an exec with streams of its own.
    pub async fn add_as(&self, request: &ExecProcessRequest) -> Result<()> {
        let call = self.ledger.add_as(&self.shim, request);
        self.timed("Exec", QUESTION, call).await
    }

    /// Start of an init or an exec.
    pub async fn start(&self, id: &str, exec: &str) -> Result<u32> {
        let call = self.ledger.start(&self.shim, id, exec);
        self.timed("Start", self.work(), call).await
    }

    /// Registers and starts an exec.
    pub async fn exec(&self, id: &str, exec: &str, args: &[&str]) -> Result<u32> {
        self.add(id, exec, args).await?;
        self.start(id, exec).await
    }

    /// Wait for a process that is to end soon; the status.
    pub async fn wait(&self, id: &str, exec: &str) -> Result<u32> {
        let wait = timeout(self.settle.get(), self.ledger.wait(&self.shim, id, exec)).await;
        let answer = wait.unwrap_or_else(|_| {
            self.in_vain();
            let what = format!("Wait of {id} {exec}");
            self.fail(format!("{what} was not answered"));
            Err(Error::deadline_exceeded(what))
        });
        answer.map(|answer| answer.exit_status)
    }

    /// Kill.
    pub async fn kill(&self, id: &str, exec: &str, signal: u32) -> Result<()> {
        let call = self.shim.kill(id, exec, signal);
        self.timed("Kill", self.work(), call).await
    }

    /// Delete.
    pub async fn delete(&self, id: &str, exec: &str) -> Result<()> {
        let call = self.ledger.delete(&self.shim, id, exec);
        self.timed("Delete", self.work(), call).await.map(drop)
    }

    /// An exec from Exec to Delete; the status.
    pub async fn exec_to_end(&self, id: &str, exec: &str, args: &[&str]) -> Result<u32> {
        self.exec(id, exec, args).await?;
        let status = self.wait(id, exec).await?;
        self.delete(id, exec).await?;
        Ok(status)
    }

    /// Has `count` execs, named `prefix` and a number, run to their ends, some at a time; none may
    /// fail, and no more are begun when it takes too long, or when too many have failed.
    pub async fn burst(&self, prefix: &str, count: usize) {
        self.burst_in(GOOD, prefix, count).await;
    }

    /// The same in this container.
    pub async fn burst_in(&self, id: &str, prefix: &str, count: usize) {
        let end = Instant::now() + PATIENCE + Duration::from_millis(40) * count as u32;
        let enough = if go_shim() { GO_ENOUGH } else { ENOUGH };
        let (done, failed) = (Cell::new(0), Cell::new(0));
        each(PARALLEL, 0..count, |n| {
            let (done, failed) = (&done, &failed);
            async move {
                if Instant::now() > end || failed.get() >= enough {
                    return;
                }
                let exec = format!("{prefix}{n}");
                let args = ["sh", "-c", "exit 7"];
                match self.exec_to_end(id, &exec, &args).await {
                    Ok(7) => {}
                    other => {
                        failed.set(failed.get() + 1);
                        self.fail(format!("exec {exec}: {other:?}"));
                    }
                }
                done.set(done.get() + 1);
            }
        })
        .await;
        if done.get() < count {
            self.fail(format!("{} of {count} execs were begun", done.get()));
        }
    }

    /// Kills an init, waits for its end and deletes the container.
    pub async fn remove(&self, id: &str) {
        // Ended already: nothing to kill.
        let _ = self.kill(id, "", 9).await;
        let ended = self.wait(id, "").await;
        if let Err(why) = ended.map(drop).and(self.delete(id, "").await) {
            self.fail(format!("remove {id}: {why}"));
        }
    }

    /// The good container still works.
    pub async fn good_works(&self, exec: &str) {
        let status = self.exec_to_end(GOOD, exec, &["sh", "-c", "exit 7"]).await;
        if !matches!(status, Ok(7)) {
            self.fail(format!("the good container: {exec}: {status:?}"));
        }
    }

    /// The pid of the shim.
    pub fn shim_pid(&self) -> u32 {
        self.pid
    }

    /// The pid that Create or Start has answered.
    pub fn pid(&self, id: &str, exec: &str) -> u32 {
        let pid = self.ledger.facts().processes[&key(id, exec)].pid;
        pid.expect("it was started")
    }

    /// What was not as it has to be.
    pub fn fail(&self, what: impl Into<String>) {
        self.outcome.borrow_mut().failed.push(what.into());
    }

    /// Asks about the good container all the time until [`Probe::end`].
    pub fn probe(&self) -> Probe {
        let tasks = self.shim.tasks.within(2 * QUESTION);
        let (end, mut ended) = tokio::sync::watch::channel(());
        let task = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !ended.has_changed().unwrap_or(true) {
                longest = longest.max(ask(&tasks).await);
                let _ = timeout(Duration::from_millis(20), ended.changed()).await;
            }
            longest
        });
        Probe { end, task }
    }

    /// Takes in what a probe has found.
    pub async fn probed(&self, probe: Probe) {
        drop(probe.end);
        let longest = probe.task.await.unwrap();
        self.outcome.borrow_mut().called("State", longest, QUESTION);
    }

    /// The shim was killed: of what it was asked so far nobody can know which events got out.
    pub fn unsure(&self) {
        let all: Vec<Key> = self.ledger.facts().processes.keys().cloned().collect();
        for (id, exec) in all {
            self.ledger.note(&id, &exec, |fact| fact.unsure = true);
        }
    }

    /// The same of this process alone.
    pub fn unsure_of(&self, id: &str, exec: &str) {
        self.ledger.note(id, exec, |fact| fact.unsure = true);
    }

    /// What the shim has now.
    pub fn counts(&self) -> Counts {
        Counts::take(self.pid, self.shim.owner().mounts())
    }

    /// From now on nothing may become more, memory included.
    pub async fn nothing_grows(&mut self) {
        self.base = self.settled(&self.base, lean()).await;
        self.lean = true;
    }

    /// What the shim has once it has no more than `before`, or will not have.
    async fn settled(&self, before: &Counts, allowed: Allowance) -> Counts {
        let deadline = Instant::now() + self.settle.get();
        loop {
            let now = self.counts();
            if before.more(&now, allowed).is_empty() {
                return now;
            }
            if Instant::now() > deadline {
                self.in_vain();
                return now;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Compares what the shim has with what it had before the fault.
    async fn compare(&mut self) {
        let memory = if go_shim() { GO_GROWTH } else { GROWTH };
        let allowed = Allowance {
            memory: self.lean.then_some(memory),
            ..lean()
        };
        let after = self.settled(&self.base, allowed).await;
        let outcome = self.outcome.get_mut();
        outcome.left.extend(self.base.more(&after, allowed));
        outcome.counts = self.lean.then(|| (self.base.clone(), after));
    }

    /// Waits until every exit that has to come has come, and every delete.
    async fn settle(&mut self) {
        // One that is dead tells nothing more; our own's last words come from `delete`.
        let longest = match go_shim() && !self.lives() {
            true => GO_MARGIN,
            false => self.settle.get(),
        };
        let deadline = Instant::now() + longest;
        loop {
            self.told
                .extend(std::iter::from_fn(|| self.shim.events.take()));
            if self.all_told() {
                return;
            }
            if Instant::now() > deadline {
                return self.in_vain();
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn all_told(&self) -> bool {
        let facts = self.ledger.facts();
        let events = || self.told.iter().map(|told| &told.event);
        let exits = events().filter_map(exit_of).collect();
        let deletes = events().filter(|event| matches!(event, Event::Delete(_)));
        let processes = facts.processes.iter();
        let deleted = processes.filter(|(key, f)| key.1.is_empty() && f.deleted.is_some());
        expected(&facts).is_subset(&exits) && deletes.count() >= deleted.count()
    }

    /// The fault is over: removes the good container, ends the shim and counts.
    pub async fn end(mut self) -> Outcome {
        self.hurry();
        self.line.set(State::Open);
        if !self.lives() {
            self.fail("the shim died");
            self.unsure();
            return self.deleted(|| {}).await;
        }
        self.compare().await;
        self.remove(GOOD).await;
        self.settle().await;
        let request = ShutdownRequest {
            id: GOOD.into(),
            ..Default::default()
        };
        // The Go shim may end before the answer is out.
        let _ = self.shim.tasks.shutdown(&request).await;
        if let Err(why) = gone(&self.shim.endpoint, self.settle.get()).await {
            self.in_vain();
            self.fail(format!("Shutdown: {why}"));
        }
        self.gone().await
    }

    /// The shim is gone: cleans up as a manager does, and counts.
    async fn gone(self) -> Outcome {
        if let Err(why) = self.shim.launch.delete().await {
            self.fail(format!("delete: {why}"));
        }
        self.count(true).await
    }

    /// The shim was killed: cleans up as containerd does, whose event of an exit is then what
    /// `delete` answers and which removes the bundle; then does what comes `after`, and counts.
    pub async fn deleted(self, after: impl FnOnce()) -> Outcome {
        for id in self.shim.ids() {
            let launch = Launch {
                bundle: self.shim.bundle_path(&id),
                id: id.clone(),
                ..self.shim.launch.clone()
            };
            let deleted = launch.delete().await;
            eprintln!("delete of {id}: {deleted:?}");
            let answer = deleted.map(|deleted| deleted.response);
            if let Err(why) = &answer {
                self.fail(format!("delete of {id}: {why}"));
            }
            let facts = self.ledger.facts();
            let fact = facts.processes.get(&key(&id, ""));
            // Without an answer to Create there may have been no container.
            if fact.is_some_and(|fact| fact.pid.is_some() && fact.deleted.is_none()) {
                // What a client was told is what every client is told.
                let end = fact.and_then(|fact| fact.waited.as_ref());
                let status = end.map_or(137, |end| end.status);
                let told = |d: DeleteResponse| d.exit_status == status && d.exited_at.is_some();
                let mut outcome = self.outcome.borrow_mut();
                outcome.expected += 1;
                outcome.received += usize::from(answer.is_ok_and(told));
            }
        }
        after();
        self.count(false).await
    }

    /// The shim is gone and all is cleaned up: counts.
    async fn count(mut self, bundles: bool) -> Outcome {
        let left = self.left(bundles).await;
        self.settle().await;
        let mut outcome = self.outcome.into_inner();
        outcome.left.extend(left);
        let log = self.shim.log();
        let mut told = self.told;
        told.extend(self.shim.events.stop().await);
        outcome.judge(seen(&told), self.ledger.into_facts());
        if !outcome.good() {
            eprintln!("{outcome:#?}\nlog of the shim: {log:#?}");
        }
        outcome
    }

    /// What is left on the machine, in the `bundles` too if they have to be as they were.
    async fn left(&self, bundles: bool) -> Vec<String> {
        let nothing = Census::default();
        let still = go_shim().then_some(GO_STILL);
        let mut patience = Patience::new(Instant::now(), self.settle.get(), still);
        loop {
            let now = Census::take(self.shim.owner(), &self.shim.ids());
            let mut left: Vec<String> = nothing.diff(&now).lines().map(str::to_owned).collect();
            one_of_each_cgroup(&mut left);
            let mut files = self.shim.left_in_bundles();
            let go_file = |path: &PathBuf| go_shim() && GO_FILES.iter().any(|n| path.ends_with(n));
            files.retain(|path| bundles && !go_file(path));
            left.extend(files.iter().map(|path| format!("+ {}", path.display())));
            if patience.is_over(&left, Instant::now()) {
                return left;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether the shim is there.
    pub fn lives(&self) -> bool {
        Path::new(&format!("/proc/{}/exe", self.pid)).exists()
    }

    /// Kills the shim.
    pub fn kill_shim(&self) {
        signal(self.pid, "KILL");
    }
}

/// A container's cgroup counts once, in however many hierarchies it is.
fn one_of_each_cgroup(left: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    left.retain(|line| match line.strip_prefix("+ cgroup ") {
        Some(path) => names.insert(path.rsplit('/').next().map(str::to_owned)),
        None => true,
    });
}

/// Questions under way.
pub struct Probe {
    end: tokio::sync::watch::Sender<()>,
    task: JoinHandle<Duration>,
}

/// What may be more after a fault than before it. The Go runtime keeps the threads that waited in
/// system calls, and closes pidfds when it collects garbage.
fn lean() -> Allowance {
    match go_shim() {
        true => Allowance {
            open: &["anon_inode:[pidfd]"],
            threads: 8,
            memory: None,
        },
        false => Allowance {
            open: &[],
            threads: 0,
            memory: None,
        },
    }
}

async fn ask(tasks: &Tasks) -> Duration {
    let request = StateRequest {
        id: GOOD.into(),
        ..Default::default()
    };
    let begun = Instant::now();
    let _ = tasks.state(&request).await;
    begun.elapsed()
}
