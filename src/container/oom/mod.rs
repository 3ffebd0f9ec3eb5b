//! TaskOOM and `/cotter/oom`: the kernel killed a process of the container for want of memory.
//!
//! Invariant: a kill is told before the exit it caused, once, and also when no process of ours dies of
//! it: the kernel's count is looked at before each exit is told ([`super::tracker`]) and whenever the
//! kernel says that it changed. Kills that are seen together, or within [`BURST`] of each other, are
//! told by one TaskOOM; each is counted by exactly one `/cotter/oom`, which comes behind it.
//!
//! The count is the truth. The kernel log only says more of what was counted; alone it counts for a
//! container whose cgroup is gone at its exit, as systemd removes a scope as soon as it is empty.

mod account;
pub(super) mod group;

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};
use tokio::time::sleep;

use super::Container;
use super::process::Process;
use crate::cgroup::kernel_log::Kill;
use crate::cgroup::{Cgroup, Scope};
use crate::events::Event;
use crate::monitor::Exit;
use crate::proto::cotter_oom::oom_kill;
use crate::proto::cotter_oom::{OomKill, Victim, victim};
use crate::proto::events::TaskOOM;
use crate::proto::timestamp;
use account::Facts;

/// On v1 the kernel says that memory is short before it kills, and in between it may write its report to a
/// slow console: how often to look whether it has killed, and how long to wait in between, at first and
/// later.
const LOOKS: u32 = 100;
const SOON: u32 = 50;
const LOOK: Duration = Duration::from_millis(10);
const LATER: Duration = Duration::from_millis(100);

/// Kills that come so soon after others are of one burst: no manager could have done anything about
/// the first. The kernel tells of them in steps of the same length.
const BURST: Duration = Duration::from_millis(10);

/// Events that are kept for the dump.
const KEPT: usize = 8;

/// The kernel's init namespaces have inode numbers of their own (PROC_PID_INIT_INO,
/// PROC_CGROUP_INIT_INO).
const HOST_PIDS: &str = "pid:[4026531836]";
const HOST_CGROUPS: &str = "cgroup:[4026531835]";

/// What has been told of the container's kills.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The kernel is to kill all or nobody.
    group: bool,
    state: Mutex<State>,
}

impl Told {
    /// Nothing yet.
    pub(super) fn new(group: bool) -> Self {
        Self {
            group,
            ..Self::default()
        }
    }

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
    recent: VecDeque<OomKill>,
}

/// What is known of a process whose exit is to be told.
#[derive(Clone, Copy)]
pub(super) struct Ended<'a> {
    pub process: &'a Process,
    pub exit: &'a Exit,
}

impl Container {
    /// Takes the container's cgroup, from which all that is known of its memory comes. Once: later ones
    /// are ignored.
    pub(super) fn has_cgroup(self: &Arc<Self>, cgroup: Cgroup) {
        // What happened before is somebody else's.
        let so_far = cgroup
            .oom_kills()
            .inspect_err(|e| log::warn!("container {}: OOM kills are not seen: {e}", self.id));
        let hits = cgroup.hits();
        let watch = cgroup.watch_oom();
        if self.cgroup.set(cgroup).is_err() {
            return;
        }
        *self.oom.state() = State {
            counted: so_far.is_ok(),
            kills: so_far.unwrap_or(0),
            hits,
            began: kernel_clock(),
            ..State::default()
        };
        let mut watch = match watch {
            Ok(Some(watch)) => watch,
            Ok(None) => return,
            Err(e) => {
                log::warn!(
                    "container {}: OOM kills of what is not its own process may be told late: {e}",
                    self.id
                );
                return;
            }
        };
        let me = Arc::downgrade(self);
        self.spawn(async move {
            while watch.changed().await.is_ok() {
                for look in 0..LOOKS {
                    let Some(container) = me.upgrade() else {
                        return;
                    };
                    match container.tell_oom(None) {
                        // The cgroup is gone, and the watch would never be quiet again.
                        None => return,
                        Some(true) => break,
                        Some(false) => drop(container),
                    }
                    sleep(if look < SOON { LOOK } else { LATER }).await;
                }
            }
        });
    }

