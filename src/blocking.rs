//! Blocking work for an async caller: every call gets a thread of its own that ends with it.
//!
//! Invariant: a stuck call holds one small thread and its own caller, nothing else. There is no
//! pool, so a thread may change what it shares with the process (its working directory, say)
//! without leaving that behind for the next job, and an idle shim is back to one thread.
//!
//! What may hang for ever goes through [`within`]: at its limit its caller goes on with an error, and
//! the thread is accounted for until its end ([`late`]). A repetition waits for it instead of adding
//! another, so that a manager that tries again and again piles nothing up.
//!
//! That is whatever lies where a client says: a stream's file or logger, options, checkpoints, the
//! rootfs, a runtime's binary. What stays on the event loop is what lies in memory, or without which
//! no container of this shim could do anything: files of the kernel (proc, cgroups, as long as
//! they ask no file system: no link of `/proc/<pid>` is followed), the bundle and the runtime's
//! root (the manager's and the runtime's state directories, a tmpfs), pipes and sockets. What of it is as
//! long as others make it, a tree of cgroups or the mount table, is read in slices (`crate::slices`).
//!
//! Nothing may start a child with `PR_SET_PDEATHSIG` from here: that signal is tied to the
//! starting thread, and this thread ends at once.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::error::{Code, Error, Result};
use crate::times::since;

/// Stack of a blocking thread, in bytes. Only touched pages cost memory.
const STACK: usize = 256 * 1024;

/// Runs `f` on its own thread, called `name` (the kernel shows the first 15 bytes of it), and
/// waits for the answer.
///
/// Where no thread can be had the answer is `ResourceExhausted`.
///
/// Dropping the future does not stop `f`: it runs to its end and its answer is dropped. A panic
/// in `f` is an [`Code::Internal`] error.
pub async fn blocking<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (tx, rx) = oneshot::channel();
    spawn(name, move || {
        let answer = catch_unwind(AssertUnwindSafe(f));
        // The caller may be gone; then nobody wants the answer.
        let _ = tx.send(answer);
    })?;
    answered(name, rx.await.ok())
}

/// Work that did not end within its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// What is being done, on what.
    pub what: String,
    /// Since when.
    pub since: SystemTime,
}

/// The work that is late, in the order of its beginning.
static LATE: Mutex<BTreeMap<u64, Late>> = Mutex::new(BTreeMap::new());
/// Told when some of it has ended.
static ENDED: LazyLock<watch::Sender<()>> = LazyLock::new(Default::default);
/// Numbers the calls of [`within`].
static NEXT: AtomicU64 = AtomicU64::new(0);

fn lates() -> MutexGuard<'static, BTreeMap<u64, Late>> {
    LATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All work that is late at this moment.
pub fn late() -> Vec<Late> {
    lates().values().cloned().collect()
}

fn late_at(what: &str) -> Option<Late> {
    lates().values().find(|late| late.what == what).cloned()
}

/// Work that may hang, and what is to become of it then.
pub struct Job<'a> {
    /// The thread's name.
    pub name: &'a str,
    /// What is done, on what, for the error: `open stdout /mnt/log`. No two of the same run at once
    /// once one is late.
    pub what: String,
    /// How long its caller waits.
    pub limit: Duration,
}

/// As [`blocking`], with an end to the wait.
///
/// # Errors
/// `DeadlineExceeded` naming what hangs and since when; what the work answers later is dropped, on
/// its thread.
pub async fn within<T: Send + 'static>(
    job: Job<'_>,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    within_or(job, f, drop).await
}

/// As [`within`]; an answer that nobody waits for any more is undone by `undo`, on the same thread.
///
/// # Errors
/// As [`within`].
pub async fn within_or<T: Send + 'static>(
    job: Job<'_>,
    f: impl FnOnce() -> T + Send + 'static,
    undo: impl FnOnce(T) + Send + 'static,
) -> Result<T> {
    in_steps(job, move |_| f(), undo).await
}

/// As [`within_or`], for work that can stop between its steps: it is given a question, whether
/// somebody still waits for the answer.
///
/// # Errors
/// As [`within`].
pub async fn in_steps<T: Send + 'static>(
    job: Job<'_>,
    f: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    undo: impl FnOnce(T) + Send + 'static,
) -> Result<T> {
    let Job { name, what, limit } = job;
    let deadline = Instant::now() + limit;
    let mut ended = ENDED.subscribe();
    while let Some(earlier) = late_at(&what) {
        if timeout_at(deadline, ended.changed()).await.is_err() {
            return Err(hangs(&earlier));
        }
    }
    let begun = SystemTime::now();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let (tx, mut rx) = oneshot::channel();
    spawn(name, move || {
        let _ended = Ended(number);
        let wanted = || !tx.is_closed();
        let answer = catch_unwind(AssertUnwindSafe(|| f(&wanted)));
        if let Err(Ok(unwanted)) = tx.send(answer) {
            undo(unwanted);
        }
    })?;
    if let Ok(answer) = timeout_at(deadline, &mut rx).await {
        return answered(name, answer.ok());
    }
    let late = Late { what, since: begun };
    // Known before the thread can see that nobody waits.
    lates().insert(number, late.clone());
    rx.close();
    if let Ok(answer) = rx.try_recv() {
        lates().remove(&number);
        return answered(name, Some(answer));
    }
    let error = hangs(&late);
    log::warn!("{error}; its thread {name} is left to it");
    Err(error)
}

