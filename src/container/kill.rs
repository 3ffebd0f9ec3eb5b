//! Kill, and the kill of what a dead init leaves behind.
//!
//! Invariant: a signal goes to a process that has not been reaped, never to a recycled pid; a kill
//! never waits for another operation on the container; Delete waits for all kills.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use super::Container;
use super::process::Process;
use super::state::{ExecOp, InitOp, exec_allows, init_allows};
use crate::error::{Error, Result};
use crate::monitor::Pid;

pub(super) const SIGKILL: u32 = 9;

impl Container {
    /// Sends a signal to the init or an exec; with `all`, to every process of the container.
    ///
    /// # Errors
    /// `NotFound` when it has ended, `FailedPrecondition` when an exec was not started, or why the
    /// signal could not be sent.
    pub async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let process = self.process(exec_id)?;
        if process.is_init() {
            self.kill_init(&process, signal, all).await
        } else {
            self.kill_exec(&process, signal)
        }
    }

    async fn kill_init(&self, init: &Process, signal: u32, all: bool) -> Result<()> {
        let facts = init.facts();
        init_allows(facts.state, InitOp::Kill)?;
        if facts.reaped && !all {
            return Err(Error::not_found("process already finished"));
        }
        // The process may be gone, and a client that saw it go may delete, before the runtime returns.
        let _answer_before_delete = self.kills.begin();
        self.runtime.kill(&self.id, signal, all).await?;
        self.signalled(signal).await;
        Ok(())
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
                "exec kill error: signal {signal}: {e}"
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
        let (runtime, id) = (self.runtime.clone(), self.id.clone());
        self.spawn(async move {
            let _under_way = under_way;
            if let Err(e) = runtime.kill(&id, SIGKILL, true).await {
                log::debug!("container {id}: kill what init left behind: {e}");
            }
        });
    }
}

/// How many kills by the runtime are under way.
#[derive(Debug, Default)]
pub(super) struct Kills(Arc<watch::Sender<usize>>);

/// One of them, until it is dropped.
struct Kill(Arc<watch::Sender<usize>>);

impl Kills {
    fn begin(&self) -> Kill {
        self.0.send_modify(|n| *n += 1);
        Kill(Arc::clone(&self.0))
    }

    /// Waits until there is none. containerd closes its connection at the answer to Delete: a Kill
    /// that has none by then fails, and with it the stop of a whole pod (contract 10.4).
    pub(super) async fn over(&self) {
        // The sender lives in `self`.
        let _ = self.0.subscribe().wait_for(|n| *n == 0).await;
    }
}

impl Drop for Kill {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
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
