//! Kill, and the kill of what a dead init leaves behind.
//!
//! Invariant: a signal goes to a process that has not been reaped, never to a recycled pid; a kill
//! never waits for another operation on the container; Delete waits for all kills. None needs a thread or a
//! process of its own: where the runtime cannot be started for want of one, the signal is sent all the same
//! (`tests/faults/threads.rs`). A SIGKILL needs no runtime at all: where it cannot be started, hangs or is killed
//! itself, the shim sends it (`tests/faults/killing.rs`). Another signal may have been sent already then, and is
//! not sent twice.

use std::io;
use std::time::Duration;

use crate::container::image::Image;
use crate::container::kills::SIGKILL;
use crate::container::state::{ExecOp, InitOp, State, exec_allows, init_allows};
use crate::container::{Container, Process};
use crate::errno::Words;
use crate::error::{Error, Result};
use crate::monitor::Pid;
use crate::runtime::Kind;

/// Since its start, or its last change, a container is left to the runtime's kill for so long.
const YOUNG: Duration = Duration::from_secs(1);

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
        self.sensed().look_at_pids();
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
                if (why.kind == Kind::Exhausted || signal == SIGKILL && why.is_cut_off())
                    && self.kill_directly(init, signal, all).await =>
            {
                let id = &self.id;
                log::warn!("container {id}: signal {signal} is sent without the runtime: {why}");
            }
            Err(why) => return Err(why.into()),
        }
        self.signalled(signal).await;
        Ok(())
    }

    /// Sends a signal to the init, or to all processes, in place of a runtime that did not; whether that has an
    /// effect. A SIGKILL of an init that has ended meanwhile has had it.
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
        let was_killed = signal == SIGKILL && !all && sent.is_none();
        (all && self.kill_members(signal).await) || sent == Some(true) || was_killed
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
}

/// kill(2) with a plain number: real-time signals have no name in nix's enum.
fn send(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes two numbers and touches no memory of ours.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
