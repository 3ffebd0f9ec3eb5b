//! What a client asked its shim for, and what it was answered: the facts by which the stream of
//! events is judged.

use std::cell::{Ref, RefCell};
use std::time::{Instant, SystemTime};

use cotter::error::{Code, Error, Result};
use cotter::manager::events::Told;
use cotter::proto::task::{CreateTaskRequest, DeleteResponse, ExecProcessRequest, WaitResponse};

use crate::common::shim::Shim;
use crate::stream::{End, Fact, Facts, Key, Seen, time};

/// The facts about one shim.
#[derive(Default)]
pub struct Ledger(RefCell<Facts>);

/// Whether a call ended without the shim's answer.
pub fn unanswered(error: &Error) -> bool {
    matches!(error.code, Code::Unavailable | Code::DeadlineExceeded)
        && error.message.contains("call the shim: ")
}

impl Ledger {
    /// The facts so far.
    pub fn facts(&self) -> Ref<'_, Facts> {
        self.0.borrow()
    }

    /// The facts.
    pub fn into_facts(self) -> Facts {
        self.0.into_inner()
    }

    /// Notes something about a process.
    pub fn note(&self, id: &str, exec: &str, note: impl FnOnce(&mut Fact)) {
        let mut facts = self.0.borrow_mut();
        note(facts.processes.entry(key(id, exec)).or_default());
    }

    /// Notes that a container may run out of memory.
    #[allow(dead_code, reason = "only chaos/ starves any")]
    pub fn starves(&self, id: &str) {
        self.0.borrow_mut().starving.insert(id.to_owned());
    }

    /// Create; the pid.
    pub async fn create(&self, shim: &Shim, request: &CreateTaskRequest) -> Result<u32> {
        let after = self.facts().answered.len();
        let asked = Some(SystemTime::now());
        let answer = shim.tasks.create(request).await.map(|answer| answer.pid);
        let unsure = answer.as_ref().is_err_and(unanswered);
        if answer.is_ok() || unsure {
            let fact = Fact {
                asked,
                after,
                pid: answer.as_ref().ok().copied(),
                unsure,
                ..Fact::default()
            };
            self.note(&request.id, "", |f| *f = fact);
        }
        answer
    }

    /// Registers an exec.
    pub async fn add(&self, shim: &Shim, id: &str, exec: &str, args: &[&str]) -> Result<()> {
        self.add_as(shim, &shim.exec_request(id, exec, args)).await
    }

    /// Registers an exec with streams of its own.
    pub async fn add_as(&self, shim: &Shim, request: &ExecProcessRequest) -> Result<()> {
        let after = self.facts().answered.len();
        let answer = shim.tasks.exec(request).await;
        let unsure = answer.as_ref().is_err_and(unanswered);
        if answer.is_ok() || unsure {
            let fact = Fact {
                after,
                unsure,
                ..Fact::default()
            };
            self.note(&request.id, &request.exec_id, |f| *f = fact);
        }
        answer.map(drop)
    }

    /// Start of an init or an exec; the pid.
    pub async fn start(&self, shim: &Shim, id: &str, exec: &str) -> Result<u32> {
        let asked = SystemTime::now();
        let answer = shim.start_process(id, exec).await;
        self.note(id, exec, |f| match &answer {
            Ok(pid) => {
                f.started = Some(true);
                f.pid = Some(*pid);
                f.asked.get_or_insert(asked);
            }
            Err(error) => {
                f.started = Some(false);
                f.unsure |= unanswered(error);
            }
        });
        answer
    }

    /// Wait.
    pub async fn wait(&self, shim: &Shim, id: &str, exec: &str) -> Result<WaitResponse> {
        let answer = shim.wait(id, exec).await?;
        let at = answer.exited_at.clone().unwrap_or_default();
        // A failed start is answered with Go's zero time: that is no exit.
        if at.seconds > 0 {
            let status = answer.exit_status;
            self.note(id, exec, |f| f.waited = Some(End { status, at }));
            self.0.borrow_mut().answered.push(key(id, exec));
        }
        Ok(answer)
    }

    /// Delete.
    pub async fn delete(&self, shim: &Shim, id: &str, exec: &str) -> Result<DeleteResponse> {
        let answer = shim.delete(id, exec).await;
        if answer.as_ref().is_err_and(unanswered) {
            self.note(id, exec, |f| f.unsure = true);
        }
        let answer = answer?;
        let at = answer.exited_at.clone().unwrap_or_default();
        let status = answer.exit_status;
        if at.seconds > 0 {
            self.note(id, exec, |f| f.deleted = Some(End { status, at }));
        }
        Ok(answer)
    }
}

/// By container and exec.
pub fn key(id: &str, exec: &str) -> Key {
    (id.to_owned(), exec.to_owned())
}

/// A stream as the checker takes it.
pub fn seen(told: &[Told]) -> Vec<Seen> {
    let (wall, instant) = (SystemTime::now(), Instant::now());
    let one = |told: &Told| Seen {
        event: told.event.clone(),
        topic: told.topic.clone(),
        stamp: time(&told.timestamp),
        received: wall - instant.saturating_duration_since(told.received),
    };
    told.iter().map(one).collect()
}
