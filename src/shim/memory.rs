//! What the allocator does with memory that is free.
//!
//! Invariant: it goes back to the system. glibc raises its limits with the largest block it has seen
//! freed: after one request of 4 MiB, the most that ttrpc takes, it would keep up to that much in the
//! heap for every later one, and twice as much free at the heap's end, for good. A shim lives for
//! months and rests nearly all the time; so once it comes to rest after some work, what is free
//! between blocks in use is given back too ([`at_rest`]), and nothing wakes up after that. What each
//! thread would keep of small blocks, and of threads that have ended their stacks, can be given back by
//! nobody: there is none of that, which has to be said before the program starts ([`KEEP_NOTHING`]).

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

/// How long nobody asks for anything before the shim counts as resting. Longer than the pauses within
/// a burst: what is given back has to be taken again, page by page. It is given back within twice that.
const REST: Duration = Duration::from_millis(400);

/// Gives back what is free whenever the shim comes to rest; `work` is marked by all that it does for
/// others. Wakes up at most once in [`REST`] while there is work, and not at all while there is none. Ends
/// with those who mark it.
pub(super) async fn at_rest(mut work: watch::Receiver<()>) {
    while work.changed().await.is_ok() {
        while {
            sleep(REST).await;
            work.has_changed().unwrap_or(false)
        } {
            work.mark_unchanged();
        }
        trim();
    }
}

/// A variable and its value (glibc's manual, "Tunables") for the server, and for nobody whom it starts.
pub(super) const KEEP_NOTHING: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.tcache_count=0:glibc.pthread.stack_cache_size=0",
);

/// Keeps glibc's limits where they begin.
#[cfg(target_env = "gnu")]
pub(super) fn give_back() {
    let (name, ours) = KEEP_NOTHING;
    if std::env::var_os(name).is_some_and(|value| value == ours) {
        // SAFETY: this is the only thread.
        unsafe { std::env::remove_var(name) };
    }
    /// glibc's own first values (mallopt(3)); setting either ends their adjustment.
    const LIMIT: libc::c_int = 128 * 1024;
    // One heap for all: what short-lived threads free in heaps of their own is never given back.
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, LIMIT),
        (libc::M_TRIM_THRESHOLD, LIMIT),
        (libc::M_ARENA_MAX, 1),
    ] {
        // SAFETY: it takes two numbers, and this is the only thread.
        if unsafe { libc::mallopt(parameter, value) } == 0 {
            log::debug!("the allocator keeps its own limits");
        }
    }
}

/// Gives back what is free between blocks in use, too.
#[cfg(target_env = "gnu")]
pub(super) fn trim() {
    // SAFETY: it takes a number, and touches only what is free.
    unsafe { libc::malloc_trim(0) };
}

/// musl has no limits that grow.
#[cfg(not(target_env = "gnu"))]
pub(super) fn give_back() {}

/// musl does so at once.
#[cfg(not(target_env = "gnu"))]
pub(super) fn trim() {}