    /// The last events of this kind, oldest first, and how many processes were killed in all.
    pub fn oom_kills(&self) -> (u64, Vec<OomKill>) {
        let state = self.oom.state();
        let total = state.recent.back().map_or(0, |last| last.kills_total);
        (total, state.recent.iter().cloned().collect())
    }

    /// Tells of kills that nobody has been told of; whether there were any, and none when it cannot be
    /// known. `ended` is what made somebody ask.
    pub(super) fn tell_oom(&self, ended: Option<Ended<'_>>) -> Option<bool> {
        let cgroup = self.cgroup.get()?;
        let mut state = self.oom.state();
        let total = cgroup.oom_kills().ok();
        let kills = match total {
            Some(total) if total <= state.kills => return Some(false),
            Some(total) => Some(total - state.kills),
            // Without a count, the log is read for those only who ended badly.
            None if state.counted && ended.is_some_and(|e| e.exit.status != 0) => None,
            None => return None,
        };
        let mut event = self.account(cgroup, &mut state, kills, ended)?;
        state.kills += event.kills;
        event.kills_total = state.recent.back().map_or(0, |last| last.kills_total) + event.kills;
        log::info!("{}", words(&event));
        let now = Instant::now();
        let burst = state
            .last
            .replace(now)
            .is_some_and(|last| now.duration_since(last) < BURST);
        if state.recent.len() == KEPT {
            state.recent.pop_front();
        }
        state.recent.push_back(event.clone());
        let task = Event::Oom(TaskOOM {
            container_id: self.id.clone(),
            ..Default::default()
        });
        self.shared.tracker.step(|queue| {
            if !burst {
                queue.push(task);
            }
            queue.push(Event::OomKill(event));
        });
        Some(true)
    }

