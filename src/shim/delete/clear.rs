//! Takes apart what is left of one container: the runtime's part, its processes, its mounts.
//!
//! Invariant: each step is tried whatever became of the one before, and the container's processes are killed
//! however little time there is.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::left::{Left, or_told};
use super::leftovers::kill_leftovers;
use super::orphans;
use super::time::Time;
use crate::apart::apart;
use crate::container::exit_file;
use crate::error::{Code, Error, Result};
use crate::events::journal;
use crate::mount;
use crate::program::Program;
use crate::runtime;
use crate::shim::call::call;

/// The part of the time for a container in which its runtime may be asked, in eighths; the rest is the
/// unmounting's.
const RUNTIME_EIGHTHS: u32 = 5;

/// How long a mount may be busy, within that: the error then says so.
const BUSY: Duration = Duration::from_millis(600);

/// Clears away one container whose shim `lives` or not; of a dead one with the calls of its runtime. Answers
/// who its init was.
pub(super) fn clear(
    left: &Left,
    lives: bool,
    time: Time,
    warnings: &mut Vec<Error>,
) -> Option<Pid> {
    let bundle = left.bundle.as_path();
    let interrupted = match lives {
        true => Vec::new(),
        false => orphans::logs(bundle, warnings),
    };
    let mut all_ended = true;
    if !interrupted.is_empty() {
        let ended = orphans::end(&interrupted, time.left());
        all_ended = ended.is_ok();
        warnings.extend(ended.err());
    }
    // A call that came to its end has named it.
    let init = or_told(left.init(), warnings);
    let mut step = |result: Result<()>| warnings.extend(result.err());
    let of_runtime = Time {
        end: Instant::now() + time.left() * RUNTIME_EIGHTHS / 8,
    };
    let deleted = delete_from_runtime(left, of_runtime);
    step(kill_leftovers(&left.spec.cgroups_path, init, time.left()));
    step(match deleted {
        // A cgroup is busy until the last of thousands that were killed has ended, and runtimes give up after a
        // few tenths of a second. By now they have, mostly.
        Err(why) if why.code != Code::DeadlineExceeded => {
            // Without time for an answer the first one counts.
            let no_answer = |again: &Error| again.code == Code::DeadlineExceeded;
            delete_from_runtime(left, of_runtime)
                .map_err(|again| if no_answer(&again) { why } else { again })
        }
        done => done,
    });
    step(unmount(&bundle.join("rootfs"), time));
    if all_ended && !interrupted.is_empty() {
        orphans::clear(&left.spec.cgroups_path, &interrupted);
    }
    if !lives {
        runtime::remove_left_processes(bundle);
        exit_file::forget(bundle);
        journal::forget_new(bundle);
    }
    init
}

/// Has the runtime delete the container, if it knows it.
fn delete_from_runtime(left: &Left, time: Time) -> Result<()> {
    // In doubt the runtime is asked.
    if left.is_known() == Ok(false) {
        return Ok(());
    }
    let (id, binary) = (&left.id, &left.binary);
    let mut command = Program::new(binary);
    command.arg("--root").arg(&left.root);
    let log = left.bundle.join("log.json");
    // A FIFO there would hold the runtime up until its time is over.
    if std::fs::symlink_metadata(&log).map_or(true, |kind| kind.is_file()) {
        command.arg("--log").arg(&log);
        command.args(["--log-format", "json"]);
    }
    // Without it a runtime looks for a cgroup of another name than systemd made; the Go shim
    // leaves it out here.
    if left.systemd {
        command.arg("--systemd-cgroup");
    }
    command.args(["delete", "--force", id]);
    let what = format!("{binary} delete --force {id}");
    let limit = time.eighths(8, &what)?;
    let output = call(command, &what, limit)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || complaint.contains("does not exist") {
        return Ok(());
    }
    Err(Error::unknown(format!(
        "{what}: {}: {}",
        output.status,
        complaint.trim()
    )))
}

/// Unmounts the root file system. Mostly nothing is mounted there, which the kernel tells without asking
/// any file system.
fn unmount(rootfs: &Path, time: Time) -> Result<()> {
    if mount::nothing_mounted(rootfs) {
        return Ok(());
    }
    let what = format!("unmount {}", rootfs.display());
    let done = || mount::unmount_all_in(rootfs, BUSY).map(|()| Vec::new());
    apart(&what, time.eighths(8, &what)?, done).map(drop)
}
