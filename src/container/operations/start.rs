//! Start: run the program of a created init or of a registered exec.
//!
//! Invariant: a start that was announced gets exactly one exit, after it; a start that failed gets
//! neither, leaves nothing running and can be tried again.
//!
//! A runtime may fail when the program of an init runs already (it was killed, or hung behind its
//! work). That start counts as done, with a line in the log: a program that runs is what the client
//! wants, and to end it, or to have it started once more, would do harm that nobody asked for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::RwLockReadGuard;
use tokio::time::{Instant, sleep, timeout};

use super::stray::Call;
use super::streams::{self, Opening};
use crate::container::image::Image;
use crate::container::state::{ExecOp, InitOp, exec_allows, init_allows};
use crate::container::{Container, Process, files};
use crate::errno::Words;
use crate::error::{Error, Result};
use crate::lifecycle::{Refusal, StartId};
use crate::monitor::Pid;
use crate::runtime::{ExecOptions, Fds, Kind, Named, RuntimeError, read_named};
use crate::sensing::pids::refusal::Before;
use crate::spec;
use crate::stdio::Io;

/// How long an init that its runtime has let go may take to run its program.
const LET_GO: Duration = Duration::from_secs(5);
/// The same where nobody knows whether it has been let go.
const CUT_OFF: Duration = Duration::from_millis(200);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(5);

impl Container {
    /// Starts the init (empty id) or an exec, and answers its pid.
    ///
    /// # Errors
    /// The state's refusal, or the runtime's error.
    pub async fn start(self: &Arc<Self>, exec_id: &str) -> Result<Pid> {
        let process = self.process(exec_id)?;
        if process.is_init() {
            let _turn = self.turn("start").await?;
            return self.start_init(&process).await;
        }
        exec_allows(process.facts().state, ExecOp::Start)?;
        // Before the turn: a Delete of the exec need not wait for a checkpoint.
        let _joining = self.joining().await?;
        let limit = self.shared.limits.turn;
        let _turn = process.turn.take("start", exec_id, limit).await?;
        self.start_exec(&process).await
    }

