//! When to look at what the kernel has counted.
//!
//! Invariant: at once when there is word, then once a second while there is news. Where the kernel notifies
//! nobody (cgroup v1 since Linux 6.11) a limit is looked at once a second while the number of processes
//! changes, ever more rarely while it does not, and never where there is no limit. All such looks of a shim fall
//! together, so that it is woken for them once a second at most, and every sixteen seconds when it is idle
//! (`tests/resources/kernel_log.rs`). A client that starts, execs, signals or updates is a reason to look, once a
//! second at most, however many do.
//!
//! The kernel's log says when a cgroup is refused a fork for the first time. It is not listened to: each line of
//! it, whosesoever, would wake every shim of the machine.

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cgroup::{Level, Pids, Watch};
use crate::error::Result;

/// Between two events of one limit, and the shortest time between two looks without word.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest time between two looks without word; it doubles from [`PAUSE`] on.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// Looks come at whole multiples of their pauses, counted from here.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Waits for word of one cgroup.
pub(super) struct Follow {
    pids: Arc<Pids>,
    /// None where the cgroup's own file is silent.
    watch: Option<Watch>,
    rhythm: Rhythm,
    reasons: Reasons,
}

impl Follow {
    pub(super) fn new(watch: Option<Watch>, pids: &Arc<Pids>, asked: &Arc<Notify>) -> Self {
        Self {
            pids: Arc::clone(pids),
            watch,
            rhythm: Rhythm::new(pids.is_notified()),
            reasons: Reasons::new(asked, PAUSE),
        }
    }

    /// Calls `look` when there may be news, until the cgroup is gone. It answers whether there was any,
    /// or none when there will never be any more.
    ///
    /// # Errors
    /// Why the cgroup is watched no longer.
    pub(super) async fn run(&mut self, look: impl Fn() -> Option<bool>) -> Result<()> {
        // What came before the watch.
        let mut word = Some(Word::Nobody);
        while let Some(said) = word {
            let mut news = false;
            loop {
                match look() {
                    None => return Ok(()),
                    Some(false) => break,
                    Some(true) => {
                        news = true;
                        // Rare: it is in memory while it lasts.
                        Box::pin(sleep(PAUSE)).await;
                    }
                }
            }
            self.rhythm.had(said, news, || fill(&self.pids.levels()));
            word = self.word().await?;
        }
        Ok(())
    }

    /// Who says that there may be news; none when the cgroup is gone.
    async fn word(&mut self) -> Result<Option<Word>> {
        let changed = async {
            match &mut self.watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        let pause = self.rhythm.pause().map(at);
        tokio::select! {
            biased;
            there = changed => Ok(there?.then_some(Word::File)),
            () = self.reasons.next() => Ok(Some(Word::Asked)),
            () = until(pause) => Ok(Some(Word::Nobody)),
        }
    }
}

/// Reasons that clients have to look.
struct Reasons {
    asked: Arc<Notify>,
    /// Those that come within one are one look.
    pause: Duration,
    /// When that is.
    due: Option<Instant>,
}

impl Reasons {
    fn new(asked: &Arc<Notify>, pause: Duration) -> Self {
        Self {
            asked: Arc::clone(asked),
            pause,
            due: None,
        }
    }

    /// The end of the pause in which somebody had one. Nothing is lost if it is not waited for to its end.
    async fn next(&mut self) {
        if self.due.is_none() {
            self.asked.notified().await;
            self.due = Some(at(self.pause));
        }
        until(self.due).await;
        self.due = None;
        // What has come meanwhile is part of the same look.
        pin!(self.asked.notified()).as_mut().enable();
    }
}

/// The end of the running pause.
fn at(pause: Duration) -> Instant {
    *BEGINNING + next(BEGINNING.elapsed(), pause)
}

/// Until then, if ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => Box::pin(sleep_until(time)).await,
        None => std::future::pending().await,
    }
}

/// The next multiple of a pause. Pauses are each other's multiples: the longer ones fall on the shorter ones.
fn next(now: Duration, pause: Duration) -> Duration {
    let pauses = now.as_nanos() / pause.as_nanos().max(1) + 1;
    pause.saturating_mul(u32::try_from(pauses).unwrap_or(u32::MAX))
}

/// How many processes a cgroup has if there is a limit for it, or may be one. The cgroup first, then those above.
fn fill(levels: &[Level]) -> Option<u64> {
    match levels {
        // Not to be read just now.
        [] => Some(0),
        [own, ..] => levels
            .iter()
            .any(|level| level.limit.is_some())
            .then_some(own.current),
    }
}

/// Who said that there may be news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    File,
    Asked,
    Nobody,
}

/// When to look without being told. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rhythm {
    /// There is word of all that is new.
    file_speaks: bool,
    /// None where there is no limit.
    pause: Option<Duration>,
    /// How many processes there were at the last look.
    processes: Option<u64>,
}

impl Rhythm {
    fn new(file_speaks: bool) -> Self {
        Self {
            file_speaks,
            pause: None,
            processes: None,
        }
    }

