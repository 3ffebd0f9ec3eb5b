//! What a manager asks `start` for, and the answer in its own dialect (contract 1.4, 1.5, 11).
//!
//! Invariant: a pure function of standard input, flags and environment; a request is answered in the
//! dialect it was made in, and never taken for one of another dialect. The tests hold the tricky
//! case: an options `Any` of an old manager is, byte for byte, also a valid `BootstrapParams`.

use std::path::PathBuf;

use protobuf::Message;

use super::flags::Flags;
use crate::error::{Error, Result};
use crate::options::Given;
use crate::proto::bootstrap::{BootstrapParams, BootstrapResult};
use crate::proto::{self, Any};

/// Most bytes of standard input that are read.
pub const MAX_INPUT: u64 = 10 << 20;

/// containerd's DEBUG (contract 1.4); lower is more.
const DEBUG: i32 = -4;

/// How a manager asks and wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// containerd 1.6: the bare address.
    Plain,
    /// containerd 1.7 to 2.2: JSON. Version 2 is the highest that 1.7 accepts, and the two cannot be
    /// told apart; both task services are served.
    Json,
    /// containerd 2.3 and newer: protobuf both ways.
    Proto,
}

/// The environment variables that matter to a start; empty when unset.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `GRPC_ADDRESS`, which containerd sets since 1.7.
    pub grpc_address: String,
    /// `TTRPC_ADDRESS`, where events go.
    pub ttrpc_address: String,
    /// `SCHED_CORE`: anything asks for a core scheduling domain.
    pub sched_core: String,
}

impl Environment {
    /// Reads the process's own.
    pub fn read() -> Self {
        let var = |name| std::env::var(name).unwrap_or_default();
        Self {
            grpc_address: var("GRPC_ADDRESS"),
            ttrpc_address: var("TTRPC_ADDRESS"),
            sched_core: var("SCHED_CORE"),
        }
    }
}

/// A start, as asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// How to answer.
    pub dialect: Dialect,
    /// The container's or sandbox's id.
    pub id: String,
    /// containerd's namespace.
    pub namespace: String,
    /// containerd's gRPC socket, as it goes into the name of the shim's socket.
    pub grpc_address: String,
    /// Where events go; empty if nobody said.
    pub ttrpc_address: String,
    /// Log at debug level.
    pub debug: bool,
    /// Directory for the shim's socket, absolute; none for the default.
    pub socket_dir: Option<PathBuf>,
    /// The runtime's options, if there are any that this shim knows.
    pub options: Option<Given>,
}

/// Reads a request.
///
/// # Errors
/// `InvalidArgument` when standard input is neither empty nor a message of any dialect, when the
/// options in it are malformed, or when the socket directory is relative.
pub fn decide(stdin: &[u8], flags: &Flags, env: &Environment) -> Result<Request> {
    flags.check()?;
    match params(stdin, flags) {
        Some(params) => modern(params, flags, env),
        None => legacy(stdin, flags, env),
    }
}

/// The answer to a request.
///
/// # Errors
/// When the address cannot be encoded.
pub fn encode(dialect: Dialect, address: &str) -> Result<Vec<u8>> {
    let failed = |why: String| Error::unknown(format!("encode the address {address}: {why}"));
    match dialect {
        Dialect::Plain => Ok(address.as_bytes().to_vec()),
        Dialect::Json => {
            let answer =
                serde_json::json!({ "version": 2, "address": address, "protocol": "ttrpc" });
            serde_json::to_vec(&answer).map_err(|e| failed(e.to_string()))
        }
        Dialect::Proto => {
            let answer = BootstrapResult {
                version: 3,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..BootstrapResult::default()
            };
            answer.write_to_bytes().map_err(|e| failed(e.to_string()))
        }
    }
}

/// Standard input as a request of 2.3. An `Any` passes as one too, with its type URL in the place of
/// the id, so the id and the namespace must be those of the command line.
fn params(stdin: &[u8], flags: &Flags) -> Option<BootstrapParams> {
    proto::parse(stdin)
        .ok()
        .filter(|p: &BootstrapParams| p.instance_id == flags.id && p.namespace == flags.namespace)
}

fn modern(params: BootstrapParams, flags: &Flags, env: &Environment) -> Result<Request> {
    let mut options = None;
    for extension in &params.extensions {
        if let Some(found) = Given::known(&extension.value)? {
            options = Some(found);
        }
    }
    let socket_dir = params.socket_dir.filter(|dir| !dir.is_empty());
    let socket_dir = socket_dir.map(PathBuf::from);
    if let Some(dir) = socket_dir.as_ref().filter(|dir| !dir.is_absolute()) {
        return Err(Error::invalid_argument(format!(
            "socket directory {} is not absolute",
            dir.to_string_lossy().escape_debug()
        )));
    }
    Ok(Request {
        dialect: Dialect::Proto,
        id: params.instance_id,
        namespace: params.namespace,
        grpc_address: first([
            &params.containerd_grpc_address,
            &env.grpc_address,
            &flags.address,
        ]),
        ttrpc_address: first([&params.containerd_ttrpc_address, &env.ttrpc_address, ""]),
        debug: flags.debug || params.log_level.value() <= DEBUG,
        socket_dir,
        options,
    })
}

fn legacy(stdin: &[u8], flags: &Flags, env: &Environment) -> Result<Request> {
    let any: Any = proto::parse(stdin)
        .map_err(|e| Error::invalid_argument(format!("read options from standard input: {e}")))?;
    let dialect = if env.grpc_address.is_empty() {
        Dialect::Plain
    } else {
        Dialect::Json
    };
    Ok(Request {
        dialect,
        id: flags.id.clone(),
        namespace: flags.namespace.clone(),
        // The Go shims of these versions name their sockets after the flag.
        grpc_address: first([&flags.address, &env.grpc_address, ""]),
        ttrpc_address: env.ttrpc_address.clone(),
        debug: flags.debug,
        socket_dir: None,
        // Options of another runtime say nothing to a start.
        options: Given::known(&any)?,
    })
}

fn first(candidates: [&str; 3]) -> String {
    let found = candidates.into_iter().find(|c| !c.is_empty());
    found.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
