//! What the allocator does with memory that is free.
//!
//! Invariant: it goes back to the system. glibc raises its limits with the largest block it has seen
//! freed: after one request of 4 MiB, the most that ttrpc takes, it would keep up to that much in the
//! heap for every later one, and twice as much free at the heap's end, for good. A shim lives for
//! months and rests nearly all the time.

/// Keeps glibc's limits where they begin.
#[cfg(target_env = "gnu")]
pub(super) fn give_back() {
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