fn hangs(late: &Late) -> Error {
    Error::deadline_exceeded(format!("{} hangs since {}", late.what, since(late.since)))
}

/// The end of a thread that may have been late.
struct Ended(u64);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(late) = lates().remove(&self.0) {
            log::info!(
                "{} has come to its end; it hung since {}",
                late.what,
                since(late.since)
            );
            ENDED.send_replace(());
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        // A NUL in a thread name is a panic in std.
        .name(name.replace('\0', "?"))
        .stack_size(STACK)
        .spawn(work)
        .map(drop)
        .map_err(|why| {
            let error = Error::io(format!("start thread {name}"), &why);
            match is_exhausted(&why) {
                true => Error::new(Code::ResourceExhausted, error.message),
                false => error,
            }
        })
}

/// Whether there is no thread or process to be had, by a limit or for want of memory.
pub(crate) fn is_exhausted(why: &io::Error) -> bool {
    matches!(why.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM))
}

fn answered<T>(name: &str, answer: Option<thread::Result<T>>) -> Result<T> {
    match answer {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(panic)) => Err(Error::new(
            Code::Internal,
            format!("thread {name} panicked: {}", panic_text(panic.as_ref())),
        )),
        None => Err(Error::new(
            Code::Internal,
            format!("thread {name} ended without an answer"),
        )),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "(no message)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn the_answer_comes_from_another_named_thread() {
        let here = thread::current().id();
        let (name, there) = run(blocking("a\0job", || {
            let me = thread::current();
            (me.name().map(str::to_owned), me.id())
        }))
        .unwrap();
        assert_eq!(name.as_deref(), Some("a?job"));
        assert_ne!(here, there);
    }

    #[test]
    fn a_panic_is_an_internal_error_with_its_text() {
        let err = run(blocking("bad", || -> () { panic!("no {}", "luck") })).unwrap_err();
        assert_eq!(err.code, Code::Internal);
        assert_eq!(err.message, "thread bad panicked: no luck");
    }

    #[test]
    fn a_stuck_call_stops_no_other() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        run(async {
            let stuck = blocking("stuck", move || held.recv());
            let mut stuck = std::pin::pin!(stuck);
            tokio::select! {
                biased;
                _ = &mut stuck => panic!("ended before it was released"),
                other = blocking("other", || 7) => assert_eq!(other.unwrap(), 7),
            }
            release.send(()).unwrap();
            assert_eq!(stuck.await.unwrap(), Ok(()));
        });
    }

    #[test]
    fn work_goes_on_when_nobody_waits() {
        let (done, seen) = std::sync::mpsc::channel();
        run(async {
            let future = blocking("left", move || done.send(()));
            // A timeout of zero polls once, which starts the thread, and then drops the future.
            tokio::select! {
                biased;
                _ = future => {}
                () = async {} => {}
            }
        });
        seen.recv().unwrap();
    }

    fn job(what: &str, limit: u64) -> Job<'static> {
        Job {
            name: "job",
            what: what.into(),
            limit: Duration::from_millis(limit),
        }
    }

    fn timed<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.unwrap().block_on(future)
    }

    #[test]
    fn what_hangs_is_named_known_and_undone() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (undone, undo) = std::sync::mpsc::channel();
        let named = |late: &Late| late.what == "look at /dead";
        timed(async {
            let work = move || held.recv().map(|()| 7);
            let back = move |answer| undone.send(answer).unwrap();
            let error = within_or(job("look at /dead", 20), work, back).await;
            let error = error.unwrap_err();
            assert_eq!(error.code, Code::DeadlineExceeded);
            assert!(
                error.message.starts_with("look at /dead hangs since 2"),
                "{error}"
            );
            assert!(late().iter().any(named));

            // Another try adds no thread; another's work is not held up.
            let again = within(job("look at /dead", 20), || unreachable!("a second thread"));
            assert_eq!(again.await.unwrap_err(), error);
            assert_eq!(within(job("look at /good", 60_000), || 8).await, Ok(8));

            release.send(()).unwrap();
            // Waits for the end of the first.
            let repeated = within(job("look at /dead", 60_000), || 9).await;
            assert_eq!(repeated, Ok(9));
        });
        assert_eq!(undo.recv().unwrap(), Ok(7));
        assert!(!late().iter().any(named));
    }

    #[test]
    fn work_in_steps_learns_that_nobody_waits() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (undone, undo) = std::sync::mpsc::channel();
        timed(async {
            let asked = in_steps(job("step", 60_000), |wanted| wanted(), drop).await;
            assert_eq!(asked, Ok(true));
            let work = move |wanted: &dyn Fn() -> bool| {
                let _ = held.recv();
                wanted()
            };
            let back = move |answer| undone.send(answer).unwrap();
            let error = in_steps(job("step", 20), work, back).await.unwrap_err();
            assert_eq!(error.code, Code::DeadlineExceeded);
        });
        release.send(()).unwrap();
        assert_eq!(undo.recv(), Ok(false));
    }

    #[test]
    fn a_panic_within_a_limit_is_an_error_too() {
        let error = timed(within(job("panic", 60_000), || -> () { panic!("no luck") }));
        assert_eq!(error.unwrap_err().code, Code::Internal);
    }
}
