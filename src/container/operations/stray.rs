//! Processes that the runtime made for an exec whose start then failed: it was killed, failed after the
//! work, or reported another pid.
//!
//! Invariant: only what is proven to be the failed call's is killed, never what is left when all
//! others are struck out. A child of the shim in the container's cgroup that nobody knows may be the
//! process of another exec whose call is under way (crun leaves it to the shim before it names it), or
//! a daemon (in a shared pid namespace orphans come to the shim). Proof is, beside the call's process
//! group and its descendants, which end with it ([`crate::runtime`]):
//!
//! - its pid file names the process, which was forked within the call and before the file was written;
//! - the process holds a pipe that was made for this exec and given to this call alone.
//!
//! What may be the call's and is not proven runs on, and the log says so, and with it the dump. Where the runtime was not
//! called there is nothing to look for, and nothing is looked at before a call: an exec beside ten
//! thousand orphans costs what it costs beside none.
//!
//! Pinned by `tests/faults/exec.rs` and `tests/faults/beside.rs`.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::getsid;
use tokio::time::{sleep, timeout};

use crate::blocking::blocking;
use crate::container::{Container, Process, files};
use crate::error::{Error, Result};
use crate::kin::Stat;
use crate::monitor::{Clocks, Moment, Pid, children, is_unreaped_child};
use crate::runtime::{Fds, Kind, Named, RuntimeError, read_pid_file};

/// How long to wait for the end of a killed process; one stuck in the kernel may never end.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// The most that are named as possible strays.
const NAMED: usize = 8;

/// What is known of one call of the runtime's `exec`.
pub(super) struct Call {
    begun: Clocks,
    /// The pipes that were made for it.
    pipes: Vec<PathBuf>,
    /// Whom its pid file names, and by when that was surely written.
    named: Option<(Pid, Moment)>,
    /// It may have made a process without naming it: it was cut off, or says that it has made one.
    unnamed: bool,
}

impl Call {
    /// One that is about to be made, with these ends of the exec's streams.
    pub(super) fn begins(fds: &Fds) -> Self {
        let fds = [&fds.stdin, &fds.stdout, &fds.stderr].into_iter();
        Self {
            begun: Clocks::now(),
            pipes: fds.flatten().filter_map(pipe).collect(),
            named: None,
            unnamed: true,
        }
    }

    /// It has ended so, and left this in its pid file.
    pub(super) fn has_ended(
        &mut self,
        how: &std::result::Result<(), RuntimeError>,
        named: &Result<Named>,
    ) {
        let by = |named: &Named| self.begun.surely(named.written, Clocks::now());
        self.named = named.as_ref().ok().map(|named| (named.pid, by(named)));
        let by_itself = |why: &RuntimeError| {
            matches!(why.kind, Kind::Failed(_) | Kind::Spawn | Kind::Exhausted)
        };
        self.unnamed = named.is_err() && !how.as_ref().is_err_and(by_itself);
    }

    /// Whether the pid file means a process that was born then, if it means any of this number.
    fn can_mean(&self, born: Moment) -> bool {
        let written = |(_, by): (Pid, Moment)| (self.begun.boot..=by).contains(&born);
        self.named.is_some_and(written)
    }
}

impl Container {
    /// Kills what the failed call of `exec` has certainly made, and waits for its end.
    pub(super) async fn end_strays(&self, exec: &Process, call: Call) {
        let end = async {
            if let Some((pid, born)) = self.kill_named(exec, &call) {
                let lives = |stat: Stat| stat.born() == born && !stat.has_ended();
                while Stat::of(pid).is_some_and(lives) {
                    sleep(LOOK).await;
                }
            } else if call.unnamed || call.named.is_some() {
                self.end_unnamed(exec, &call).await;
            }
        };
        if timeout(KILL_LIMIT, end).await.is_err() {
            let (id, exec) = (&self.id, &exec.exec_id);
            log::warn!("container {id}: a process of failed exec {exec} is still there");
        }
    }

