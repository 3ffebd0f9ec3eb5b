//! A helper process that is kept running: every end leads to one decision of [`next`], and a
//! supervised process never outlives its supervisor's stop.

use crate::errno::Words;
use std::io;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{Child, Exit, Monitor, Pid};

/// What to do when a helper process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Let it end.
    Never,
    /// Start it again if it failed: a status other than 0, or it could not be started.
    OnFailure {
        /// The pause before the first restart; doubled for each further one in a row.
        backoff: Duration,
        /// The longest pause. A run that lasts longer than this ends the row.
        max_backoff: Duration,
        /// Restarts in a row before it is given up.
        limit: u32,
    },
    /// Start it again whatever its end.
    Always {
        /// The pause before the first restart; doubled for each further one in a row.
        backoff: Duration,
        /// The longest pause. A run that lasts longer than this ends the row.
        max_backoff: Duration,
    },
}

/// How many restarts there were without a run long enough to count as healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak(pub u32);

/// What [`next`] decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is over.
    Stop,
    /// Start it again after the pause.
    RestartAfter(Duration),
}

/// Decides what follows a run that lasted `ran` and ended in `status` (`None`: it could not be
/// started).
pub fn next(
    policy: Restart,
    streak: Streak,
    ran: Duration,
    status: Option<u32>,
) -> (Action, Streak) {
    let (backoff, max_backoff, limit) = match policy {
        Restart::Never => return (Action::Stop, streak),
        Restart::OnFailure { .. } if status == Some(0) => return (Action::Stop, streak),
        Restart::OnFailure {
            backoff,
            max_backoff,
            limit,
        } => (backoff, max_backoff, limit),
        Restart::Always {
            backoff,
            max_backoff,
        } => (backoff, max_backoff, u32::MAX),
    };
    let streak = if ran > max_backoff { 0 } else { streak.0 };
    if streak >= limit {
        return (Action::Stop, Streak(streak));
    }
    let pause = backoff
        .saturating_mul(2u32.saturating_pow(streak))
        .min(max_backoff);
    (
        Action::RestartAfter(pause),
        Streak(streak.saturating_add(1)),
    )
}

/// How long a process has to end after SIGTERM when its [`Supervised`] is dropped.
const DROP_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait for the end of a process after SIGKILL; one stuck in the kernel may never end.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A helper process under a restart policy. Dropped, it is stopped as by [`Supervised::stop`] in
/// the background.
#[derive(Debug)]
pub struct Supervised {
    status: watch::Receiver<Status>,
    stop: watch::Sender<Option<Duration>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Status {
    pid: Option<Pid>,
    restarts: u32,
    last: Option<Exit>,
    ended: bool,
}

/// Runs `command` under `policy` as a task of the current tokio runtime; the closure makes a new
/// command for each run.
pub fn supervise(
    monitor: &Monitor,
    command: impl FnMut() -> Command + Send + 'static,
    policy: Restart,
) -> Supervised {
    let (status_sender, status) = watch::channel(Status::default());
    let (stop, stop_receiver) = watch::channel(None);
    let task = Task {
        monitor: monitor.clone(),
        status: status_sender,
        stop: stop_receiver,
    };
    tokio::spawn(task.run(command, policy));
    Supervised { status, stop }
}

impl Supervised {
    /// Ends it: SIGTERM, and SIGKILL once `limit` has passed; no restart follows. Returns when it
    /// is over, at the latest 5 s after the SIGKILL.
    pub async fn stop(&self, limit: Duration) -> Option<Exit> {
        // No receiver: it is over already.
        let _ = self.stop.send(Some(limit));
        self.ended().await
    }

    /// Waits until it is over for good; the exit of its last run, `None` if none ever started.
    pub async fn ended(&self) -> Option<Exit> {
        let mut status = self.status.clone();
        // An error: the task is gone with its runtime; what it knew last still stands.
        let last = status.wait_for(|s| s.ended).await.map(|s| s.last);
        last.unwrap_or_else(|_| self.last_exit())
    }

    /// The pid of the current run, if there is one now.
    pub fn pid(&self) -> Option<Pid> {
        self.status.borrow().pid
    }

    /// Restarts so far.
    pub fn restarts(&self) -> u32 {
        self.status.borrow().restarts
    }

