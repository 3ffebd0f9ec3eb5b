//! The ttrpc faces of the shim: task v3, and task v2 with the same messages.
//!
//! Invariant: a handler decodes, asks and encodes; it holds no lock and starts no work of its own.
//! ttrpc drops a handler when its client goes away or its deadline passes, so everything with side
//! effects runs in a task of the shim ([`own`]) and ends in a known state without its client.

mod convert;
mod task;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::container::Registry;
use crate::error::{Code, Error, Result};
use crate::proto;

/// The sandbox API, which this shim does not serve. Its methods are answered Unimplemented, as by the
/// Go shim; of a service that is not registered ttrpc says that the argument is invalid.
const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// Answers task requests about the containers of a registry.
pub struct TaskService {
    registry: Arc<Registry>,
    /// Set to true when a manager has asked for the shim's end.
    shutdown: watch::Sender<bool>,
}

impl TaskService {
    /// A service over `registry` that announces an accepted Shutdown on `shutdown`.
    pub fn new(registry: Arc<Registry>, shutdown: watch::Sender<bool>) -> Self {
        Self { registry, shutdown }
    }

    /// The services to register: both versions of the task API, and the sandbox API without methods.
    pub fn services(self) -> HashMap<String, ttrpc::r#async::Service> {
        let service: Arc<dyn proto::task::Task + Send + Sync> = Arc::new(self);
        let mut all = proto::task::create_task(Arc::clone(&service));
        all.extend(proto::task_v2::create_task(service));
        let none = ttrpc::r#async::Service {
            methods: HashMap::new(),
            streams: HashMap::new(),
        };
        all.insert(SANDBOX.to_owned(), none);
        all
    }
}

/// Runs work that must come to its end even if the one who asked for it goes away.
async fn own<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(
            Code::Internal,
            format!("the shim failed at this request: {e}"),
        )),
    }
}