    /// Kills the process that the call's own pid file names, if that is certain; tells when it was forked.
    fn kill_named(&self, exec: &Process, call: &Call) -> Option<(Pid, Moment)> {
        let (pid, _) = call.named?;
        // From here to the kill nothing else runs on this thread, which alone reaps.
        let born = Moment::born(pid).filter(|born| call.can_mean(*born))?;
        let its = self.may_be_made(pid) && !self.named_by_others(exec).contains(&pid);
        (its && self.kill_stray(exec, pid)).then_some((pid, born))
    }

    /// Kills what holds the call's pipes, until nothing does, and tells of what it may have made besides.
    async fn end_unnamed(&self, exec: &Process, call: &Call) {
        loop {
            let (pipes, begun) = (call.pipes.clone(), call.begun.boot);
            let found = blocking("find-strays", move || Found::now(&pipes, begun)).await;
            let mut found = found.and_then(|found| found).unwrap_or_else(|e| {
                log::warn!(
                    "container {}: look for a failed exec's process: {e}",
                    self.id
                );
                Found::default()
            });
            // Its pid may be another's since it was found.
            let holds = |pid: &Pid| self.may_be_made(*pid) && holds(*pid, &call.pipes);
            found.holders.retain(holds);
            if found.holders.is_empty() {
                return self.tell_of(exec, found.others);
            }
            for pid in found.holders {
                self.kill_stray(exec, pid);
            }
            sleep(LOOK).await;
        }
    }

    /// Tells of processes that may be the failed exec's, as nobody else's.
    fn tell_of(&self, exec: &Process, mut others: Vec<Pid>) {
        let named = self.named_by_others(exec);
        others.retain(|pid| self.may_be_made(*pid) && !named.contains(pid));
        if !others.is_empty() {
            let (id, exec) = (&self.id, &exec.exec_id);
            let more = others.len().saturating_sub(NAMED);
            others.truncate(NAMED);
            let more = match more {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            log::warn!(
                "container {id}: failed exec {exec} may have left a process running, which its runtime did not name: left alone, as nothing proves whose they are: {others:?}{more}"
            );
        }
    }

    /// Whether this is a child of the shim in this container that is nobody's yet, and no child that
    /// the shim has started itself: those are in its session.
    fn may_be_made(&self, pid: Pid) -> bool {
        let its = || match self.cgroup.get()?.holds(nix::unistd::Pid::from_raw(pid)) {
            Ok(its) => Some(its),
            Err(why) => {
                let id = &self.id;
                log::warn!(
                    "container {id}: process {pid} may be a failed exec's: left alone: {why}"
                );
                None
            }
        };
        !self.shared.tracker.tracks(pid)
            && is_unreaped_child(pid)
            && getsid(Some(nix::unistd::Pid::from_raw(pid))) != getsid(None)
            && its() == Some(true)
    }

    /// The processes that the calls of other execs have named, and that are not theirs yet.
    fn named_by_others(&self, exec: &Process) -> Vec<Pid> {
        let execs = self.execs().into_iter();
        let others = execs.filter(|other| other.facts().pid == 0 && other.exec_id != exec.exec_id);
        let files = others.map(|other| files::exec_pid_file(&self.bundle, &other.exec_id));
        files.filter_map(|file| read_pid_file(&file).ok()).collect()
    }

    fn kill_stray(&self, exec: &Process, pid: Pid) -> bool {
        let (id, exec) = (&self.id, &exec.exec_id);
        log::debug!("container {id}: kill process {pid} of failed exec {exec}");
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).is_ok()
    }
}

/// Children of the shim that are no older than a call.
#[derive(Debug, Default)]
struct Found {
    /// They hold one of its pipes.
    holders: Vec<Pid>,
    others: Vec<Pid>,
}

impl Found {
    /// Looks at all children, however many they are: not on the event loop's thread.
    fn now(pipes: &[PathBuf], begun: Moment) -> Result<Self> {
        Self::among(children("self"), pipes, begun)
    }

