//! How the init of a container whose shim is dead has ended.
//!
//! Invariant: however often it is asked for, and whatever else of the bundle is cleared away in between, it is
//! the same. Pinned by `tests/faults/told.rs`.

use std::path::Path;
use std::time::SystemTime;

use nix::unistd::Pid;

use super::last_events;
use super::left::or_told;
use crate::container::exit_file;
use crate::error::Error;
use crate::monitor::Exit;

/// How a container whose end nobody saw is said to have ended: as if by SIGKILL.
const KILLED: u32 = 137;

/// How the container's init ended, now that it certainly has.
pub(super) struct End {
    pub(super) exit: Exit,
    /// Only the events tell so that are about to go.
    to_be_kept: bool,
}

impl End {
    /// As the shim that reaped it, with this `pid` if that is known, wrote down, by itself or among the events that nobody has taken; else as if by
    /// SIGKILL and just now.
    pub(super) fn of(bundle: &Path, id: &str, pid: Option<Pid>, warnings: &mut Vec<Error>) -> Self {
        let pid = pid.map_or(0, Pid::as_raw);
        // Another is an earlier container's, in a bundle used again.
        let is = |exit: &Exit| pid == 0 || exit.pid == pid;
        let recorded = or_told(exit_file::read(bundle), warnings).filter(is);
        let kept = || last_events::exit_of(bundle, id).filter(is);
        let killed = || Exit {
            pid,
            status: KILLED,
            at: SystemTime::now(),
        };
        match recorded {
            Some(exit) => Self {
                exit,
                to_be_kept: false,
            },
            None => {
                let kept = kept();
                Self {
                    to_be_kept: kept.is_some(),
                    exit: kept.unwrap_or_else(killed),
                }
            }
        }
    }

    /// The action may be run again, and says the same then. On a full disk there may be room once the events
    /// are gone.
    pub(super) fn keep(&mut self, bundle: &Path) {
        if self.to_be_kept {
            self.to_be_kept = exit_file::write(bundle, self.exit).is_err();
        }
    }
}
