//! When to look at what the kernel has counted.
//!
//! Invariant: at once when there is word, then once a second while there is news. Where the kernel tells of
//! a cgroup's first refusal only, a limit that has been reached is looked at again without word, ever
//! more rarely; one that has not been reached, never.

use std::time::Duration;

use tokio::time::sleep;

use super::{Shared, log_once, unwatched};
use crate::cgroup::{Pids, Refused, Watch};
use crate::error::Result;

/// Between two events of one limit.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest time between two looks at a limit that has been reached, on systems that only tell of the
/// first time; the first look is after [`PAUSE`], and the time doubles.
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// Waits for word of one cgroup.
pub(super) struct Follow {
    /// None where the cgroup's own file is silent.
    watch: Option<Watch>,
    rhythm: Rhythm,
    /// The kernel's log, where that file is or may be silent.
    refused: Option<Refused>,
}

impl Follow {
    pub(super) fn new(watch: Option<Watch>, pids: &Pids, shared: &Shared, id: &str) -> Self {
        let follow = || shared.pids.refusals.follow();
        let refused = (!pids.is_notified()).then(follow);
        let refused = refused.and_then(|refused| {
            refused
                .inspect_err(|why| log_once(shared, id, &unwatched(why)))
                .ok()
        });
        Self {
            watch,
            rhythm: Rhythm::new(pids.is_notified()),
            refused,
        }
    }

    /// Calls `look` when there may be news, until the cgroup is gone. It answers whether there was any,
    /// or none when there will never be any more.
    ///
    /// # Errors
    /// Why the cgroup is watched no longer.
    pub(super) async fn run(mut self, look: impl Fn() -> Option<bool>) -> Result<()> {
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
                        sleep(PAUSE).await;
                    }
                }
            }
            self.rhythm.had(said, news);
            word = self.word(self.rhythm.pause()).await?;
        }
        Ok(())
    }

    /// Who says that there may be news; none when the cgroup is gone.
    async fn word(&mut self, pause: Option<Duration>) -> Result<Option<Word>> {
        let changed = async {
            match &mut self.watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        let refused = async {
            match &mut self.refused {
                Some(refused) => refused.anywhere().await,
                None => std::future::pending().await,
            }
        };
        let pause = async {
            match pause {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            there = changed => Ok(there?.then_some(Word::File)),
            () = refused => Ok(Some(Word::Log)),
            () = pause => Ok(Some(Word::Nobody)),
        }
    }
}

/// Who said that there may be news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    File,
    Log,
    Nobody,
}

/// When to look without being told. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rhythm {
    /// There is word of all that is new.
    file_speaks: bool,
    pause: Option<Duration>,
}

impl Rhythm {
    fn new(file_speaks: bool) -> Self {
        Self {
            file_speaks,
            pause: None,
        }
    }

    fn pause(self) -> Option<Duration> {
        self.pause.filter(|_| !self.file_speaks)
    }

    fn had(&mut self, word: Word, news: bool) {
        self.file_speaks |= word == Word::File && news;
        self.pause = match (self.pause, news) {
            (_, true) => Some(PAUSE),
            (Some(pause), false) if word == Word::Nobody => Some((2 * pause).min(LONGEST_PAUSE)),
            (pause, false) => pause,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_was_reached_is_looked_at_where_the_file_is_silent() {
        let s = |n| Some(Duration::from_secs(n));
        for (what, said, expected) in [
            ("nothing was refused", &[(Word::Log, false)][..], None),
            ("first refusal", &[(Word::Log, true)], s(1)),
            ("the file speaks", &[(Word::File, true)], None),
            (
                "the file speaks, later than the log",
                &[(Word::Log, true), (Word::File, false), (Word::File, true)],
                None,
            ),
            (
                "quiet",
                &[
                    (Word::Log, true),
                    (Word::Nobody, false),
                    (Word::Nobody, false),
                ],
                s(4),
            ),
            (
                "again",
                &[
                    (Word::Log, true),
                    (Word::Nobody, false),
                    (Word::Nobody, true),
                ],
                s(1),
            ),
            (
                "somebody else's",
                &[(Word::Log, true), (Word::Nobody, false), (Word::Log, false)],
                s(2),
            ),
        ] {
            let mut rhythm = Rhythm::new(false);
            for (word, news) in said {
                rhythm.had(*word, *news);
            }
            assert_eq!(rhythm.pause(), expected, "{what}");
        }
        let mut rhythm = Rhythm::new(true);
        rhythm.had(Word::File, true);
        assert_eq!(rhythm.pause(), None, "all is told");
        let mut rhythm = Rhythm::new(false);
        rhythm.had(Word::Log, true);
        for _ in 0..20 {
            rhythm.had(Word::Nobody, false);
        }
        assert_eq!(rhythm.pause(), Some(LONGEST_PAUSE));
    }
}
