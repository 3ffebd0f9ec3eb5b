//! Whether a call of the runtime failed because a limit of processes was reached.
//!
//! Invariant: the limit is only named when forks were refused during the call and the runtime's words are those
//! of a refused fork; else the error stays as it is. The runtime's words stay, too: clients match on them.
//!
//! A process that joins a container is never refused; what it forks then is. runc's Go program does so before
//! it is the user's, aborts, and leaves its parent with a closed socket.

use crate::cgroup::{Cgroup, CountedAt, Level, Pids, fullest};
use crate::error::Error;

/// What runtimes and Go say when a fork was refused, or when one who says so is gone.
const WORDS: [&str; 8] = [
    "resource temporarily unavailable",
    "can't fork",
    "cannot fork",
    "connection reset by peer",
    "broken pipe",
    "pthread_create failed",
    "failed to create new os thread",
    "eof",
];

/// What was counted before a call.
pub struct Before(Vec<(Pids, u64)>);

impl Before {
    /// The counts before a call of the runtime, in a container's cgroup, if it has one.
    pub fn call(cgroup: Option<&Cgroup>) -> Self {
        let mut counts = Vec::new();
        let mut at = cgroup.and_then(|cgroup| cgroup.pids_unread().ok());
        while let Some(pids) = at {
            let above = match pids.counted_at() {
                CountedAt::Limit => pids.parent(),
                CountedAt::Forker => None,
            };
            if let Ok(hits) = pids.hits() {
                counts.push((pids, hits));
            }
            at = above;
        }
        Self(counts)
    }

    /// The error of a call that failed, with the limit that was its cause, if one was.
    pub fn explain(self, mut error: Error) -> Error {
        if !is_refusal(&error.message) {
            return error;
        }
        let moved = |(pids, before): &(Pids, u64)| pids.hits().is_ok_and(|now| now > *before);
        let Some((pids, _)) = self.0.into_iter().find(moved) else {
            return error;
        };
        let levels = pids.levels();
        let level = match pids.counted_at() {
            CountedAt::Limit => levels.first(),
            CountedAt::Forker => fullest(&levels),
        };
        if let Some(level) = level {
            error
                .message
                .push_str(&reached(level, pids.dir() == level.dir));
        }
        error
    }
}

fn is_refusal(message: &str) -> bool {
    let message = message.to_lowercase();
    WORDS.iter().any(|words| message.contains(words))
}

fn reached(level: &Level, own: bool) -> String {
    let whose = if own { "container's limit" } else { "limit" };
    let number = level.limit.map_or("no".to_owned(), |max| max.to_string());
    let dir = level.dir.display();
    format!(": {whose} of {number} processes (pids.max of {dir}) was reached")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runtimes_say_of_a_refused_fork() {
        for (message, expected) in [
            // runc 1.1, 1.3
            (
                "OCI runtime exec failed: exec failed: unable to start container process: read init-p: connection reset by peer",
                true,
            ),
            (
                "unable to start container process: error starting setns process: fork/exec /proc/self/exe: resource temporarily unavailable",
                true,
            ),
            ("read pipe: EOF", true),
            // crun
            ("crun: fork: Resource temporarily unavailable", true),
            // Of other reasons.
            (
                "exec: \"nosuch\": executable file not found in $PATH",
                false,
            ),
            ("cannot exec in a stopped container", false),
            ("", false),
        ] {
            assert_eq!(is_refusal(message), expected, "{message}");
        }
    }

    #[test]
    fn whose_limit_was_reached() {
        let level = Level {
            dir: "/g".into(),
            current: 20,
            limit: Some(20),
        };
        assert_eq!(
            reached(&level, true),
            ": container's limit of 20 processes (pids.max of /g) was reached"
        );
        assert_eq!(
            reached(&level, false),
            ": limit of 20 processes (pids.max of /g) was reached"
        );
    }
}
