//! Judges a stream of events against what the client did and was answered. Pure.
//!
//! What must hold, per process: create or exec-added, then (exec-)started, then one exit, then for
//! an init delete, and nothing more; execs exit before their init; pid, status and time of death
//! are the same in every event and every answer; the time of death lies between the request that
//! made the process and its exit event; an exit whose Wait was answered comes before whatever the
//! client asked for after that answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use cotter::manager::events::Event;
use cotter::proto::Timestamp;

/// What a clock that is being adjusted may do to times that were measured by another.
const SLACK: Duration = Duration::from_secs(1);

/// Container and exec; the exec is empty for an init.
pub type Key = (String, String);

/// How a process ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub status: u32,
    pub at: Timestamp,
}

/// What the client knows of one process.
#[derive(Clone, Debug, Default)]
pub struct Fact {
    /// When the request was sent that may have made it: Create, or Start of an exec.
    pub asked: Option<SystemTime>,
    /// How many Waits had been answered when Create or Exec was sent.
    pub after: usize,
    /// The answer to Create or Start.
    pub pid: Option<u32>,
    /// Whether Start succeeded, if it was asked for.
    pub started: Option<bool>,
    /// The status with which it was made to exit, if that is certain.
    pub status: Option<u32>,
    /// The answer to Wait.
    pub waited: Option<End>,
    /// The answer to Delete.
    pub deleted: Option<End>,
    /// It may come up and exit after its init: the wait for it ran out.
    pub late: bool,
    /// A call about it was not answered: what the stream tells of it need only be in order.
    pub unsure: bool,
}

/// What the client knows.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub processes: BTreeMap<Key, Fact>,
    /// Whose Waits were answered with an exit, in the order of the answers.
    pub answered: Vec<Key>,
    /// Containers that may run out of memory.
    pub starving: BTreeSet<String>,
}

/// An event as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub event: Event,
    pub topic: String,
    /// When the shim says it happened.
    pub stamp: SystemTime,
    pub received: SystemTime,
}

/// A process as the stream tells it.
#[derive(Clone, Debug, Default)]
struct Life {
    added: Option<usize>,
    started: Option<usize>,
    exited: Option<usize>,
    deleted: Option<usize>,
    pids: Vec<u32>,
    end: Option<End>,
}

/// What is wrong, a line each; empty when all is well.
pub fn check(stream: &[Seen], facts: &Facts) -> Vec<String> {
    let mut judge = Judge {
        facts,
        lives: BTreeMap::new(),
        wrong: Vec::new(),
    };
    for (place, seen) in stream.iter().enumerate() {
        judge.event(place, seen);
    }
    for pair in stream.windows(2) {
        if pair[1].stamp < pair[0].stamp {
            judge.wrong.push(format!("goes back in time: {pair:?}"));
        }
    }
    judge.outcome(stream);
    judge.waits();
    judge.wrong
}

struct Judge<'a> {
    facts: &'a Facts,
    lives: BTreeMap<Key, Life>,
    wrong: Vec<String>,
}

