//! The streams of a process that is about to be started.
//!
//! Invariant: what could not be opened whole leaves nothing open, and no logger.

use std::sync::Arc;

use crate::container::Shared;
use crate::error::{Error, Result};
use crate::in_memory::Memory;
use crate::runtime::Fds;
use crate::stdio::{self, Buffering, Io, Stdio};

/// What is to be opened, and for whom.
pub(super) struct Opening<'a> {
    /// The id of the container, or of the exec.
    pub id: &'a str,
    /// Where the streams go.
    pub stdio: &'a Stdio,
    /// The uid and gid that own the container's ends of pipes.
    pub owner: (u32, u32),
    /// How outputs are buffered.
    pub buffering: Buffering,
    /// Which programs may be loggers.
    pub logger_allow: Option<&'a str>,
    /// The tmpfs that the bundle is on, if it is on one.
    pub memory: Option<Memory>,
}

/// Opens streams and starts their loggers; `whose` they are is "init" or "exec". Answers the shim's ends and
/// the container's.
pub(super) async fn open(
    shared: &Shared,
    opening: &Opening<'_>,
    whose: &'static str,
) -> Result<(Arc<Io>, Fds)> {
    let limit = shared.limits.disk;
    let plan = stdio::plan(opening.stdio).map_err(failed(whose))?;
    let plan = stdio::ask(plan, opening.logger_allow, limit).await;
    let plan = plan.map_err(failed(whose))?;
    let (uid, gid) = opening.owner;
    let opened = Io::open_within(plan, uid, gid, opening.buffering, opening.memory, limit).await;
    let (io, fds) = opened.map_err(failed(whose))?;
    let io = Arc::new(io);
    let host = shared.host(opening.id, opening.logger_allow);
    if let Err(why) = io.start_loggers(&host).await {
        close(&io).await;
        return Err(failed(whose)(why));
    }
    Ok((io, fds))
}

/// The error of what is not to be had.
pub(super) fn failed(whose: &'static str) -> impl Fn(Error) -> Error {
    move |e| e.context(format!("failed to create {whose} process I/O"))
}

/// Takes back what was opened.
pub(super) async fn close(io: &Io) {
    io.close();
    io.end_loggers().await;
}
