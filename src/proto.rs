//! The wire contract, as containerd's managers speak it: messages and services generated from
//! proto/, in one module per upstream package.
//!
//! Invariant: packages, names, numbers and types are upstream's, but for `introspection`, which is
//! ours; tests/wire.rs holds them against
//! bytes captured from real managers.

use std::collections::HashMap;
use std::sync::Arc;

use protobuf::{CodedInputStream, Message};

#[allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::too_many_lines
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

/// `containerd.task.v3`: the messages, the [`Task`](task::Task) trait that a shim implements,
/// [`TaskClient`](task::TaskClient), and [`create_task`](task::create_task) which registers an
/// implementation under the v3 name.
pub mod task {
    pub use super::generated::process::{Process, ProcessInfo, Status};
    pub use super::generated::task::*;
    pub use super::generated::task_ttrpc::{Task, TaskClient, create_task};
}

/// `containerd.task.v2`: the same service over the same messages, under the name that containerd
/// 1.x calls.
pub mod task_v2 {
    use super::{Arc, HashMap, task};

    pub use super::generated::task_v2_ttrpc::TaskClient;

    /// The name under which the service is called.
    pub const SERVICE: &str = "containerd.task.v2.Task";

    /// Registers an implementation of [`task::Task`] under the v2 name. Methods are looked up below
    /// the service's name, so v3's handlers serve v2 as they are.
    pub fn create_task(
        service: Arc<dyn task::Task + Send + Sync>,
    ) -> HashMap<String, ttrpc::r#async::Service> {
        task::create_task(service)
            .into_values()
            .map(|handlers| (SERVICE.to_owned(), handlers))
            .collect()
    }
}

/// `containerd.events`: what a shim tells.
pub mod events {
    pub use super::generated::events::*;
}

/// `cotter.events.v1`: what this shim tells of the limits of processes.
pub mod cotter_pids {
    pub use super::generated::cotter_pids::*;
}

/// `cotter.events.v1`: what this shim tells of OOM kills beyond containerd's events.
pub mod cotter_oom {
    pub use super::generated::cotter_oom::*;
}

/// `containerd.services.events.ttrpc.v1`: where a shim tells it.
pub mod events_ttrpc {
    pub use super::generated::events_service::ForwardRequest;
    pub use super::generated::events_service_ttrpc::{Events, EventsClient, create_events};
}

/// `cotter.shim.v1`: looking inside, which is ours alone.
pub mod introspection {
    pub use super::generated::introspection::*;
    pub use super::generated::introspection_ttrpc::{
        Introspection, IntrospectionClient, create_introspection,
    };
}

/// `containerd.types`.
pub mod types {
    pub use super::generated::types::*;
}

/// `cotter.journal.v1`: what is kept of unpublished events, in files of our own.
pub mod journal {
    pub use super::generated::journal::*;
}

/// `containerd.runtime.bootstrap.v1`: the start dialect of containerd 2.3 and newer.
pub mod bootstrap {
    pub use super::generated::bootstrap::*;
}

/// `containerd.runc.v1`.
pub mod runc_options {
    pub use super::generated::runc_options::*;
}

/// `runtimeoptions.v1`.
pub mod runtime_options {
    pub use super::generated::runtime_options::*;
}

/// `io.containerd.cgroups.v1`.
pub mod cgroups_v1 {
    pub use super::generated::cgroups_v1::*;
}

/// `io.containerd.cgroups.v2`.
pub mod cgroups_v2 {
    pub use super::generated::cgroups_v2::*;
}

pub use protobuf::well_known_types::any::Any;
pub use protobuf::well_known_types::empty::Empty;
pub use protobuf::well_known_types::timestamp::Timestamp;

/// A message that travels in an [`Any`].
pub trait Named: Message {
    /// Its full name, which is also the type URL containerd gives it: no prefix.
    const FULL_NAME: &'static str;
}

macro_rules! named {
    ($($message:ty => $name:literal,)*) => {
        $(impl Named for $message { const FULL_NAME: &'static str = $name; })*
    };
}

named! {
    events::TaskCreate => "containerd.events.TaskCreate",
    events::TaskStart => "containerd.events.TaskStart",
    events::TaskDelete => "containerd.events.TaskDelete",
    events::TaskExit => "containerd.events.TaskExit",
    events::TaskOOM => "containerd.events.TaskOOM",
    events::TaskExecAdded => "containerd.events.TaskExecAdded",
    events::TaskExecStarted => "containerd.events.TaskExecStarted",
    events::TaskPaused => "containerd.events.TaskPaused",
    events::TaskResumed => "containerd.events.TaskResumed",
    events::TaskCheckpointed => "containerd.events.TaskCheckpointed",
    cotter_pids::PidsLimit => "cotter.events.v1.PidsLimit",
    cotter_oom::OomKill => "cotter.events.v1.OomKill",
    runc_options::Options => "containerd.runc.v1.Options",
    runc_options::CheckpointOptions => "containerd.runc.v1.CheckpointOptions",
    runc_options::ProcessDetails => "containerd.runc.v1.ProcessDetails",
    runtime_options::Options => "runtimeoptions.v1.Options",
    cgroups_v1::Metrics => "io.containerd.cgroups.v1.Metrics",
    cgroups_v2::Metrics => "io.containerd.cgroups.v2.Metrics",
}

/// Wraps a message.
///
/// # Errors
/// When the message is larger than protobuf allows (2 GiB).
pub fn pack<M: Named>(message: &M) -> protobuf::Result<Any> {
    Ok(Any {
        type_url: M::FULL_NAME.to_owned(),
        value: message.write_to_bytes()?,
        ..Any::default()
    })
}

/// The full name of the message in an [`Any`]. Only what follows the last slash counts: some
/// clients put a host name in front.
pub fn name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Whether an [`Any`] holds an `M`.
pub fn is<M: Named>(any: &Any) -> bool {
    name(any) == M::FULL_NAME
}

/// Unwraps an `M`; none if the [`Any`] holds something else.
///
/// # Errors
/// When the bytes are no `M`.
pub fn unpack<M: Named>(any: &Any) -> protobuf::Result<Option<M>> {
    if !is::<M>(any) {
        return Ok(None);
    }
    parse(&any.value).map(Some)
}

/// Decodes a message. The library's own way takes a nested message that is cut off for whole when its
/// bytes are the last; here they have a limit that it must not go beyond.
///
/// # Errors
/// When the bytes are no whole `M`.
pub fn parse<M: Message>(bytes: &[u8]) -> protobuf::Result<M> {
    let mut input = CodedInputStream::from_bytes(bytes);
    input.push_limit(bytes.len() as u64)?;
    let mut message = M::new();
    message.merge_from(&mut input)?;
    input.check_eof()?;
    Ok(message)
}

/// A point in time for the wire. `None` becomes Go's zero time, year 1: an absent field would be
/// read as 1970 by containerd, which is "not zero" there (contract 2.0).
pub fn timestamp(at: Option<std::time::SystemTime>) -> Timestamp {
    use std::time::UNIX_EPOCH;
    const GO_ZERO_SECONDS: i64 = -62_135_596_800;
    let Some(at) = at else {
        return Timestamp {
            seconds: GO_ZERO_SECONDS,
            ..Timestamp::default()
        };
    };
    // A clock before 1970 is a broken clock; the epoch is as good an answer as any.
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
        ..Timestamp::default()
    }
}
