//! Limits of processes: the kernel refused a fork in the container, or at its pod's limit.
//!
//! Invariant: the first refusal is told at once, those of a second later at most once a second,
//! together and with their number; none is told twice, and watching costs nothing while nothing is
//! refused, but for rare looks where the kernel notifies nobody ([`follow`]). What cannot be watched is logged once, and the container runs on.

mod follow;
mod pod;
pub mod refusal;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::Sensed;
use crate::cgroup::{CountedAt, Level, Pids, fullest};
use crate::error::Error;
use crate::events::Event;
use crate::proto::cotter_pids::{PidsLevel, PidsLimit};
use crate::proto::timestamp;
use follow::Follow;
use pod::Pod;
pub use pod::Pods;

/// What is known of the forks that a container was refused.
#[derive(Default)]
pub struct Refused {
    /// The kernel's count when the container was made.
    before: AtomicU64,
    /// Its count up to which has been told.
    told: AtomicU64,
    /// Told when there is a reason to look.
    asked: Arc<Notify>,
    /// Held so that the pod's limit is watched.
    pod: OnceLock<Arc<Pod>>,
    /// Why nobody watches.
    unwatched: OnceLock<String>,
}

/// What can be known of a container's limit, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidsReport {
    /// Its cgroup and those above it.
    pub levels: Vec<Level>,
    /// Forks refused since the container was made.
    pub hits: u64,
    /// Its processes that have ended and are waited for by nobody.
    pub zombies: u64,
    /// Why nobody watches its limit.
    pub unwatched: Option<String>,
}

impl dyn Sensed {
    /// Begins to watch the limits, once the cgroup is known. What is to run for as long as there is the
    /// container, if anything is.
    pub fn watch_pids(self: &Arc<Self>) -> Option<impl Future<Output = ()> + Send + use<>> {
        let cgroup = self.cgroup()?;
        let senses = &self.senses().pids;
        let begun = cgroup.pids().and_then(|pids| {
            let so_far = pids.hits()?;
            Ok((pids.watch(&self.sensors().watcher)?, so_far, pids))
        });
        let (watch, so_far, pids) = match begun {
            Ok(begun) => begun,
            Err(why) => {
                self.pids_not_watched(&why);
                return None;
            }
        };
        senses.before.store(so_far, Ordering::Relaxed);
        senses.told.store(so_far, Ordering::Relaxed);
        if pids.counted_at() == CountedAt::Limit {
            self.join_pod(&pids);
        }
        let me = Arc::downgrade(self);
        let pids = Arc::new(pids);
        let mut follow = Follow::new(watch, &pids, &senses.asked);
        Some(async move {
            let followed = follow.run(|| me.upgrade()?.tell_pids(&pids)).await;
            if let (Err(why), Some(me)) = (followed, me.upgrade()) {
                me.pids_not_watched(&why);
            }
        })
    }

    /// Has the limit looked at, by who has seen that it may have been reached or changed.
    pub fn look_at_pids(&self) {
        self.senses().pids.asked.notify_one();
    }

    /// The cgroup is about to go: tells what nobody had notice of.
    pub fn last_look_at_pids(&self) {
        let unwatched = self.senses().pids.unwatched.get().is_some();
        let pids = self.cgroup().and_then(|cgroup| cgroup.pids_unread().ok());
        if let Some(pids) = pids.filter(|pids| !pids.is_notified() && !unwatched) {
            self.tell_pids(&pids);
        }
    }

    /// Nobody watches its limits.
    pub fn pids_not_watched(&self, why: &Error) {
        self.sensors().log_once(self.id(), &unwatched(why));
        let _ = self.senses().pids.unwatched.set(why.message.clone());
    }

    fn join_pod(self: &Arc<Self>, own: &Pids) {
        let Some(parent) = own.parent() else {
            return;
        };
        // Without a limit it is not the pod's.
        if parent.level().is_none_or(|level| level.limit.is_none()) {
            return;
        }
        match Pod::join(self, parent) {
            Ok(pod) => {
                let _ = self.senses().pids.pod.set(pod);
            }
            Err(why) => self.sensors().log_once(self.id(), &unwatched(&why)),
        }
    }

