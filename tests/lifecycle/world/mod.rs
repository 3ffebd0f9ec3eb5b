//! A world in which the truth is known: a kernel with few pids, a runtime that works or fails.
//! After every step the oracle says which processes must have had their exit by now, and that no
//! other has.

mod oracle;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, SystemTime};

use cotter::lifecycle::{Census, Claim, ContainerKey, Lifecycle, Refusal, StartId};
use cotter::monitor::{Clocks, Exit, Moment, Pid};

/// The time at which containers are forgotten.
const NOW: SystemTime = SystemTime::UNIX_EPOCH;
/// A number no process of these worlds ever has.
const NO_PID: Pid = 4_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Create,
    Start,
    Restore,
    Exec,
}

/// One thing that happens. Numbers are indices into the world's lists.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Add,
    BeginCreate(usize),
    BeginStart(usize),
    BeginExec(usize),
    /// The runtime of this start makes its process.
    Spawn(usize, Pid),
    /// It writes down the pid.
    Name(usize),
    /// What it has written is seen before it returns.
    Look(usize),
    /// The runtime of this start reports success, or failure.
    Succeed(usize),
    Fail(usize),
    /// The runtime of this start reports a pid that is not its work.
    Lie(usize),
    /// A start that has ended is announced and abandoned once more.
    Replay(usize),
    Stranger(Pid),
    Reap(usize),
    Drain(usize),
    Forget(usize),
}

#[derive(Clone)]
pub struct Container {
    key: ContainerKey,
    pub forgotten: bool,
    pub init: Option<usize>,
    pub starting: bool,
    /// Init's exit, once its reap was told.
    pub noted: Option<Exit>,
    pub held: bool,
    pub drained: bool,
    /// Starts tried, for the small worlds' budgets.
    pub creates: usize,
    pub starts: usize,
    pub execs: usize,
}

#[derive(Clone)]
pub struct Start {
    id: StartId,
    container: usize,
    pub kind: Kind,
    pub process: Option<usize>,
    begun: u64,
    /// When the pid was written down.
    pub named: Option<u64>,
    pub looked: bool,
    pub over: bool,
}

#[derive(Clone)]
pub struct Process {
    /// `None`: a stranger, or not announced yet.
    container: Option<usize>,
    exec: bool,
    pid: Pid,
    born: u64,
    pub reaped: bool,
    exited: bool,
}

/// An exit that happened.
#[derive(Clone)]
struct Happened {
    at: u64,
    process: usize,
    pid: Pid,
}

/// How often the interesting things happened, so that a test can see that it tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub early: u64,
    /// Others had the number before it, in the time of its start.
    pub recycled: u64,
    /// Others had it after it.
    pub recycled_after: u64,
    pub held: u64,
    pub drained: u64,
    pub died_starting: u64,
    pub forgotten_alive: u64,
    pub gone: u64,
    pub refused: u64,
}

#[derive(Clone)]
pub struct World {
    life: Lifecycle<usize>,
    clock: u64,
    pub containers: Vec<Container>,
    pub starts: Vec<Start>,
    pub processes: Vec<Process>,
    happened: Vec<Happened>,
    /// The process whose `Started` the current call must bring.
    to_start: Option<usize>,
    /// The container the current call forgets.
    forgetting: Option<usize>,
    pub seen: Seen,
    /// Told when an assertion fails.
    story: Vec<Step>,
}

fn exit_of(process: usize, pid: Pid) -> Exit {
    Exit {
        pid,
        status: 1000 + process as u32,
        at: NOW + Duration::from_secs(1 + process as u64),
    }
}

impl World {
    pub fn new(containers: usize) -> Self {
        let mut world = Self {
            life: Lifecycle::new(),
            clock: 0,
            containers: Vec::new(),
            starts: Vec::new(),
            processes: Vec::new(),
            happened: Vec::new(),
            to_start: None,
            forgetting: None,
            seen: Seen::default(),
            story: Vec::new(),
        };
        for _ in 0..containers {
            world.step(Step::Add);
        }
        world
    }

    /// Whether the kernel may give this number out: nobody has it, and the last who had it is
    /// not a start's process that the runtime has yet to name. (The kernel hands numbers out in turn; this
    /// one would come round again between a death and the next line of the runtime.)
    pub fn free(&self, pid: Pid) -> bool {
        let named =
            |s: &Start| s.over || s.named.is_some() || self.containers[s.container].forgotten;
        let fresh = |s: &Start| s.process.is_some_and(|p| self.processes[p].pid == pid);
        !self.alive(pid) && self.starts.iter().all(|s| named(s) || !fresh(s))
    }

    fn alive(&self, pid: Pid) -> bool {
        self.processes.iter().any(|p| p.pid == pid && !p.reaped)
    }

    pub fn fresh_pid(&self) -> Pid {
        100 + self.processes.len() as Pid
    }

