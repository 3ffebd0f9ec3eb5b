//! The ttrpc faces of the shim: task v3, task v2 with the same messages, and introspection.
//!
//! Invariant: a handler decodes, asks and encodes; it holds no lock and starts no work of its own.
//! ttrpc drops a handler when its client goes away or its deadline passes, so everything with side
//! effects runs in a task of the shim ([`own`]) and ends in a known state without its client.

mod calls;
mod convert;
mod introspection;
mod task;

use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::watch;

pub use calls::Calls;
pub use introspection::services as introspection;

use crate::container::Registry;
use crate::error::{Code, Error, Result};
use crate::events::Clients;
use crate::proto;

/// Answers task requests about the containers of a registry.
pub struct TaskService {
    registry: Arc<Registry>,
    calls: Calls,
    /// Told when a client has something done.
    clients: Clients,
    /// Told when a manager asks for the shim's end.
    shutdown: watch::Sender<Shutdown>,
}

/// What a manager has asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shutdown {
    /// Nothing.
    #[default]
    Never,
    /// The end, while there still were containers.
    Later,
    /// The end, and there are none, nor will there be.
    Now,
}

impl TaskService {
    /// A service over `registry` that announces each Shutdown on `shutdown`, and tells `clients` of those
    /// that have something done.
    pub fn new(
        registry: Arc<Registry>,
        clients: Clients,
        shutdown: watch::Sender<Shutdown>,
    ) -> Self {
        Self {
            registry,
            calls: Calls::default(),
            clients,
            shutdown,
        }
    }

    /// The requests in flight.
    pub fn calls(&self) -> Calls {
        self.calls.clone()
    }

    /// The services to register: both versions of the task API.
    pub fn services(self) -> HashMap<String, ttrpc::r#async::Service> {
        let service: Arc<dyn proto::task::Task + Send + Sync> = Arc::new(self);
        let mut all = proto::task::create_task(Arc::clone(&service));
        all.extend(proto::task_v2::create_task(service));
        all
    }
}

#[cfg(panic = "abort")]
compile_error!("a panic in one handler would be the end of the pod: build with panic = \"unwind\"");

/// Runs work that must come to its end even if the one who asked for it goes away.
async fn own<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let call = calls::Call::current();
    // Boxed, as it would be held twice by what follows.
    let work = Box::pin(work);
    let work = async move {
        let _listed = call;
        work.await
    };
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(
            Code::Internal,
            format!("the shim failed at this request: {e}"),
        )),
    }
}

/// A handler whose panic is an error on its call: without an answer its client would wait for ever.
async fn guarded<T>(handler: impl Future<Output = Result<T>>) -> Result<T> {
    let mut handler = pin!(handler);
    poll_fn(|cx| {
        // A handler only waits and reads; what it holds is dropped with it and seen by nobody.
        let poll = AssertUnwindSafe(|| handler.as_mut().poll(cx));
        catch_unwind(poll).unwrap_or_else(|_| {
            // What and where went to the log with the panic itself.
            let message = "the shim failed at this request; its log says where";
            Poll::Ready(Err(Error::new(Code::Internal, message)))
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(test)
    }

    #[test]
    fn a_panic_in_a_handler_or_its_work_is_an_error_on_the_call() {
        run(async {
            let handler = async {
                tokio::task::yield_now().await;
                if true {
                    panic!("a bug");
                }
                Ok(())
            };
            assert_eq!(guarded(handler).await.unwrap_err().code, Code::Internal);
            let work = async {
                if true {
                    panic!("a bug");
                }
                Ok(())
            };
            assert_eq!(own(work).await.unwrap_err().code, Code::Internal);
            assert_eq!(guarded(own(async { Ok(7) })).await, Ok(7));
        });
    }
}