    /// Until processes may join the container: not while it is being checkpointed.
    async fn joining(&self) -> Result<RwLockReadGuard<'_, ()>> {
        let limit = self.shared.limits.turn;
        let joining = timeout(limit, self.joining.read()).await;
        joining.map_err(|_| {
            let whom = format!("an exec in {}", self.id);
            self.init.turn.busy("start", &whom, limit)
        })
    }

    async fn start_init(self: &Arc<Self>, init: &Arc<Process>) -> Result<Pid> {
        let facts = init.facts();
        init_allows(facts.state, InitOp::Start)?;
        let tracker = &self.shared.tracker;
        let start = tracker
            .begin_start(self.key)
            .map_err(|refusal| match refusal {
                Refusal::InitExited => Error::unknown("cannot start a stopped process"),
                Refusal::Busy => Error::unknown("cannot start a running process"),
                Refusal::Gone | Refusal::Stranger => {
                    Error::unknown("cannot start a deleted process")
                }
            })?;
        let _ending = tracker.ending(start);
        if let Some(restore) = &self.restore {
            return self.restore_init(init, restore, start).await;
        }
        let refused = Before::call(self.cgroup.get());
        let called = self.runtime.start(&self.id).await;
        self.sensed().look_at_pids();
        if let Err(why) = called {
            if !self.has_started(facts.pid, &why).await {
                return Err(refused.explain(why.into()));
            }
            let id = &self.id;
            log::warn!("container {id}: its program runs, so it counts as started: {why}");
        }
        tracker.announce_start(start);
        Ok(facts.pid)
    }

    /// Whether a start that failed had done its work: its init runs another program than the
    /// runtime's. Asked of the kernel, since the runtime has just failed.
    async fn has_started(&self, init: Pid, why: &RuntimeError) -> bool {
        let Some((before, gated)) = self.unstarted.get() else {
            return false;
        };
        let let_go = *gated && !self.runtime.is_gated(&self.id);
        let patience = match why.kind {
            _ if let_go => LET_GO,
            // Cut off, it may have done so just now.
            Kind::Timeout | Kind::Killed(_) => CUT_OFF,
            _ => Duration::ZERO,
        };
        let begun = Instant::now();
        loop {
            // Unreaped, the number is its own.
            match Image::of(init).filter(|_| !self.init.facts().reaped) {
                None => return false,
                Some(now) if now != *before => return true,
                Some(_) if begun.elapsed() >= patience => return false,
                Some(_) => sleep(LOOK).await,
            }
        }
    }

    async fn start_exec(&self, exec: &Arc<Process>) -> Result<Pid> {
        exec_allows(exec.facts().state, ExecOp::Start)?;
        let tracker = &self.shared.tracker;
        let start = tracker
            .begin_exec(self.key)
            .map_err(|refusal| match refusal {
                Refusal::InitExited | Refusal::Busy => Error::failed_precondition(format!(
                    "container {} init process is not running",
                    self.id
                )),
                Refusal::Gone | Refusal::Stranger => Error::not_found("container not created"),
            })
            // It can't run any more, and clients wait before they start (contract 10.7).
            .inspect_err(|_| exec.never_ran())?;
        let _ending = tracker.ending(start);
        exec.starting();
        let refused = Before::call(self.cgroup.get());
        let mut call = None;
        let started = self
            .run_exec(exec, start, &mut call)
            .await
            .and_then(|named| {
                let announced = self.shared.announce(start, named, exec, None);
                announced.map(|()| named.pid).map_err(no_pid)
            });
        self.sensed().look_at_pids();
        match started {
            Ok(pid) => {
                // It came up after the kill of all that init left behind: that kill missed it.
                if self.kill_all_on_exit && tracker.init_reaped(self.key) {
                    tracker.with_live_pid(exec, kill_late);
                }
                Ok(pid)
            }
            Err(error) => {
                if let Some(call) = call {
                    self.end_strays(exec, call).await;
                }
                exec.close_io();
                exec.never_ran();
                Err(refused.explain(error))
            }
        }
    }

    /// The runtime's part of an exec: streams, call, pid. What is known of the call goes to `call`,
    /// once there is one.
    async fn run_exec(
        &self,
        exec: &Process,
        start: StartId,
        call: &mut Option<Call>,
    ) -> Result<Named> {
        let opening = Opening {
            id: &exec.exec_id,
            stdio: &exec.stdio,
            owner: self.io_owner,
            buffering: self.buffering,
            logger_allow: self.logger_allow.as_deref(),
            memory: self.record.memory(),
        };
        let (io, fds) = streams::open(&self.shared, &opening, "exec").await?;
        let ran = self.run_exec_with(exec, start, (&io, fds), call).await;
        match &ran {
            Ok(_) => exec.set_io(io),
            Err(_) => streams::close(&io).await,
        }
        ran
    }

    async fn run_exec_with(
        &self,
        exec: &Process,
        start: StartId,
        (io, fds): (&Io, Fds),
        call: &mut Option<Call>,
    ) -> Result<Named> {
        let options = ExecOptions {
            pid_file: files::exec_pid_file(&self.bundle, &exec.exec_id),
            console_socket: io.console_socket(),
        };
        let sized = exec
            .size()
            .filter(|_| exec.stdio.terminal)
            .map(|size| spec::with_console_size(&exec.spec, size.width, size.height));
        let spec = sized.as_ref().unwrap_or(&exec.spec);
        if let Some(named) = self.exec_directly(exec, spec, &fds).await {
            io.start();
            return Ok(named);
        }
        let call = call.insert(Call::begins(&fds));
        let called = io.during(self.runtime.exec(&self.id, spec, &options, fds));
        let called = self
            .shared
            .named_meanwhile(start, &options.pid_file, called)
            .await;
        let named = read_named(&options.pid_file);
        call.has_ended(&called, &named);
        files::remove(&options.pid_file);
        called?;
        let named = named.map_err(no_pid)?;
        io.connect_terminal(self.shared.limits.console).await?;
        io.start();
        Ok(named)
    }
}

fn no_pid(error: Error) -> Error {
    error.context("failed to retrieve OCI runtime exec pid")
}

fn kill_late(pid: Pid) {
    use nix::sys::signal::{Signal, kill};
    if let Err(e) = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL) {
        log::debug!(
            "kill process {pid}, which came up after its init's end: {e}",
            e = e.words()
        );
    }
}
