//! What a server is made of: the one place where the shim's parts are put together.
//!
//! ```text
//! TaskService ─▶ Registry ─▶ Runtime ─▶ Monitor::spawn
//!                   │                        │ every other exit
//!                   ▼                        ▼
//!                Tracker ◀───────────────────┘
//!                   │ in the same step
//!                   ▼
//!                 Queue ─▶ Publisher
//!                   └────▶ Keeper, while no manager answers
//! ```

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use super::config::Config;
use super::inspect;
use crate::container::exec_by::ExecBy;
use crate::container::pids_limit::Asked;
use crate::container::tracker::Tracker;
use crate::container::{Reaped, Registry, Shared};
use crate::dump::Reporter;
use crate::error::{Error, Result};
use crate::events::{self, Keeper, Publisher, Queue};
use crate::limits::Limits;
use crate::monitor::Monitor;
use crate::sensing::Sensors;
use crate::service::{Shutdown, TaskService};

/// The parts of a server that it does not know itself.
pub struct Parts {
    /// The ttrpc services, by their full names.
    pub services: HashMap<String, ttrpc::r#async::Service>,
    /// Tells all that they know, for a dump.
    pub reporter: Reporter,
    /// The containers.
    pub registry: Arc<Registry>,
    /// What a manager has asked for.
    pub shutdown: watch::Receiver<Shutdown>,
    /// Ends when the last event is with the manager, or after a limit. Polled once no request can
    /// come any more.
    pub drain: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Puts a server together. Runs in the server's runtime.
///
/// # Errors
/// When a part cannot be made.
pub fn assemble(config: &Config) -> Result<Parts> {
    let queue = Queue::new();
    let limits = Limits::from_env();
    let publisher = Arc::new(Publisher::with_limits(
        queue.clone(),
        config.ttrpc_address.clone(),
        config.namespace.clone(),
        events::Limits {
            settling: limits.manager_settling,
            ..events::Limits::default()
        },
    ));
    let keeper = Keeper::start(queue.clone(), config.namespace.clone(), limits.record);
    let tracker = Arc::new(Tracker::new(queue));
    let monitor = Monitor::start(Reaped(Arc::clone(&tracker)))
        .map_err(|e| Error::io("set up the process monitor", &e))?;
    let registry = Arc::new(Registry::new(Arc::new(Shared {
        namespace: config.namespace.clone(),
        tracker,
        keeper,
        monitor,
        sensors: Sensors::default(),
        limits,
        pids_limit: Asked::from_env(),
        exec_by: ExecBy::from_env(),
    })));
    let (ask, shutdown) = watch::channel(Shutdown::default());
    let at_end = Arc::clone(&registry);
    let tasks = TaskService::new(Arc::clone(&registry), publisher.clients(), ask);
    Ok(Parts {
        reporter: inspect::sections(&registry, &publisher, &tasks.calls()),
        services: tasks.services(),
        registry,
        shutdown,
        drain: Box::pin(async move {
            let left = publisher.drain(limits.last_events).await;
            if left > 0 {
                log::error!("ending with {left} events that no manager took");
            }
            at_end.shared.keeper.finish(limits.bundle).await;
        }),
    })
}
