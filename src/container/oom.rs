//! TaskOOM: the kernel killed a process of the container for want of memory.
//!
//! Invariant: a kill is told before the exit it caused, once, and also when no process of ours dies of
//! it: the kernel's count is looked at before each exit is told ([`super::tracker`]) and whenever the
//! kernel says that it changed. Kills that are seen together are told together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::Container;
use crate::cgroup::Cgroup;
use crate::events::Event;
use crate::proto::events::TaskOOM;

/// On v1 the kernel says that memory is short before it kills: how often to look whether it has, and how
/// long to wait in between.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(10);

/// Kills that have been told of.
#[derive(Debug, Default)]
pub(super) struct Told(AtomicU64);

impl Container {
    /// Takes the container's cgroup, from which all that is known of its memory comes. Once: later ones
    /// are ignored.
    pub(super) fn has_cgroup(self: &Arc<Self>, cgroup: Cgroup) {
        // What happened before is somebody else's.
        let so_far = cgroup.oom_kills().unwrap_or(0);
        let watch = cgroup.watch_oom();
        if self.cgroup.set(cgroup).is_err() {
            return;
        }
        self.oom.0.store(so_far, Ordering::Relaxed);
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
                for _ in 0..LOOKS {
                    let Some(container) = me.upgrade() else {
                        return;
                    };
                    match container.tell_oom() {
                        // The cgroup is gone, and the watch would never be quiet again.
                        None => return,
                        Some(true) => break,
                        Some(false) => drop(container),
                    }
                    sleep(LOOK).await;
                }
            }
        });
    }

    /// Tells of kills that nobody has been told of; whether there were any, and none when it cannot be
    /// known.
    pub(super) fn tell_oom(&self) -> Option<bool> {
        let kills = self.cgroup.get()?.oom_kills()?;
        let news = self.oom.0.fetch_max(kills, Ordering::Relaxed) < kills;
        if news {
            log::info!(
                "container {}: the kernel has killed for want of memory, {kills} times so far",
                self.id
            );
            let event = Event::Oom(TaskOOM {
                container_id: self.id.clone(),
                ..Default::default()
            });
            self.shared.tracker.step(|queue| queue.push(event));
        }
        Some(news)
    }
}