    fn pause(self) -> Option<Duration> {
        self.pause.filter(|_| !self.file_speaks)
    }

    /// There was a look; `fill` answers how many processes there are under a limit.
    fn had(&mut self, word: Word, news: bool, fill: impl FnOnce() -> Option<u64>) {
        self.file_speaks |= word == Word::File && news;
        if self.file_speaks {
            return;
        }
        let before = std::mem::replace(&mut self.processes, fill());
        self.pause = match (self.processes, self.pause) {
            (None, _) => None,
            (now, Some(pause)) if now == before && !news && word != Word::Asked => {
                Some((2 * pause).min(LONGEST_PAUSE))
            }
            (Some(_), _) => Some(PAUSE),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn reasons_within_a_pause_are_one_look_and_none_is_lost() {
        const PAUSE: Duration = Duration::from_millis(50);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.unwrap().block_on(async {
            let asked = Arc::new(Notify::new());
            let mut reasons = Reasons::new(&asked, PAUSE);
            let begun = Instant::now();
            let mut looks = 0;
            while begun.elapsed() < 6 * PAUSE {
                asked.notify_one();
                // As when another arm of a select comes first.
                let soon = timeout(PAUSE / 10, reasons.next());
                looks += u32::from(soon.await.is_ok());
            }
            // The first pause may have begun before.
            let pauses = begun.elapsed().as_millis() / PAUSE.as_millis() + 1;
            assert!(u128::from(looks) <= pauses, "{looks} in {pauses}");
            asked.notify_one();
            assert!(timeout(100 * PAUSE, reasons.next()).await.is_ok());
            // What came while the look was due was part of it.
            assert!(timeout(2 * PAUSE, reasons.next()).await.is_err());
        });
    }

    #[test]
    fn a_limit_is_looked_at_where_the_file_is_silent() {
        let s = |n| Some(Duration::from_secs(n));
        let nobody = |news, fill| (Word::Nobody, news, fill);
        for (what, looks, expected) in [
            ("no limit", &[nobody(false, None)][..], None),
            ("a limit", &[nobody(false, Some(1))], s(1)),
            ("idle", &[nobody(false, Some(1)); 3], s(4)),
            (
                "it forks",
                &[
                    nobody(false, Some(1)),
                    nobody(false, Some(1)),
                    nobody(false, Some(2)),
                ],
                s(1),
            ),
            (
                "refused",
                &[nobody(false, Some(9)), nobody(true, Some(9))],
                s(1),
            ),
            (
                "quiet again",
                &[
                    nobody(true, Some(9)),
                    nobody(false, Some(9)),
                    nobody(false, Some(9)),
                ],
                s(4),
            ),
            (
                "somebody asked",
                &[
                    nobody(false, Some(9)),
                    nobody(false, Some(9)),
                    (Word::Asked, false, Some(9)),
                ],
                s(1),
            ),
            (
                "the limit was taken away",
                &[nobody(true, Some(9)), nobody(false, None)],
                None,
            ),
            (
                "and set again",
                &[nobody(false, None), (Word::Asked, false, Some(1))],
                s(1),
            ),
            (
                "the file speaks",
                &[nobody(false, Some(1)), (Word::File, true, Some(9))],
                None,
            ),
        ] {
            let mut rhythm = Rhythm::new(false);
            for (word, news, fill) in looks {
                rhythm.had(*word, *news, || *fill);
            }
            assert_eq!(rhythm.pause(), expected, "{what}");
        }
        let mut rhythm = Rhythm::new(true);
        rhythm.had(Word::File, true, || unreachable!("all is told"));
        assert_eq!(rhythm.pause(), None, "all is told");
        let mut rhythm = Rhythm::new(false);
        for _ in 0..20 {
            rhythm.had(Word::Nobody, false, || Some(1));
        }
        assert_eq!(rhythm.pause(), Some(LONGEST_PAUSE));
    }

    #[test]
    fn looks_fall_together() {
        let s = Duration::from_secs;
        let ms = Duration::from_millis;
        for (now, pause, expected) in [
            (ms(0), s(1), s(1)),
            (ms(999), s(1), s(1)),
            (ms(1000), s(1), s(2)),
            (ms(1001), s(4), s(4)),
            (ms(4001), s(4), s(8)),
            (ms(17_000), s(16), s(32)),
        ] {
            assert_eq!(next(now, pause), expected, "{now:?} {pause:?}");
        }
    }

    #[test]
    fn only_a_limit_is_a_reason() {
        let level = |current, limit| Level {
            dir: PathBuf::new(),
            current,
            limit,
        };
        for (levels, expected) in [
            (vec![], Some(0)),
            (vec![level(3, None), level(9, None)], None),
            (vec![level(3, Some(5)), level(9, None)], Some(3)),
            (vec![level(3, None), level(9, Some(10))], Some(3)),
        ] {
            assert_eq!(fill(&levels), expected, "{levels:?}");
        }
    }
}
