//! What a server is told at its start.
//!
//! Invariant: it is read once, before anything else runs, and does not change.

use super::bootstrap::Environment;
use super::flags::Flags;

/// What a server is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// containerd's namespace.
    pub namespace: String,
    /// The id of the container or sandbox it was started for.
    pub id: String,
    /// Where events go; empty if nobody said.
    pub ttrpc_address: String,
    /// Path to serve on; empty for the inherited socket.
    pub socket: String,
    /// Log at debug level.
    pub debug: bool,
}

impl Config {
    /// From the command line and the environment.
    pub fn new(flags: &Flags, env: Environment) -> Self {
        Self {
            namespace: flags.namespace.clone(),
            id: flags.id.clone(),
            ttrpc_address: env.ttrpc_address,
            socket: flags.socket.clone(),
            debug: flags.debug,
        }
    }
}