    /// The exit of the latest run that has ended.
    pub fn last_exit(&self) -> Option<Exit> {
        self.status.borrow().last
    }
}

struct Task {
    monitor: Monitor,
    status: watch::Sender<Status>,
    stop: watch::Receiver<Option<Duration>>,
}

impl Task {
    async fn run(mut self, mut command: impl FnMut() -> Command, policy: Restart) {
        let mut streak = Streak::default();
        loop {
            let started = Instant::now();
            let status = match self.monitor.spawn(&mut command()) {
                Ok(child) => match self.watch(child).await {
                    Some(exit) => Some(exit.status),
                    None => break,
                },
                Err(e) => {
                    log::warn!("start a helper process: {e}", e = e.words());
                    None
                }
            };
            let (action, after) = next(policy, streak, started.elapsed(), status);
            streak = after;
            let Action::RestartAfter(pause) = action else {
                break;
            };
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop_asked(&mut self.stop) => break,
            }
            self.status.send_modify(|s| s.restarts += 1);
        }
        self.status.send_modify(|s| s.ended = true);
    }

    /// One run; `None` if it was ended by a stop.
    async fn watch(&mut self, mut child: Child) -> Option<Exit> {
        self.status.send_modify(|s| s.pid = Some(child.pid()));
        let (exit, stopped) = tokio::select! {
            exit = child.exited() => (Some(exit), false),
            limit = stop_asked(&mut self.stop) => (end(&mut child, limit, Child::kill).await, true),
        };
        self.status.send_modify(|s| {
            s.pid = None;
            s.last = exit.or(s.last);
        });
        exit.filter(|_| !stopped)
    }
}

/// Waits for a stop and returns its limit; a dropped [`Supervised`] is one too.
async fn stop_asked(stop: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match stop.wait_for(Option::is_some).await {
        Ok(limit) => (*limit).unwrap_or(DROP_LIMIT),
        Err(_) => DROP_LIMIT,
    }
}

/// SIGTERM, then SIGKILL once `limit` has passed, each as `send` does it ([`Child::kill`] or
/// [`Child::kill_group`]); `None` if not even that ended it within 5 s (it stays watched).
pub async fn end(
    child: &mut Child,
    limit: Duration,
    send: impl Fn(&Child, Signal) -> io::Result<()>,
) -> Option<Exit> {
    for (signal, limit) in [(Signal::SIGTERM, limit), (Signal::SIGKILL, KILL_LIMIT)] {
        // ESRCH: reaped meanwhile, the exit is there to be read.
        let _ = send(child, signal);
        if let Ok(exit) = timeout(limit, child.exited()).await {
            return Some(exit);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn decisions() {
        let never = Restart::Never;
        let on_failure = Restart::OnFailure {
            backoff: MS(10),
            max_backoff: MS(35),
            limit: 3,
        };
        let always = Restart::Always {
            backoff: MS(10),
            max_backoff: MS(35),
        };
        let stop = |streak| (Action::Stop, Streak(streak));
        let again = |pause, streak| (Action::RestartAfter(MS(pause)), Streak(streak));
        for (policy, streak, ran, status, expected) in [
            (never, 0, 1, Some(0), stop(0)),
            (never, 0, 1, Some(1), stop(0)),
            (never, 0, 0, None, stop(0)),
            (on_failure, 0, 1, Some(0), stop(0)),
            (on_failure, 0, 1, Some(1), again(10, 1)),
            (on_failure, 1, 1, Some(137), again(20, 2)),
            (on_failure, 2, 0, None, again(35, 3)),
            (on_failure, 3, 1, Some(1), stop(3)),
            (on_failure, 3, 35, Some(1), stop(3)),
            (on_failure, 3, 36, Some(1), again(10, 1)), // a healthy run ends the row
            (always, 0, 1, Some(0), again(10, 1)),
            (always, 2, 1, Some(1), again(35, 3)),
            (always, 100, 1, None, again(35, 101)), // 2^100 saturates
            (always, 100, 36, Some(0), again(10, 1)),
        ] {
            assert_eq!(
                next(policy, Streak(streak), MS(ran), status),
                expected,
                "{policy:?} {streak} {ran} {status:?}"
            );
        }
    }
}
