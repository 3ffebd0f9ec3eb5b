//! When to look at what the kernel has counted.
//!
//! Invariant: at once when there is word, then once a second while more are killed or memory is short; with
//! neither, nobody is woken.

use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::stall::{LOOK, Shortage};
use super::{Look, PAUSE, Patience, Sensed};
use crate::cgroup::OomWatch;

/// On v1 the kernel says that memory is short before it kills, and in between it may write its report to a
/// slow console: how often to look whether it has killed, and the pause between looks.
const LOOKS: [(u32, Duration); 3] = [
    (10, Duration::from_millis(1)),
    (50, Duration::from_millis(10)),
    (50, Duration::from_millis(100)),
];

/// The kernel counts a kill, and then writes to its log who it was: looks that wait for the log.
const PATIENCE: u32 = 3;

/// Looks that wait for the start of an exec to say whether the victim is that exec: about half a second.
const UNNAMED: u32 = 60;

/// Looks that wait until the log has been read to its end.
const BEHIND: u32 = 60;

/// Looks when there is word, until the container is no more. There is one for each container: what is not its
/// wait for a word is in memory while it lasts.
pub(super) async fn follow(mut watch: OomWatch, container: Weak<dyn Sensed>) {
    let mut shortage = Shortage::default();
    loop {
        let word = match shortage.is_open() {
            true => Box::pin(timeout(LOOK, watch.changed())).await.ok(),
            false => Some(watch.changed().await),
        };
        match word {
            Some(Ok(true)) | None => {}
            Some(Ok(false)) => return,
            Some(Err(why)) => {
                if let Some(container) = container.upgrade() {
                    container.oom_seen_late(&why);
                }
                return;
            }
        }
        // A word is of a kill that is to come, or of one that has been counted; or of none.
        let mut comes = word.is_some() && !watch.comes_after_the_count() && !shortage.is_open();
        loop {
            match Box::pin(look(&container, comes, &watch)).await {
                Some(Look::Told) => Box::pin(sleep(PAUSE)).await,
                // The watch would never be quiet again.
                Some(Look::Gone) | None => return,
                Some(_) => break,
            }
            comes = false;
        }
        let Some(container) = container.upgrade() else {
            return;
        };
        if let Some(seen) = container.memory_seen(watch.words()) {
            container.memory_is_short(shortage.saw(Instant::now(), seen));
        }
        drop(container);
        // Some kernels have word all the time.
        if shortage.is_open() {
            Box::pin(sleep(LOOK / 4)).await;
        }
    }
}

/// Looks until there is something to tell, or nothing to wait for. None when the container is no more.
async fn look(container: &Weak<dyn Sensed>, comes: bool, watch: &OomWatch) -> Option<Look> {
    let (mut early, mut unnamed, mut behind) = (0, 0, 0);
    for pause in looks() {
        let container = container.upgrade()?;
        let patience = Patience {
            log: early < PATIENCE && behind < BEHIND,
            names: unnamed < UNNAMED,
        };
        match container.look(None, patience) {
            end @ (Look::Told | Look::Gone) => return Some(end),
            Look::Nothing if !comes => return Some(Look::Nothing),
            Look::Nothing => {
                let seen = container.memory_seen(watch.words());
                if seen.is_none_or(|seen| seen.held) {
                    return Some(Look::Nothing);
                }
                // So that it has been read once the kill is counted.
                container.sensors().kernel_log.catch_up();
            }
            Look::Early => early += 1,
            Look::Unnamed => unnamed += 1,
            Look::Behind => behind += 1,
        }
        drop(container);
        sleep(pause).await;
    }
    Some(Look::Nothing)
}

/// The pauses behind the looks at a count.
fn looks() -> impl Iterator<Item = Duration> {
    let times = |(times, pause)| std::iter::repeat_n(pause, times as usize);
    LOOKS.into_iter().flat_map(times)
}