    pub fn step(&mut self, step: Step) {
        self.story.push(step);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.happen(step))) {
            println!("after {:?}", self.story);
            resume_unwind(panic);
        }
    }

    fn happen(&mut self, step: Step) {
        match step {
            Step::Add => self.add(),
            Step::BeginCreate(c) => {
                self.containers[c].creates += 1;
                self.begin(c, Kind::Create);
            }
            Step::BeginStart(c) => {
                self.containers[c].starts += 1;
                let known = self.containers[c].init.is_some();
                self.begin(c, if known { Kind::Start } else { Kind::Restore });
            }
            Step::BeginExec(c) => {
                self.containers[c].execs += 1;
                self.begin(c, Kind::Exec);
            }
            Step::Spawn(s, pid) => self.starts[s].process = Some(self.spawn(pid)),
            Step::Name(s) => {
                self.clock += 1;
                self.starts[s].named = Some(self.clock);
            }
            Step::Look(s) => self.look(s),
            Step::Succeed(s) => self.succeed(s),
            Step::Fail(s) => self.fail(s),
            Step::Lie(s) => self.lie(s),
            Step::Replay(s) => self.replay(s),
            Step::Stranger(pid) => {
                self.spawn(pid);
            }
            Step::Reap(p) => self.reap(p),
            Step::Drain(c) => self.drain(c),
            Step::Forget(c) => self.forget(c),
        }
        self.check();
    }

    /// Everything in flight ends, everybody dies: then every announced process has had its exit,
    /// although no timer fires; and once the containers are forgotten nothing is left.
    pub fn finish(&mut self) {
        for s in 0..self.starts.len() {
            let start = &self.starts[s];
            match (start.over, start.kind, start.process) {
                (true, _, _) => {}
                (false, Kind::Start, _) | (false, _, Some(_)) => self.step(Step::Succeed(s)),
                (false, _, None) => self.step(Step::Fail(s)),
            }
        }
        for p in 0..self.processes.len() {
            if !self.processes[p].reaped {
                self.step(Step::Reap(p));
            }
        }
        for process in &self.processes {
            assert_eq!(process.container.is_some(), process.exited, "held for ever");
        }
        for c in 0..self.containers.len() {
            if !self.containers[c].forgotten {
                self.step(Step::Forget(c));
            }
        }
        assert_eq!(self.life.census(), Census::default());
    }

    fn add(&mut self) {
        let key = self.life.add();
        assert!(self.containers.iter().all(|c| c.key != key), "reused key");
        self.containers.push(Container {
            key,
            forgotten: false,
            init: None,
            starting: false,
            noted: None,
            held: false,
            drained: false,
            creates: 0,
            starts: 0,
            execs: 0,
        });
    }

    fn begin(&mut self, c: usize, kind: Kind) {
        let container = &mut self.containers[c];
        let expected = match kind {
            _ if container.forgotten => Err(Refusal::Gone),
            Kind::Create | Kind::Start | Kind::Restore if container.starting => Err(Refusal::Busy),
            _ if container.noted.is_some() => Err(Refusal::InitExited),
            Kind::Create if container.init.is_some() => Err(Refusal::Busy),
            Kind::Create | Kind::Start | Kind::Restore | Kind::Exec => Ok(()),
        };
        self.clock += 1;
        let now = Clocks {
            boot: Moment(self.clock),
            wall: NOW,
        };
        let got = match kind {
            Kind::Create => self.life.begin_create(container.key, now),
            Kind::Start | Kind::Restore => self.life.begin_start(container.key, now),
            Kind::Exec => self.life.begin_exec(container.key, now),
        };
        assert_eq!(got.map(|_| ()), expected, "begin {kind:?}");
        let Ok(id) = got else {
            self.seen.refused += 1;
            return;
        };
        assert!(self.starts.iter().all(|s| s.id != id), "reused start");
        container.starting |= kind != Kind::Exec;
        self.starts.push(Start {
            id,
            container: c,
            kind,
            process: None,
            begun: self.clock,
            named: None,
            looked: false,
            over: false,
        });
    }

    fn spawn(&mut self, pid: Pid) -> usize {
        assert!(self.free(pid));
        self.clock += 1;
        self.processes.push(Process {
            container: None,
            exec: false,
            pid,
            born: self.clock,
            reaped: false,
            exited: false,
        });
        self.processes.len() - 1
    }

    fn succeed(&mut self, s: usize) {
        let start = self.starts[s].clone();
        let c = start.container;
        let forgotten = self.containers[c].forgotten;
        self.starts[s].over = true;
        if start.kind == Kind::Start {
            if !forgotten {
                self.containers[c].starting = false;
                self.to_start = self.containers[c].init;
            }
            let effects = self.life.announce_start(start.id);
            return self.apply(effects);
        }

        let p = start.process.unwrap();
        let pid = self.processes[p].pid;
        if start.named.is_none() {
            self.clock += 1;
            self.starts[s].named = Some(self.clock);
        }
        self.look(s);
        // What `waitid` would say of the number, whoever has it now.
        let mut all = self.processes.iter();
        let unreaped = all.find(|p| p.pid == pid && !p.reaped);
        let unreaped = unreaped.map(|p| Some(Moment(p.born)));
        let mut others = self
            .happened
            .iter()
            .filter(|h| h.at > start.begun && h.process != p && h.pid == pid);
        if !forgotten {
            let process = &mut self.processes[p];
            process.container = Some(c);
            process.exec = start.kind == Kind::Exec;
            self.seen.early += u64::from(process.reaped);
            let after = |h: &Happened| h.process > p;
            self.seen.recycled += u64::from(others.clone().any(|h| !after(h)));
            let taken = unreaped.is_some() && process.reaped;
            self.seen.recycled_after += u64::from(taken || others.any(after));
            if start.kind != Kind::Exec {
                self.containers[c].init = Some(p);
                self.containers[c].starting = false;
            }
            if start.kind != Kind::Create {
                self.to_start = Some(p);
            }
        }
        let claim = self.life.claim(start.id, unreaped);
        let got = claim.and_then(|claim| {
            assert_eq!(claim == Claim::Unreaped, !self.processes[p].reaped);
            self.life.announce(start.id, pid, p, claim)
        });
        self.seen.gone += u64::from(forgotten);
        match got {
            Ok(effects) => {
                assert!(!forgotten, "announced into a forgotten container");
                self.apply(effects);
            }
            Err(refusal) => assert_eq!((refusal, forgotten), (Refusal::Gone, true)),
        }
    }

    fn fail(&mut self, s: usize) {
        self.starts[s].over = true;
        let (id, c) = (self.starts[s].id, self.starts[s].container);
        if self.starts[s].kind != Kind::Exec {
            self.containers[c].starting = false;
        }
        let effects = self.life.abandon(id);
        self.apply(effects);
    }

    fn lie(&mut self, s: usize) {
        let (id, c) = (self.starts[s].id, self.starts[s].container);
        let expected = match self.containers[c].forgotten {
            true => Refusal::Gone,
            false => Refusal::Stranger,
        };
        assert_eq!(self.life.claim(id, None), Err(expected));
        // One that came before it, or nobody.
        for unreaped in [None, Some(Some(Moment(self.starts[s].begun - 1)))] {
            let mut life = self.life.clone();
            life.named(id, NO_PID, Moment(self.clock));
            assert_eq!(life.claim(id, unreaped), Err(expected));
        }
    }

    /// The pid that the runtime has written down is seen.
    fn look(&mut self, s: usize) {
        let start = &mut self.starts[s];
        if let (Some(p), Some(named)) = (start.process, start.named) {
            start.looked = true;
            let pid = self.processes[p].pid;
            self.life.named(start.id, pid, Moment(named));
        }
    }

    fn replay(&mut self, s: usize) {
        let id = self.starts[s].id;
        self.life.named(id, NO_PID, Moment(self.clock));
        assert_eq!(self.life.claim(id, Some(None)), Err(Refusal::Gone));
        let got = self.life.announce(id, NO_PID, usize::MAX, Claim::Unreaped);
        assert_eq!(got, Err(Refusal::Gone));
        assert_eq!(self.life.announce_start(id), []);
        assert_eq!(self.life.abandon(id), []);
    }

    fn reap(&mut self, p: usize) {
        let process = &mut self.processes[p];
        assert!(!process.reaped);
        process.reaped = true;
        self.clock += 1;
        let exit = exit_of(p, process.pid);
        let born = Moment(process.born);
        self.happened.push(Happened {
            at: self.clock,
            process: p,
            pid: exit.pid,
        });
        let init = process.container.filter(|_| !process.exec);
        let starting = init.is_some_and(|c| self.containers[c].starting);
        self.seen.died_starting += u64::from(starting);
        let asked = self.life.asks_births();
        let effects = self.life.exited(exit, asked.then_some(born));
        self.apply(effects);
    }

    fn drain(&mut self, c: usize) {
        let waits = self.waits(c);
        let container = &mut self.containers[c];
        container.drained |= waits;
        self.seen.drained += u64::from(waits);
        let effects = self.life.drain_expired(container.key);
        self.apply(effects);
    }

    fn forget(&mut self, c: usize) {
        self.containers[c].forgotten = true;
        self.forgetting = Some(c);
        let mut mine = self.processes.iter().filter(|p| p.container == Some(c));
        self.seen.forgotten_alive += u64::from(mine.any(|p| !p.reaped));
        let effects = self.life.forget(self.containers[c].key, NOW);
        self.apply(effects);
        self.forgetting = None;
        assert_eq!(self.life.forget(self.containers[c].key, NOW), []);
    }

    /// Whether init's exit is known and not published.
    pub fn waits(&self, c: usize) -> bool {
        let container = &self.containers[c];
        let init = container.init.map(|p| &self.processes[p]);
        container.noted.is_some() && init.is_some_and(|init| !init.exited)
    }

    /// Execs that init's exit has to wait for.
    fn pending(&self, c: usize) -> usize {
        let open = |s: &&Start| s.container == c && s.kind == Kind::Exec && !s.over;
        let running = |p: &&Process| p.container == Some(c) && p.exec && !p.exited;
        let open = match self.containers[c].forgotten {
            true => 0,
            false => self.starts.iter().filter(open).count(),
        };
        open + self.processes.iter().filter(running).count()
    }
}