impl Judge<'_> {
    fn must(&mut self, holds: bool, place: usize, event: &Event, what: &str) {
        if !holds {
            self.wrong.push(format!("event {place}: {what}: {event:?}"));
        }
    }

    fn late(&self, key: &Key) -> bool {
        self.facts.processes.get(key).is_some_and(|fact| fact.late)
    }

    #[expect(clippy::too_many_lines, reason = "an event each")]
    fn event(&mut self, place: usize, seen: &Seen) {
        let event = &seen.event;
        let id = event.container().to_owned();
        let init = (id.clone(), String::new());
        let alive = |life: &Life| life.added.is_some() && life.exited.is_none();
        let topic = match event {
            Event::Create(e) => {
                let life = self.lives.entry(init).or_default();
                let first = life.added.is_none();
                life.added.get_or_insert(place);
                life.pids.push(e.pid);
                self.must(first, place, event, "created twice");
                "/tasks/create"
            }
            Event::Start(e) => {
                let life = self.lives.entry(init).or_default();
                let well = alive(life) && life.started.is_none();
                life.started.get_or_insert(place);
                life.pids.push(e.pid);
                self.must(well, place, event, "start of no created init");
                "/tasks/start"
            }
            Event::ExecAdded(e) => {
                let in_life = self.lives.get(&init).is_some_and(alive);
                let life = self.lives.entry((id, e.exec_id.clone())).or_default();
                let first = life.added.is_none();
                life.added.get_or_insert(place);
                self.must(first, place, event, "added twice");
                self.must(in_life, place, event, "added without an init");
                "/tasks/exec-added"
            }
            Event::ExecStarted(e) => {
                let key = (id, e.exec_id.clone());
                let in_life = self.lives.get(&init).is_some_and(alive) || self.late(&key);
                let life = self.lives.entry(key).or_default();
                let well = alive(life) && life.started.is_none();
                life.started.get_or_insert(place);
                life.pids.push(e.pid);
                self.must(well, place, event, "start of no added exec");
                self.must(in_life, place, event, "started without an init");
                "/tasks/exec-started"
            }
            Event::Exit(e) => {
                let key = exit_of(event).unwrap_or_default();
                let is_init = key.1.is_empty();
                let life = self.lives.entry(key).or_default();
                let well = alive(life) && (is_init || life.started.is_some());
                life.exited.get_or_insert(place);
                life.pids.push(e.pid);
                let at = e.exited_at.clone().unwrap_or_default();
                let status = e.exit_status;
                life.end.get_or_insert(End { status, at });
                self.must(well, place, event, "exit of no live process");
                if is_init {
                    self.execs_over(place, event);
                }
                "/tasks/exit"
            }
            Event::Delete(e) => {
                let life = self.lives.entry(init).or_default();
                let well = life.exited.is_some() && life.deleted.is_none();
                let at = e.exited_at.clone().unwrap_or_default();
                let status = e.exit_status;
                let same = life.end == Some(End { status, at });
                life.deleted.get_or_insert(place);
                life.pids.push(e.pid);
                self.must(well, place, event, "delete of no exited init");
                self.must(same, place, event, "not the end that its exit told");
                self.execs_over(place, event);
                "/tasks/delete"
            }
            Event::Oom(_) | Event::OomKill(_) if self.facts.starving.contains(&id) => {
                let alive = self.lives.get(&init).is_some_and(alive);
                self.must(alive, place, event, "out of memory without an init");
                return;
            }
            Event::Oom(_)
            | Event::OomKill(_)
            | Event::PidsLimit(_)
            | Event::Paused(_)
            | Event::Resumed(_)
            | Event::Checkpointed(_)
            | Event::Other(_) => {
                self.wrong
                    .push(format!("event {place}: uncalled for: {event:?}"));
                return;
            }
        };
        self.must(seen.topic == topic, place, event, "another topic");
    }

    /// At the end of an init no exec of its container runs, unless it is a late one.
    fn execs_over(&mut self, place: usize, event: &Event) {
        let id = event.container();
        let deleted = matches!(event, Event::Delete(_));
        let running = |life: &Life| life.started.is_some() && life.exited.is_none();
        let of_container = self
            .lives
            .iter()
            .filter(|((container, _), _)| container == id);
        let left: Vec<Key> = of_container
            .filter(|(key, life)| !key.1.is_empty() && running(life))
            .map(|(key, _)| key.clone())
            .filter(|key| deleted || !self.late(key))
            .collect();
        if !left.is_empty() {
            self.wrong
                .push(format!("event {place}: while {left:?} run: {event:?}"));
        }
    }

    /// The stream against the answers.
    fn outcome(&mut self, stream: &[Seen]) {
        for key in self.lives.keys() {
            if !self.facts.processes.contains_key(key) {
                self.wrong.push(format!("{key:?}: nobody asked for it"));
            }
        }
        let expected = expected(self.facts);
        for (key, fact) in &self.facts.processes {
            let life = self.lives.get(key).cloned().unwrap_or_default();
            if fact.unsure {
                continue;
            }
            let is_init = key.1.is_empty();
            let mut must = |holds: bool, what: &str| {
                if !holds {
                    self.wrong
                        .push(format!("{key:?}: {what}: {life:?} {fact:?}"));
                }
            };
            let made = !is_init || fact.pid.is_some();
            must(life.added.is_some() == made, "added or not");
            must(
                life.started.is_some() == (fact.started == Some(true)),
                "started or not",
            );
            must(
                life.exited.is_some() == expected.contains(key),
                "exited or not",
            );
            must(
                life.deleted.is_some() == (is_init && fact.deleted.is_some()),
                "deleted or not",
            );
            must(
                life.pids
                    .iter()
                    .all(|pid| Some(*pid) == fact.pid && *pid > 0),
                "pids differ",
            );
            let (Some(end), Some(place)) = (&life.end, life.exited) else {
                continue;
            };
            must(
                fact.status.is_none_or(|status| status == end.status),
                "another status",
            );
            must(
                fact.waited.iter().all(|told| told == end),
                "Wait told otherwise",
            );
            must(
                fact.deleted.iter().all(|told| told == end),
                "Delete told otherwise",
            );
            let exit = &stream[place];
            let at = time(&end.at);
            must(
                fact.asked.is_some_and(|asked| asked <= at),
                "died before it was asked for",
            );
            must(at <= exit.stamp, "died after its exit was told");
            must(
                exit.stamp <= exit.received + SLACK,
                "told before it happened",
            );
        }
    }

    /// An answered Wait means that the exit is queued: all that is asked for later follows it.
    fn waits(&mut self) {
        let mut latest = vec![None];
        for key in &self.facts.answered {
            let exited = self.lives.get(key).and_then(|life| life.exited);
            latest.push(exited.max(latest[latest.len() - 1]));
        }
        for (key, fact) in &self.facts.processes {
            let added = self.lives.get(key).and_then(|life| life.added);
            if added.is_some() && added < latest[fact.after] {
                self.wrong
                    .push(format!("{key:?}: overtook an exit that was waited for"));
            }
        }
    }
}

/// Whose exits have to be in the stream.
pub fn expected(facts: &Facts) -> BTreeSet<Key> {
    let ran = |(key, fact): &(&Key, &Fact)| {
        let ran = match key.1.is_empty() {
            true => fact.pid.is_some(),
            false => fact.started == Some(true),
        };
        ran && !fact.unsure
    };
    let processes = facts.processes.iter().filter(ran);
    processes.map(|(key, _)| key.clone()).collect()
}

/// Whose exit an event tells of.
pub fn exit_of(event: &Event) -> Option<Key> {
    let Event::Exit(exit) = event else {
        return None;
    };
    let exec = match exit.id == exit.container_id {
        true => String::new(),
        false => exit.id.clone(),
    };
    Some((exit.container_id.clone(), exec))
}

/// A time on the wire as the system's.
pub fn time(at: &Timestamp) -> SystemTime {
    let since = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
    let base = if at.seconds >= 0 {
        SystemTime::UNIX_EPOCH + since(at.seconds)
    } else {
        SystemTime::UNIX_EPOCH - since(at.seconds)
    };
    base + Duration::from_nanos(u64::from(at.nanos.unsigned_abs()))
}