    /// All that is known of kills that were counted, or else of those that are in the log; none when
    /// there are none there.
    fn account(
        &self,
        cgroup: &Cgroup,
        state: &mut State,
        kills: Option<u64>,
        ended: Option<Ended<'_>>,
    ) -> Option<OomKill> {
        let pids = self.known_pids();
        let facts = Facts {
            path: cgroup.memory_path().unwrap_or(Path::new("")),
            whole_path: is_namespace("cgroup", HOST_CGROUPS),
            same_pids: is_namespace("pid", HOST_PIDS),
            pids: &pids,
            kills,
            began: state.began,
        };
        let log = self.shared.kernel_log.kills(state.record);
        let ours = account::ours(log, facts);
        state.record = ours.last().map(|kill| kill.seq).max(state.record);
        let found = u64::try_from(ours.len()).unwrap_or(u64::MAX);
        let kills = kills.or(Some(found).filter(|&found| found > 0))?;

        let hits = cgroup.hits();
        let (level, path, limit, source) = match account::limit(&ours, facts) {
            Some((level, path, limit)) => {
                let path = path.unwrap_or_default().to_owned();
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
        let mut victims: Vec<Victim> = ours.iter().map(|kill| self.victim(kill, facts)).collect();
        if victims.is_empty() {
            victims.extend(ended.and_then(|ended| self.seen_dying(ended)));
        }
        Some(OomKill {
            container_id: self.id.clone(),
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

    /// The pids of processes that the shim started and that are still theirs.
    fn known_pids(&self) -> Vec<i32> {
        let execs = self.execs();
        let all = execs.iter().chain([&self.init]);
        all.filter_map(|process| live_pid(process)).collect()
    }

    fn victim(&self, kill: &Kill, facts: Facts<'_>) -> Victim {
        let [anon, file, shmem] = kill.rss.unwrap_or_default();
        let mut victim = Victim {
            pid: kill.pid.cast_unsigned(),
            command: kill.command.clone(),
            anon_bytes: anon,
            file_bytes: file,
            shmem_bytes: shmem,
            ..Victim::default()
        };
        if !facts.same_pids {
            return victim;
        }
        let execs = self.execs();
        let exec = execs.iter().find(|exec| live_pid(exec) == Some(kill.pid));
        let role = match exec {
            Some(exec) => {
                victim.exec_id.clone_from(&exec.exec_id);
                victim::Role::ROLE_EXEC
            }
            None if live_pid(&self.init) == Some(kill.pid) => victim::Role::ROLE_INIT,
            None => victim::Role::ROLE_CHILD,
        };
        victim.role = role.into();
        victim.container_pid = match role {
            // It is the first of its namespace; where that is another's, it is long gone.
            victim::Role::ROLE_INIT if !self.kill_all_on_exit => 1,
            _ => pid_inside(kill).unwrap_or(0),
        };
        victim
    }

    /// Without the kernel's word: who was killed by nobody known.
    fn seen_dying(&self, ended: Ended<'_>) -> Option<Victim> {
        const KILLED: u32 = 128 + libc::SIGKILL as u32;
        let killed = ended.exit.status == KILLED && !ended.process.facts().sigkilled;
        let role = match ended.process.is_init() {
            true => victim::Role::ROLE_INIT,
            false => victim::Role::ROLE_EXEC,
        };
        killed.then(|| Victim {
            pid: ended.exit.pid.cast_unsigned(),
            role: role.into(),
            exec_id: ended.process.exec_id.clone(),
            ..Victim::default()
        })
    }
}

fn live_pid(process: &Process) -> Option<i32> {
    let facts = process.facts();
    (facts.pid > 0 && !facts.reaped).then_some(facts.pid)
}

/// The pid that a process which was killed, and that nobody has waited for yet, has in its innermost
/// namespace.
fn pid_inside(kill: &Kill) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{}/status", kill.pid)).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    // The number may be another one's by now.
    let same = field("Name:")?.trim() == kill.command;
    let pids = field("NSpid:").filter(|_| same)?;
    pids.split_whitespace().last()?.parse().ok()
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

/// The event on one line.
fn words(event: &OomKill) -> String {
    let who: Vec<String> = event.victims.iter().map(victim_words).collect();
    let limit = match event.level.enum_value_or_default() {
        oom_kill::Level::LEVEL_CONTAINER => "the container's limit",
        oom_kill::Level::LEVEL_ABOVE => "a limit above the container",
        oom_kill::Level::LEVEL_INSIDE => "a limit inside the container",
        oom_kill::Level::LEVEL_HOST => "the machine is out of memory",
        oom_kill::Level::LEVEL_UNKNOWN => "the limit is not known",
    };
    let bytes = match event.limit_bytes {
        0 => String::new(),
        bytes => format!(" of {} KiB", bytes >> 10),
    };
    let path = match event.level_path.as_str() {
        "" => String::new(),
        path => format!(" in {}", path.escape_debug()),
    };
    format!(
        "container {}: the kernel has killed {} for want of memory ({limit}{bytes}{path}): {}",
        event.container_id,
        event.kills,
        match who.is_empty() {
            true => "who is not known".to_owned(),
            false => who.join(", "),
        }
    )
}

fn victim_words(victim: &Victim) -> String {
    let role = match victim.role.enum_value_or_default() {
        victim::Role::ROLE_INIT => "init ".to_owned(),
        victim::Role::ROLE_EXEC => format!("exec {} ", victim.exec_id),
        victim::Role::ROLE_CHILD | victim::Role::ROLE_UNKNOWN => String::new(),
    };
    let memory = victim.anon_bytes + victim.file_bytes + victim.shmem_bytes;
    format!(
        "{role}{} pid {} with {} KiB",
        victim.command.escape_debug(),
        victim.pid,
        memory >> 10
    )
}
