//! TaskOOM and `/cotter/oom`: the kernel killed a process of the container for want of memory.
//!
//! Invariant: a kill is told before the exit it caused, once, and also when no process of ours dies of
//! it: the kernel's count is looked at before each exit is told (by [`crate::container::tracker`]) and whenever the
//! kernel says that it changed. Kills that are seen together, or within [`BURST`] of each other, are
//! told by one TaskOOM; each is counted by exactly one `/cotter/oom`, which comes behind it. The first is
//! told at once, and while more follow they are told together once a second, and before an exit
//! (`tests/resources/oom_loop.rs`). That nobody is killed although memory is short is told by [`stall`].
//!
//! The count is the truth. The kernel log only says more of what was counted; alone it counts for a
//! container whose cgroup is gone at its exit, as systemd removes a scope as soon as it is empty.

mod account;
mod follow;
mod stall;
mod victims;

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};

use super::{Known, Sensed};
use crate::cgroup::{Cgroup, Scope};
use crate::error::Error;
use crate::events::{Event, describe};
use crate::monitor::Pid;
use crate::proto::cotter_oom::oom_kill;
use crate::proto::cotter_oom::{OomKill, Victim};
use crate::proto::events::TaskOOM;
use crate::proto::timestamp;
use account::Facts;

/// Between two events while more are killed.
const PAUSE: Duration = Duration::from_secs(1);

/// Victims that an event names; all are counted.
const NAMED: usize = 8;

/// Kills that come so soon after others are of one burst: no manager could have done anything about
/// the first. The kernel tells of them in steps of the same length.
const BURST: Duration = Duration::from_millis(10);

/// So long a container that is killed as a whole may take to die: what the kernel logs as its group's kills
/// belongs to the burst that it began.
const GROUP_BURST: Duration = Duration::from_secs(1);

/// Events that are kept for the dump.
const KEPT: usize = 8;

/// The kernel's init namespaces have inode numbers of their own (PROC_PID_INIT_INO,
/// PROC_CGROUP_INIT_INO).
const HOST_PIDS: &str = "pid:[4026531836]";
const HOST_CGROUPS: &str = "cgroup:[4026531835]";

/// What has been told of the container's kills.
#[derive(Debug, Default)]
pub struct Told {
    state: Mutex<State>,
    /// Why kills are not seen, or seen late.
    unwatched: OnceLock<String>,
}

impl Told {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    /// The kernel counts for this container.
    counted: bool,
    kills: u64,
    /// How often the limits of the levels had been hit by then.
    hits: Vec<Option<u64>>,
    /// The last record of the kernel log that was told.
    record: Option<u64>,
    /// The container's beginning by the kernel's clock, in microseconds, or somewhat before.
    began: u64,
    last: Option<Instant>,
    /// It was told that memory is short and nobody killed, and not that this is over.
    stalled: bool,
    recent: VecDeque<OomKill>,
}

impl State {
    /// Keeps an event for the dump.
    fn keep(&mut self, event: OomKill) {
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(event);
    }

    /// Kills were told of within the last second, so that more will be within the next.
    fn has_just_told(&self) -> bool {
        self.last.is_some_and(|last| last.elapsed() < PAUSE)
    }
}

/// What became of a look at the kernel's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Told,
    Nothing,
    /// There is something, of which the log has no word yet.
    Early,
    /// The victim may be an exec whose start has not returned, so that its pid is not known yet.
    Unnamed,
    /// The log has not been read to its end.
    Behind,
    /// Nothing can be known, now or later.
    Gone,
}

/// What is known of a process whose exit is to be told.
#[derive(Clone, Copy)]
pub struct Ended<'a> {
    /// Empty for the init.
    pub exec_id: &'a str,
    /// Its pid.
    pub pid: Pid,
    /// It was sent SIGKILL by a client.
    pub sigkilled: bool,
    /// Not known of one that has ended before its pid was known.
    pub status: Option<u32>,
}

impl Ended<'_> {
    fn is_init(&self) -> bool {
        self.exec_id.is_empty()
    }
}

