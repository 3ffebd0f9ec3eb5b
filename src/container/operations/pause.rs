//! Pause and Resume.
//!
//! Invariant: a container that is told to be paused is frozen, and one that was sent SIGKILL is
//! not left frozen: on cgroup v1 a frozen process does not die. The state changes in the step that
//! queues its event; a Pause or Resume that failed changes neither.

use crate::container::Container;
use crate::container::kills::SIGKILL;
use crate::container::state::{InitOp, State, init_allows};
use crate::error::Result;
use crate::events::Event;
use crate::proto::events::{TaskPaused, TaskResumed};
use crate::runtime::{Kind, RuntimeError};

impl Container {
    /// Freezes all processes of the container.
    ///
    /// # Errors
    /// The state's refusal, or the runtime's error; it runs on as before.
    pub async fn pause(&self) -> Result<()> {
        let _turn = self.turn("pause").await?;
        self.shared.tracker.step(|_| {
            let allowed = init_allows(self.state_of_init(), InitOp::Pause);
            if allowed.is_ok() {
                self.init.is_now(State::Pausing);
            }
            allowed
        })?;
        let called = self.runtime.pause(&self.id).await;
        let paused = self.shared.tracker.step(|queue| {
            // It may have exited meanwhile.
            let ours = self.state_of_init() == State::Pausing;
            match (&called, ours) {
                (Ok(()), true) => {
                    self.init.is_now(State::Paused);
                    queue.push(Event::Paused(TaskPaused {
                        container_id: self.id.clone(),
                        ..Default::default()
                    }));
                }
                (Err(_), true) => self.init.is_now(State::Running),
                (_, false) => {}
            }
            ours
        });
        match called {
            Ok(()) => {
                if !paused {
                    self.thaw("its init exited while it was being paused").await;
                    init_allows(State::Stopped, InitOp::Pause)?;
                }
                if self.init.facts().sigkilled {
                    self.thaw("it has been sent SIGKILL").await;
                }
                Ok(())
            }
            Err(why) => {
                // Cut off half-way: it may be frozen all the same.
                if matches!(why.kind, Kind::Timeout | Kind::Killed(_)) {
                    self.thaw("pausing it failed").await;
                }
                Err(why.into())
            }
        }
    }

    /// Lets a paused container run on.
    ///
    /// # Errors
    /// The state's refusal, or the runtime's error; it stays paused.
    pub async fn resume(&self) -> Result<()> {
        let _turn = self.turn("resume").await?;
        init_allows(self.state_of_init(), InitOp::Resume)?;
        let called = self.runtime.resume(&self.id).await;
        if let Err(why) = called
            && !self.runs_all_the_same(&why)
        {
            return Err(why.into());
        }
        self.is_resumed();
        Ok(())
    }

    /// The state as operations see it: an init that was reaped has stopped, told or not.
    pub(super) fn state_of_init(&self) -> State {
        let facts = self.init.facts();
        match facts.state {
            State::Deleted => State::Deleted,
            _ if facts.reaped => State::Stopped,
            state => state,
        }
    }

    /// A paused container was sent a signal. Some runtimes thaw it for some signals.
    pub(super) async fn signalled(&self, signal: u32) {
        if signal == SIGKILL {
            self.init.was_sigkilled();
        }
        if self.state_of_init() != State::Paused {
            return;
        }
        match self.is_frozen() {
            Some(false) if signal != SIGKILL => self.is_resumed(),
            Some(false) => {}
            Some(true) | None if signal == SIGKILL => self.thaw("it was sent SIGKILL").await,
            Some(true) | None => {}
        }
    }

    /// Has the runtime thaw it without a word to clients: it is about to end, or never was paused.
    pub(super) async fn thaw(&self, because: &str) {
        if self.is_frozen() == Some(false) {
            return;
        }
        if let Err(e) = self.runtime.resume(&self.id).await {
            log::warn!("container {}: thaw it, since {because}: {e}", self.id);
        }
    }

    /// Something thawed what clients know to be paused. If it cannot be frozen again they are told
    /// that it runs.
    pub(super) async fn freeze_again(&self) {
        if self.init.facts().sigkilled {
            return;
        }
        match self.runtime.pause(&self.id).await {
            Ok(()) if self.init.facts().sigkilled => self.thaw("it has been sent SIGKILL").await,
            Ok(()) => {}
            Err(e) => {
                log::warn!("container {}: it was paused and runs: {e}", self.id);
                self.is_resumed();
            }
        }
    }

    /// It runs: somebody else resumed it, or a call that was cut off had done its work.
    fn runs_all_the_same(&self, why: &RuntimeError) -> bool {
        let runs = self.is_frozen() == Some(false);
        if runs {
            log::info!("container {}: is not frozen any more: {why}", self.id);
        }
        runs
    }

    pub(super) fn is_frozen(&self) -> Option<bool> {
        self.cgroup.get()?.is_frozen()
    }

    fn is_resumed(&self) {
        self.shared.tracker.step(|queue| {
            // It may have exited meanwhile; after its exit there is no more to tell.
            if self.state_of_init() == State::Paused {
                self.init.is_now(State::Running);
                queue.push(Event::Resumed(TaskResumed {
                    container_id: self.id.clone(),
                    ..Default::default()
                }));
            }
        });
    }
}
