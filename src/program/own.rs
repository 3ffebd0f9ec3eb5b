//! What this process sets up for itself, before all else, and what its children get instead.
//!
//! Invariant: a shim lives on where the caller's circumstances would end it or make it deaf, and nothing of
//! what it has set for that reaches a container. Go's runtime does most of this unasked; the rest is what the
//! Go shim's people could rely on.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, signal};

/// Of the limit of open files, what it was and what it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raised {
    from: rlim_t,
    to: rlim_t,
}

static RAISED: OnceLock<Raised> = OnceLock::new();

/// Children can be waited for, whatever the caller has ignored: else the kernel reaps them itself.
pub fn own_children() {
    set(Signal::SIGCHLD, SigHandler::SigDfl);
}

/// Nothing that the caller has blocked is, and a write beyond the limit of a file's size is an error as any
/// other, not the end. That of a pipe without a reader is so already: the standard library sees to it.
pub fn hear_and_outlive() {
    set(Signal::SIGXFSZ, SigHandler::SigIgn);
    // There is no reason for which it could fail.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

fn set(number: Signal, to: SigHandler) {
    // SAFETY: no handler runs, it is ignored or left to the kernel. It fails for no signal that is named here.
    let _ = unsafe { signal(number, to) };
}

/// As many files may be open as the system lets this process have. What it starts is not told.
///
/// # Errors
/// What the system said.
pub fn raise_open_files() -> nix::Result<()> {
    let (from, to) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if from < to {
        setrlimit(Resource::RLIMIT_NOFILE, to, to)?;
        // A second call finds nothing to raise.
        let _ = RAISED.set(Raised { from, to });
    }
    Ok(())
}

/// The limit for a child, if it is to be another than this process's.
pub(super) fn open_files_of_children() -> Option<libc::rlimit> {
    let raised = RAISED.get()?;
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    Some(libc::rlimit {
        rlim_cur: soft_of_children(*raised, now, most)?,
        rlim_max: most,
    })
}

/// An administrator may have set other limits meanwhile (prlimit(1)), which then are the children's too.
fn soft_of_children(raised: Raised, now: rlim_t, most: rlim_t) -> Option<rlim_t> {
    (now == raised.to).then(|| raised.from.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_get_what_there_was() {
        let raised = Raised { from: 64, to: 4096 };
        for (now, most, expected) in [
            (4096, 4096, Some(64)),
            (4096, 8192, Some(64)),
            // Set from outside since.
            (100, 4096, None),
            (32, 32, None),
            (8192, 8192, None),
        ] {
            assert_eq!(
                soft_of_children(raised, now, most),
                expected,
                "{now} {most}"
            );
        }
    }
}
