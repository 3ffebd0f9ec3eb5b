//! What a server is made of: the one place where the shim's parts are put together.

use std::collections::HashMap;
use std::pin::Pin;

use tokio::sync::watch;

use super::serve::Config;
use crate::error::Result;

/// The parts of a server that it does not know itself.
pub struct Parts {
    /// The ttrpc services, by their full names.
    pub services: HashMap<String, ttrpc::r#async::Service>,
    /// True when a manager has asked for the shim's end.
    pub shutdown: watch::Receiver<bool>,
    /// Ends when the last event is with the manager. Polled once no request can come any more.
    pub drain: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Puts a server together. Runs in the server's runtime.
///
/// # Errors
/// When a part cannot be made.
pub fn assemble(_config: &Config) -> Result<Parts> {
    let (ask, shutdown) = watch::channel(false);
    Ok(Parts {
        services: HashMap::new(),
        shutdown,
        drain: Box::pin(async move { drop(ask) }),
    })
}
