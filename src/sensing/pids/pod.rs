//! The limit above containers, on systems where the kernel counts at the limit and not at the fork.
//!
//! Invariant: one watch for all containers of the shim that are below it, from the first to the last.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::task::JoinHandle;

use super::follow::Follow;
use crate::cgroup::Pids;
use crate::error::Error;
use crate::sensing::Sensed;

/// Those of a shim that are watched, by their cgroups.
#[derive(Debug, Default)]
pub struct Pods(Mutex<BTreeMap<PathBuf, Weak<Pod>>>);

/// The limit above containers, where the kernel counts for itself.
pub struct Pod {
    pids: Arc<Pids>,
    told: AtomicU64,
    before: u64,
    members: Mutex<Vec<Weak<dyn Sensed>>>,
    task: OnceLock<JoinHandle<()>>,
}

impl Pod {
    pub(super) fn join(container: &Arc<dyn Sensed>, pids: Pids) -> Result<Arc<Self>, Error> {
        let mut pods = lock(&container.sensors().pods.0);
        pods.retain(|_, pod| pod.strong_count() > 0);
        let pod = match pods.get(pids.dir()).and_then(Weak::upgrade) {
            Some(pod) => pod,
            None => {
                let so_far = pids.hits()?;
                let watch = pids.watch(&container.sensors().watcher)?;
                let pod = Arc::new(Self {
                    told: AtomicU64::new(so_far),
                    before: so_far,
                    members: Mutex::default(),
                    task: OnceLock::new(),
                    pids: Arc::new(pids),
                });
                let me = Arc::downgrade(&pod);
                let mut follow = Follow::new(watch, &pod.pids, &Arc::default());
                let task = tokio::spawn(async move {
                    let followed = follow.run(|| me.upgrade()?.tell()).await;
                    if let (Err(why), Some(me)) = (followed, me.upgrade()) {
                        me.not_watched(&why);
                    }
                });
                let _ = pod.task.set(task);
                pods.insert(pod.pids.dir().to_owned(), Arc::downgrade(&pod));
                pod
            }
        };
        lock(&pod.members).push(Arc::downgrade(container));
        Ok(pod)
    }

    /// All that have the limit are told of.
    fn not_watched(&self, why: &Error) {
        let members: Vec<_> = lock(&self.members)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for member in members {
            member.pids_not_watched(why);
        }
    }

    fn tell(&self) -> Option<bool> {
        let count = self.pids.hits().ok()?;
        let told = self.told.fetch_max(count, Ordering::Relaxed);
        if told >= count {
            return Some(false);
        }
        let mut members = lock(&self.members);
        members.retain(|member| member.strong_count() > 0);
        // Who forked is not told: most likely the largest.
        let sized = members.iter().filter_map(|member| {
            let member = member.upgrade()?;
            let own = member.cgroup()?.pids().ok()?;
            Some((own.level()?.current, member, own))
        });
        let largest = sized.max_by_key(|(current, ..)| *current);
        drop(members);
        if let Some((_, member, own)) = largest {
            let level = self.pids.level();
            member.tell_limit(&own, level.as_ref(), count - told, count - self.before);
        }
        Some(true)
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}