/// What who looks can wait for.
#[derive(Clone, Copy, Default)]
struct Patience {
    log: bool,
    names: bool,
}

impl dyn Sensed {
    /// Begins to look for kills, now that there is a cgroup. What is to run for as long as there is the
    /// container, if anything is.
    pub fn watch_oom(self: &Arc<Self>) -> Option<impl Future<Output = ()> + Send + use<>> {
        let cgroup = self.cgroup()?;
        // What happened before is somebody else's.
        let so_far = cgroup.oom_kills();
        let hits = cgroup.hits();
        let watch = cgroup.watch_oom(&self.sensors().watcher);
        *self.senses().oom.state() = State {
            counted: so_far.is_ok(),
            kills: *so_far.as_ref().unwrap_or(&0),
            hits,
            began: kernel_clock(),
            ..State::default()
        };
        let watch = match (so_far, watch) {
            (Ok(_), Ok(Some(watch))) => watch,
            (Ok(_), Ok(None)) => return None,
            (Ok(_), Err(why)) => {
                self.oom_seen_late(&why);
                return None;
            }
            (Err(why), _) => {
                self.oom_not_seen(&why);
                return None;
            }
        };
        Some(follow::follow(watch, Arc::downgrade(self)))
    }

    /// Kills cannot be seen.
    pub fn oom_not_seen(&self, why: &Error) {
        self.unseen("they are not seen", why);
    }

    fn oom_seen_late(&self, why: &Error) {
        self.unseen("those that are not its own process may be told late", why);
    }

    fn unseen(&self, what: &str, why: &Error) {
        let line = format!("its OOM kills: {what}: {why}");
        self.sensors().log_once(self.id(), &line);
        let _ = self.senses().oom.unwatched.set(format!("{what}: {why}"));
    }

    /// Why kills are not seen, or seen late.
    pub fn oom_unwatched(&self) -> Option<&str> {
        self.senses().oom.unwatched.get().map(String::as_str)
    }

    /// The last events of this kind, oldest first, and how many processes were killed in all.
    pub fn oom_kills(&self) -> (u64, Vec<OomKill>) {
        let state = self.senses().oom.state();
        let total = state.recent.back().map_or(0, |last| last.kills_total);
        (total, state.recent.iter().cloned().collect())
    }

    /// Tells of kills that nobody has been told of. `ended` is what made somebody ask.
    pub fn tell_oom(&self, ended: Option<Ended<'_>>) {
        let well = ended.is_some_and(|e| !e.is_init() && e.status == Some(0));
        if !(well && self.senses().oom.state().has_just_told()) {
            self.look(ended, Patience::default());
        }
        // With its init a container ends.
        if ended.is_none_or(|e| e.is_init()) {
            self.memory_is_short(false);
        }
    }

    fn look(&self, ended: Option<Ended<'_>>, patience: Patience) -> Look {
        let Some(cgroup) = self.cgroup() else {
            return Look::Gone;
        };
        let mut state = self.senses().oom.state();
        let total = cgroup.oom_kills().ok();
        let kills = match total {
            Some(total) if total <= state.kills => return Look::Nothing,
            Some(total) => Some(total - state.kills),
            // Without a count, the log is read for those only who ended badly.
            None if state.counted && ended.is_some_and(|e| e.status != Some(0)) => None,
            None => return Look::Gone,
        };
        let mut event = match self.account(cgroup, &mut state, kills, ended, patience) {
            Ok(event) => event,
            Err(look) => return look,
        };
        state.kills += event.kills;
        event.kills_total = state.recent.back().map_or(0, |last| last.kills_total) + event.kills;
        log::info!("container {}: the kernel {}", self.id(), describe(&event));
        let now = Instant::now();
        let within = if event.group { GROUP_BURST } else { BURST };
        let burst = state
            .last
            .replace(now)
            .is_some_and(|last| now.duration_since(last) < within);
        state.keep(event.clone());
        self.tell_short(event, !burst);
        Look::Told
    }