    /// Tells of forks that were refused; whether there were any, and none when the cgroup is gone.
    fn tell_pids(&self, pids: &Pids) -> Option<bool> {
        let count = pids.hits().ok()?;
        let told = self.senses().pids.told.fetch_max(count, Ordering::Relaxed);
        if told >= count {
            return Some(false);
        }
        let levels = pids.levels();
        let level = match pids.counted_at() {
            CountedAt::Limit => levels.first(),
            CountedAt::Forker => fullest(&levels),
        };
        let total = count - self.senses().pids.before.load(Ordering::Relaxed);
        self.tell_limit(pids, level.or(levels.first()), count - told, total);
        Some(true)
    }

    /// Tells of `hits` refusals at a level, `total` in all.
    fn tell_limit(&self, own: &Pids, level: Option<&Level>, hits: u64, total: u64) {
        let Some(level) = level else {
            return;
        };
        let kind = self.kind_of(own, level);
        let zombies = own.zombies().unwrap_or(0);
        let event = PidsLimit {
            container_id: self.id().to_owned(),
            level: kind.into(),
            cgroup: level.dir.to_string_lossy().into_owned(),
            limit: level.limit.unwrap_or(0),
            current: level.current,
            hits,
            total,
            zombies,
            time: Some(timestamp(Some(SystemTime::now()))).into(),
            ..Default::default()
        };
        log::warn!("{}", line(&event));
        self.tell(vec![Event::PidsLimit(event)]);
    }

    fn kind_of(&self, own: &Pids, level: &Level) -> PidsLevel {
        let parent = own.parent();
        if level.dir == own.dir() {
            PidsLevel::PIDS_LEVEL_CONTAINER
        } else if self.in_pod() && parent.is_some_and(|pod| pod.dir() == level.dir) {
            PidsLevel::PIDS_LEVEL_POD
        } else {
            PidsLevel::PIDS_LEVEL_HIGHER
        }
    }

    /// What can be known of its limits now.
    pub fn pids_report(&self) -> PidsReport {
        let senses = &self.senses().pids;
        let pids = self.cgroup().and_then(|cgroup| cgroup.pids().ok());
        let before = senses.before.load(Ordering::Relaxed);
        let hits = pids.as_ref().and_then(|pids| pids.hits().ok());
        // Of a cgroup that is gone, what has been told.
        let hits = hits.unwrap_or_else(|| senses.told.load(Ordering::Relaxed));
        PidsReport {
            levels: pids.as_ref().map(Pids::levels).unwrap_or_default(),
            hits: hits.saturating_sub(before),
            zombies: pids.and_then(|pids| pids.zombies()).unwrap_or(0),
            unwatched: senses.unwatched.get().cloned(),
        }
    }
}

/// The log's line.
fn line(event: &PidsLimit) -> String {
    let whose = match event.level.enum_value_or_default() {
        PidsLevel::PIDS_LEVEL_CONTAINER => "its own limit",
        PidsLevel::PIDS_LEVEL_POD => "its pod's limit",
        PidsLevel::PIDS_LEVEL_HIGHER | PidsLevel::PIDS_LEVEL_UNKNOWN => "the limit above it",
    };
    let zombies = match event.zombies {
        0 => String::new(),
        n => format!(", {n} of the container's have ended and nobody waits for them"),
    };
    format!(
        "container {}: the kernel refused {} forks: {whose} of {} processes (pids.max of {}) is reached: {} now{zombies}",
        event.container_id, event.hits, event.limit, event.cgroup, event.current
    )
}

/// Why a limit is not watched, for the log.
fn unwatched(why: &Error) -> String {
    format!("its limit of processes is not watched: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_people() {
        let mut event = PidsLimit {
            container_id: "c".into(),
            level: PidsLevel::PIDS_LEVEL_POD.into(),
            cgroup: "/g".into(),
            limit: 20,
            current: 19,
            hits: 3,
            ..Default::default()
        };
        assert_eq!(
            line(&event),
            "container c: the kernel refused 3 forks: its pod's limit of 20 processes (pids.max of /g) is reached: 19 now"
        );
        event.zombies = 12;
        assert!(
            line(&event)
                .ends_with("19 now, 12 of the container's have ended and nobody waits for them")
        );
    }
}
