//! The requests in flight, for the dump.
//!
//! Invariant: a request is listed from its arrival until its answer is ready and its work has ended:
//! work that goes on without its client ([`super::own`]) is listed as such.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use serde::Serialize;

use crate::dump::age_ms;
use crate::dump::recent::{Entry, Recent};
use crate::error::Result;

tokio::task_local! {
    /// The request that a handler is at.
    static CURRENT: Arc<Call>;
}

/// How much of an id is kept, in characters: one can be as long as a message.
const ID: usize = 128;

/// The requests in flight and the latest that failed; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    failed: Recent,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// In the order of their arrival.
    open: BTreeMap<u64, Arc<What>>,
}

#[derive(Debug)]
struct What {
    method: &'static str,
    container: Box<str>,
    exec: Box<str>,
    since: Instant,
    /// Its handler is gone, and only its work is left.
    abandoned: AtomicBool,
}

/// A request in flight; it leaves the list when this is dropped.
#[derive(Debug)]
pub(super) struct Call {
    calls: Calls,
    place: u64,
    what: Arc<What>,
}

/// A request, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallReport {
    /// The method.
    pub method: &'static str,
    /// Whose container.
    pub container: String,
    /// Whose exec; empty for the init.
    pub exec: String,
    /// How long ago it arrived.
    pub age_ms: u64,
    /// Nobody waits for its answer any more.
    pub client_gone: bool,
}

impl Calls {
    /// A request has arrived.
    pub(super) fn begin(&self, method: &'static str, container: &str, exec: &str) -> Call {
        let what = Arc::new(What {
            method,
            container: short(container),
            exec: short(exec),
            since: Instant::now(),
            abandoned: AtomicBool::new(false),
        });
        let mut table = self.table();
        let place = table.next;
        table.next += 1;
        table.open.insert(place, Arc::clone(&what));
        Call {
            calls: self.clone(),
            place,
            what,
        }
    }

    /// Those in flight, oldest first.
    pub fn report(&self) -> Vec<CallReport> {
        let table = self.table();
        let open = table.open.values().map(|what| CallReport {
            method: what.method,
            container: what.container.to_string(),
            exec: what.exec.to_string(),
            age_ms: age_ms(what.since),
            client_gone: what.abandoned.load(Ordering::Relaxed),
        });
        open.collect()
    }

    /// The latest that failed.
    pub fn report_failed(&self) -> Vec<Entry> {
        self.0.failed.report()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    /// Runs its handler; what the handler has done in tasks of the shim stays listed with it.
    pub(super) async fn follow<T>(self, handler: impl Future<Output = Result<T>>) -> Result<T> {
        let call = Arc::new(self);
        let _asker = Asker(Arc::clone(&call));
        let result = CURRENT.scope(Arc::clone(&call), handler).await;
        if let Err(error) = &result {
            let What {
                method,
                container,
                exec,
                ..
            } = &*call.what;
            let slash = if exec.is_empty() { "" } else { "/" };
            let text = format!("{method} {container}{slash}{exec}: {error}");
            call.calls.0.failed.note(SystemTime::now(), &text);
        }
        result
    }

    /// The one whose handler is running, for work that may outlive the handler.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.table().open.remove(&self.place);
    }
}

/// The handler's hold on its call.
struct Asker(Arc<Call>);

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.what.abandoned.store(true, Ordering::Relaxed);
    }
}

fn short(id: &str) -> Box<str> {
    id.chars().take(ID).collect()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::own;
    use super::*;
    use crate::error::Error;

    fn listed(calls: &Calls) -> Vec<(&'static str, bool)> {
        let report = calls.report();
        report.iter().map(|c| (c.method, c.client_gone)).collect()
    }

    #[tokio::test]
    async fn work_without_a_client_is_listed_until_it_ends() {
        let calls = Calls::default();
        let (go, gate) = oneshot::channel::<()>();
        let (began, begun) = oneshot::channel();
        let work = async move {
            let _ = began.send(());
            let _ = gate.await;
            Ok(())
        };
        let start = calls.begin("start", "web", "").follow(own(work));
        let client = tokio::spawn(start);
        let _wait = calls.begin("wait", "web", "x");
        begun.await.unwrap();
        assert_eq!(listed(&calls), [("start", false), ("wait", false)]);

        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
        assert_eq!(listed(&calls), [("start", true), ("wait", false)]);
        go.send(()).unwrap();
        while listed(&calls).len() > 1 {
            tokio::task::yield_now().await;
        }
        drop(_wait);
        assert_eq!(listed(&calls), []);
        assert_eq!(calls.report_failed(), []);
    }

    #[tokio::test]
    async fn a_failure_is_noted_with_its_words() {
        let calls = Calls::default();
        let id = "x".repeat(4_000_000);
        for (container, exec) in [("web", ""), ("web", "e1"), (&*id, "")] {
            let failing = async { Err::<(), _>(Error::not_found("process")) };
            let answer = calls.begin("kill", container, exec).follow(failing).await;
            answer.unwrap_err();
        }
        let texts: Vec<String> = calls.report_failed().into_iter().map(|e| e.text).collect();
        assert_eq!(texts[0], "kill web: process: not found");
        assert_eq!(texts[1], "kill web/e1: process: not found");
        assert_eq!(texts[2].len(), "kill : process: not found".len() + ID);
        assert_eq!(listed(&calls), []);
    }
}