    /// Tells of memory that was short; by a TaskOOM, too, if there was none yet for what it is about.
    fn tell_short(&self, event: OomKill, first: bool) {
        let task = Event::Oom(TaskOOM {
            container_id: self.id().to_owned(),
            ..Default::default()
        });
        let task = Some(task).filter(|_| first);
        self.tell(task.into_iter().chain([Event::OomKill(event)]).collect());
    }

    /// All that is known of kills that were counted, or else, or for who can wait for the log, of those that
    /// are in there; or why there is none to be told of now.
    fn account(
        &self,
        cgroup: &Cgroup,
        state: &mut State,
        kills: Option<u64>,
        ended: Option<Ended<'_>>,
        patience: Patience,
    ) -> Result<OomKill, Look> {
        let pids = self.known_pids();
        let facts = Facts {
            path: cgroup.memory_path().unwrap_or(Path::new("")),
            whole_path: is_namespace("cgroup", HOST_CGROUPS),
            same_pids: is_namespace("pid", HOST_PIDS),
            pids: &pids,
            kills,
            began: state.began,
        };
        let log = self.sensors().kernel_log.kills(state.record);
        if patience.log && !log.is_all {
            return Err(Look::Behind);
        }
        let ours = account::ours(log.kills, facts);
        if patience.log && ours.is_empty() {
            return Err(Look::Early);
        }
        if patience.names && facts.same_pids && ours.iter().any(|kill| self.may_be_starting(kill)) {
            return Err(Look::Unnamed);
        }
        state.record = ours.last().map(|kill| kill.seq).max(state.record);
        let found = u64::try_from(ours.len()).unwrap_or(u64::MAX);
        let found = Some(found).filter(|&found| found > 0);
        let kills = kills.or(found).ok_or(Look::Gone)?;

        let hits = cgroup.hits();
        let (level, path, limit, source) = match account::limit(&ours, facts) {
            Some((level, path, limit)) => {
                let path = path.map(|path| path.to_string_lossy().into_owned());
                let path = path.unwrap_or_default();
                (level, path, limit, oom_kill::Source::SOURCE_KERNEL_LOG)
            }
            None => {
                let hit = cgroup.hit(&state.hits, &hits);
                let path = hit.path.unwrap_or_default().to_string_lossy().into_owned();
                (
                    hit.level,
                    path,
                    hit.limit,
                    oom_kill::Source::SOURCE_COUNTERS,
                )
            }
        };
        state.hits = hits;
        let of_ours = |pid: i32| pids.contains(&pid) || ended.is_some_and(|e| e.pid == pid);
        let mut victims: Vec<Victim> = account::named(&ours, NAMED, of_ours)
            .map(|kill| self.victim(kill, facts, ended))
            .collect();
        if victims.is_empty() {
            victims.extend(ended.and_then(|ended| self.seen_dying(ended)));
        }
        Ok(OomKill {
            container_id: self.id().to_owned(),
            at: Some(timestamp(Some(SystemTime::now()))).into(),
            kills,
            level: wire_level(level).into(),
            level_path: path,
            limit_bytes: limit.unwrap_or(0),
            group: ours.iter().any(|kill| kill.group),
            victims,
            source: source.into(),
            ..OomKill::default()
        })
    }
}

fn is_namespace(kind: &str, host: &str) -> bool {
    fs::read_link(format!("/proc/self/ns/{kind}")).is_ok_and(|link| link == Path::new(host))
}

/// The kernel's log has a clock that nobody may set and nobody can ask. It runs away from this one by
/// less than a thousandth, and they begin within a second of each other.
fn kernel_clock() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    let earliest = now.saturating_sub(now / 1000 + Duration::from_secs(2));
    u64::try_from(earliest.as_micros()).unwrap_or(0)
}

fn wire_level(level: Scope) -> oom_kill::Level {
    match level {
        Scope::Unknown => oom_kill::Level::LEVEL_UNKNOWN,
        Scope::Own => oom_kill::Level::LEVEL_CONTAINER,
        Scope::Above => oom_kill::Level::LEVEL_ABOVE,
        Scope::Inside => oom_kill::Level::LEVEL_INSIDE,
        Scope::Host => oom_kill::Level::LEVEL_HOST,
    }
}
