//! Kill, and the kill of what a dead init leaves behind.
//!
//! Invariant: a signal goes to a process that has not been reaped, never to a recycled pid; a kill
//! never waits for another operation on the container; Delete waits for all kills. None needs a thread or a
//! process of its own: where the runtime cannot be started for want of one, the signal is sent all the same
//! (`tests/faults/threads.rs`).

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Container;
use super::image::Image;
use super::process::Process;
use super::state::{ExecOp, InitOp, State, exec_allows, init_allows};
use crate::awaited::Awaited;
use crate::errno::Words;
use crate::error::{Error, Result};
use crate::monitor::Pid;
use crate::pidfd;
use crate::runtime::Kind;

pub(super) const SIGKILL: u32 = 9;

/// Since its start, or its last change, a container is left to the runtime's kill for so long.
const YOUNG: Duration = Duration::from_secs(1);

/// How long the processes of a container may take to be listed, once of two times.
const LIST_LIMIT: Duration = Duration::from_secs(2);

impl Container {
    /// Sends a signal to the init or an exec; with `all`, to every process of the container.
    ///
    /// # Errors
    /// `NotFound` when it has ended, `FailedPrecondition` when an exec was not started, or why the
    /// signal could not be sent.
    pub async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let process = self.process(exec_id)?;
        let sent = if process.is_init() {
            self.kill_init(&process, signal, all).await
        } else {
            self.kill_exec(&process, signal)
        };
        self.look_at_pids();
        sent
    }

    async fn kill_init(&self, init: &Process, signal: u32, all: bool) -> Result<()> {
        let facts = init.facts();
        init_allows(facts.state, InitOp::Kill)?;
        if facts.reaped && !all {
            return Err(Error::not_found("process already finished"));
        }
        if !all && self.kill_by_pid(init, signal) {
            self.signalled(signal).await;
            return Ok(());
        }
        // The process may be gone, and a client that saw it go may delete, before the runtime returns.
        let _answer_before_delete = self.kills.begin();
        match self.runtime.kill(&self.id, signal, all).await {
            Ok(()) => {}
            Err(why)
                if why.kind == Kind::Exhausted && self.kill_directly(init, signal, all).await =>
            {
                let id = &self.id;
                log::warn!("container {id}: signal {signal} is sent without the runtime: {why}");
            }
            Err(why) => return Err(why.into()),
        }
        self.signalled(signal).await;
        Ok(())
    }

    /// Sends a signal to the init, or to all processes, in place of a runtime that cannot be started; whether
    /// that has an effect.
    async fn kill_directly(&self, init: &Process, signal: u32, all: bool) -> bool {
        let Ok(number) = i32::try_from(signal) else {
            return false;
        };
        // The process of another runtime may be a virtual machine; but for SIGKILL it means that too.
        if !(self.runtime.kills_by_pid() || signal == SIGKILL) {
            return false;
        }
        // A frozen process takes no signal on cgroup v1.
        if self.is_frozen() == Some(true) {
            return false;
        }
        let sent = self
            .shared
            .tracker
            .with_live_pid(init, |pid| send(pid, number).is_ok());
        (all && self.kill_members(signal).await) || sent == Some(true)
    }

    /// Sends a signal to all that is in the container's cgroup, as far as that can be read; whether there was
    /// anybody.
    async fn kill_members(&self, signal: u32) -> bool {
        let signal = i32::try_from(signal)
            .ok()
            .and_then(|n| Signal::try_from(n).ok());
        let (Some(cgroup), Some(signal)) = (self.cgroup.get(), signal) else {
            return false;
        };
        let list = async || {
            let failed = |why: &Error| {
                log::warn!("container {}: send signal {signal} to all: {why}", self.id);
            };
            match cgroup.listed(LIST_LIMIT).await {
                Ok(listed) => {
                    let _ = listed.whole.inspect_err(failed);
                    listed.pids
                }
                Err(why) => {
                    failed(&why);
                    Vec::new()
                }
            }
        };
        let open =
            |pid: nix::unistd::Pid| Some((pid, pidfd::open(pid.as_raw().cast_unsigned()).ok()?));
        let held: Vec<_> = list().await.into_iter().filter_map(open).collect();
        // Who was opened is a member only if the pid still is one's.
        let now: BTreeSet<_> = list().await.into_iter().collect();
        let members = held.iter().filter(|(pid, _)| now.contains(pid));
        let sent = members.filter(|(_, process)| pidfd::signal(process, signal).is_ok());
        sent.count() > 0
    }

    /// Sends a signal to the init without the runtime, where that would do no more: it runs its program,
    /// and its end is the end of its pid namespace. False when the runtime is to be asked, for that or
    /// for its words on what is wrong.
    fn kill_by_pid(&self, init: &Process, signal: u32) -> bool {
        let Ok(number) = i32::try_from(signal) else {
            return false;
        };
        if self.kill_all_on_exit || !self.runtime.kills_by_pid() {
            return false;
        }
        // SIGKILL meets whatever it is that runs.
        if signal != SIGKILL && !self.has_settled(init) {
            return false;
        }
        // On cgroup v1 a frozen process does not die, and a runtime thaws what somebody else froze.
        if signal == SIGKILL && self.is_frozen() != Some(false) {
            return false;
        }
        let sent = self.shared.tracker.with_live_pid(init, |pid| {
            // A pause begins under the same lock.
            init.facts().state == State::Running && send(pid, number).is_ok()
        });
        sent == Some(true)
    }

    /// Whether it is sure that a signal meets what the container is for. When a runtime's start returns its
    /// init may still be the runtime's, which takes a SIGTERM for its own; and a program needs a moment
    /// to say which signals it wants, which clients that stop what they have just started leave to the
    /// slowness of the runtime.
    fn has_settled(&self, init: &Process) -> bool {
        let facts = init.facts();
        let image = || Image::of(facts.pid);
        let before = self.unstarted.get().map(|(before, _)| before);
        facts.since.elapsed() >= YOUNG
            && before.is_some_and(|before| image().is_some_and(|now| now != *before))
    }

    fn kill_exec(&self, exec: &Process, signal: u32) -> Result<()> {
        exec_allows(exec.facts().state, ExecOp::Kill)?;
        let Ok(number) = i32::try_from(signal) else {
            return Err(Error::unknown(format!(
                "exec kill error: signal {signal} is out of range"
            )));
        };
        let sent = self
            .shared
            .tracker
            .with_live_pid(exec, |pid| send(pid, number));
        match sent {
            None => Err(Error::not_found("process already finished")),
            Some(Ok(())) => Ok(()),
            Some(Err(e)) if e.raw_os_error() == Some(libc::ESRCH) => {
                Err(Error::not_found("process already finished"))
            }
            Some(Err(e)) => Err(Error::unknown(format!(
                "exec kill error: signal {signal}: {e}",
                e = e.words()
            ))),
        }
    }

    /// Init has been reaped: where the kernel does not end the container's other processes, the
    /// runtime is told to. Runs beside everything else; only Delete waits for it.
    pub(super) fn init_was_reaped(self: &Arc<Self>) {
        if !self.kill_all_on_exit {
            return;
        }
        let under_way = self.kills.begin();
        let (runtime, id, me) = (self.runtime.clone(), self.id.clone(), Arc::downgrade(self));
        self.spawn(async move {
            let _under_way = under_way;
            if let Err(e) = runtime.kill(&id, SIGKILL, true).await {
                let me = me.upgrade().filter(|_| e.kind == Kind::Exhausted);
                if let Some(me) = me {
                    me.kill_members(SIGKILL).await;
                }
                log::debug!("container {id}: kill what init left behind: {e}");
            }
        });
    }
}

/// How many kills by the runtime are under way.
#[derive(Debug, Default)]
pub(super) struct Kills(Arc<Awaited<usize>>);

/// One of them, until it is dropped.
struct Kill(Arc<Awaited<usize>>);

impl Kills {
    fn begin(&self) -> Kill {
        self.0.change(|n| {
            *n += 1;
            true
        });
        Kill(Arc::clone(&self.0))
    }

    /// Waits until there is none. containerd closes its connection at the answer to Delete: a Kill
    /// that has none by then fails, and with it the stop of a whole pod (contract 10.4).
    pub(super) async fn over(&self) {
        self.0.wait_for(|n| n == 0).await;
    }
}

impl Drop for Kill {
    fn drop(&mut self) {
        self.0.change(|n| {
            *n -= 1;
            true
        });
    }
}

/// kill(2) with a plain number: real-time signals have no name in nix's enum.
fn send(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes two numbers and touches no memory of ours.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