    fn among(children: io::Result<Vec<Pid>>, pipes: &[PathBuf], begun: Moment) -> Result<Self> {
        let all = children.map_err(|why| Error::io("read the shim's children", &why))?;
        let young = |pid: &Pid| Moment::born(*pid).is_some_and(|born| born >= begun);
        let young = all.into_iter().filter(young);
        let (holders, others) = young.partition(|pid| holds(*pid, pipes));
        Ok(Self { holders, others })
    }
}

/// What the kernel calls a pipe without a name, of which nobody else has an end that was not given it.
fn pipe(fd: &OwnedFd) -> Option<PathBuf> {
    let to = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
    to.to_str()?.starts_with("pipe:[").then_some(to)
}

/// Whether a process has one of the pipes among its standard streams.
fn holds(pid: Pid, pipes: &[PathBuf]) -> bool {
    let fd = |n| fs::read_link(format!("/proc/{pid}/fd/{n}"));
    !pipes.is_empty()
        && (0..3)
            .filter_map(|n| fd(n).ok())
            .any(|to| pipes.contains(&to))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_pid_file_means_what_was_forked_within_the_call() {
        let call = |named| Call {
            begun: Clocks {
                boot: Moment(100),
                wall: SystemTime::UNIX_EPOCH,
            },
            pipes: Vec::new(),
            named,
            unnamed: false,
        };
        for (by, born, means) in [
            (112, 99, false),
            (112, 100, true),
            (112, 112, true),
            // A pid used again since.
            (112, 113, false),
            // Written before the call: not by it.
            (92, 100, false),
        ] {
            let call = call(Some((7, Moment(by))));
            assert_eq!(call.can_mean(Moment(born)), means, "{by} {born}");
        }
        assert!(!call(None).can_mean(Moment(100)));
    }

    #[test]
    fn what_may_have_been_made_without_a_name() {
        let failed = |kind| {
            Err(RuntimeError::new(
                crate::runtime::Operation::Exec,
                kind,
                String::new(),
            ))
        };
        let none = || Err(crate::error::Error::not_found("pid file"));
        let seven = || {
            Ok(Named {
                pid: 7,
                written: SystemTime::now(),
            })
        };
        for (how, pid, unnamed) in [
            (Ok(()), seven(), false),
            (Ok(()), none(), true),
            (failed(Kind::Failed(1)), none(), false),
            (failed(Kind::Spawn), none(), false),
            (failed(Kind::Exhausted), none(), false),
            (failed(Kind::Failed(1)), seven(), false),
            (failed(Kind::Killed(9)), none(), true),
            (failed(Kind::Killed(9)), seven(), false),
            (failed(Kind::Timeout), none(), true),
        ] {
            let mut call = Call::begins(&Fds::default());
            call.has_ended(&how, &pid);
            assert_eq!(call.unnamed, unnamed, "{how:?} {pid:?}");
        }
    }

    #[test]
    fn children_that_cannot_be_read_are_not_none() {
        let unread = Err(io::Error::from_raw_os_error(libc::EMFILE));
        let found = Found::among(unread, &[], Moment(0)).unwrap_err();
        let expected = "read the shim's children: too many open files";
        assert_eq!(found.message, expected);
        let own = std::process::id().cast_signed();
        let found = Found::among(Ok(vec![own]), &[], Moment(0)).unwrap();
        assert_eq!((found.holders, found.others), (vec![], vec![own]));
    }

    #[test]
    fn who_holds_a_pipe_is_found() {
        let (read, write) = std::io::pipe().unwrap();
        let (pipes, other) = (
            vec![pipe(&write.into()).unwrap()],
            std::io::pipe().unwrap().1,
        );
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .stdin(read)
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        assert!(holds(pid, &pipes) && !holds(pid, &[pipe(&other.into()).unwrap()]));
        assert!(!holds(pid, &[]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!holds(pid, &pipes));
        let file = pipe(&fs::File::open("/proc/self/stat").unwrap().into());
        assert_eq!(file, None);
    }
}
