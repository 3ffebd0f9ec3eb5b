//! The events of a task, with the topics and type names managers subscribe to.
//!
//! Invariant: each variant has one topic and one type name, those of containerd
//! (core/runtime/events.go, api/events/task.proto) but for topics below `/cotter`, which are this
//! shim's own; the type name is bare, without a host.

use std::convert::Infallible;

use protobuf::Message;

use crate::proto::cotter_oom::OomKill;
use crate::proto::cotter_pids::PidsLimit;
use crate::proto::events::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM,
    TaskPaused, TaskResumed, TaskStart,
};
use crate::proto::{self, Any, Named};

/// Something that happened to a task. `O` is what stands for an event that is none of these: for who tells
/// events there is none, who hears of them may get any ([`crate::manager::events::Event`]).
#[derive(Clone, Debug, PartialEq)]
pub enum Event<O = Infallible> {
    /// `/tasks/create`
    Create(TaskCreate),
    /// `/tasks/start`
    Start(TaskStart),
    /// `/tasks/exec-added`
    ExecAdded(TaskExecAdded),
    /// `/tasks/exec-started`
    ExecStarted(TaskExecStarted),
    /// `/tasks/exit`
    Exit(TaskExit),
    /// `/tasks/oom`
    Oom(TaskOOM),
    /// `/cotter/pids-limit`
    PidsLimit(PidsLimit),
    /// `/cotter/oom`
    OomKill(OomKill),
    /// `/tasks/paused`
    Paused(TaskPaused),
    /// `/tasks/resumed`
    Resumed(TaskResumed),
    /// `/tasks/checkpointed`
    Checkpointed(TaskCheckpointed),
    /// `/tasks/delete`
    Delete(TaskDelete),
    /// None of the above.
    Other(O),
}

/// Who goes first when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// Managers can do without it.
    Expendable = 0,
    /// Dropped only when nothing expendable is left.
    Useful = 1,
    /// Never dropped.
    Vital = 2,
}

impl Rank {
    /// How many ranks may be dropped: those whose number is below.
    pub(super) const DROPPABLE: usize = Self::Vital as usize;
}

/// One row per variant: its topic and rank.
macro_rules! per_variant {
    ($($variant:ident($message:ident), $topic:literal, $rank:ident;)*) => {
        impl Event {
            /// The topic it is published under.
            #[must_use]
            pub fn topic(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $topic,)*
                    Self::Other(never) => match *never {},
                }
            }

            /// The full name of its message, which is also its type URL.
            #[must_use]
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $message::FULL_NAME,)*
                    Self::Other(never) => match *never {},
                }
            }

            pub(super) fn rank(&self) -> Rank {
                match self {
                    $(Self::$variant(_) => Rank::$rank,)*
                    Self::Other(never) => match *never {},
                }
            }

            pub(super) fn encode(&self) -> protobuf::Result<Vec<u8>> {
                match self {
                    $(Self::$variant(message) => message.write_to_bytes(),)*
                    Self::Other(never) => match *never {},
                }
            }
        }

        impl<O> Event<O> {
            /// The container it is about; empty if that is not known.
            #[must_use]
            pub fn container(&self) -> &str {
                match self {
                    $(Self::$variant(message) => &message.container_id,)*
                    Self::Other(_) => "",
                }
            }

            /// The event an [`Any`] holds; none if it is no task's event.
            ///
            /// # Errors
            /// When the bytes are not what the type URL says.
            pub fn known(any: &Any) -> protobuf::Result<Option<Self>> {
                $(if let Some(message) = proto::unpack::<$message>(any)? {
                    return Ok(Some(Self::$variant(message)));
                })*
                Ok(None)
            }
        }

        $(impl From<$message> for Event {
            fn from(message: $message) -> Self {
                Self::$variant(message)
            }
        })*
    };
}

per_variant! {
    Create(TaskCreate), "/tasks/create", Useful;
    Start(TaskStart), "/tasks/start", Useful;
    ExecAdded(TaskExecAdded), "/tasks/exec-added", Expendable;
    ExecStarted(TaskExecStarted), "/tasks/exec-started", Expendable;
    Exit(TaskExit), "/tasks/exit", Vital;
    Oom(TaskOOM), "/tasks/oom", Useful;
    PidsLimit(PidsLimit), "/cotter/pids-limit", Expendable;
    OomKill(OomKill), "/cotter/oom", Expendable;
    Paused(TaskPaused), "/tasks/paused", Expendable;
    Resumed(TaskResumed), "/tasks/resumed", Expendable;
    Checkpointed(TaskCheckpointed), "/tasks/checkpointed", Expendable;
    Delete(TaskDelete), "/tasks/delete", Useful;
}

impl Event {
    /// As [`known`](Self::known), for who knows of no others.
    ///
    /// # Errors
    /// When the bytes are not what the type URL says.
    pub fn from_any(any: &Any) -> protobuf::Result<Option<Self>> {
        Self::known(any)
    }

    /// The event as it travels.
    ///
    /// # Errors
    /// When the message is larger than protobuf allows (2 GiB).
    pub fn any(&self) -> protobuf::Result<Any> {
        Ok(Any {
            type_url: self.type_name().to_owned(),
            value: self.encode()?,
            ..Any::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Topics as in containerd core/runtime/events.go.
    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn every_event_has_its_topic_and_survives_the_any() {
        let id = "c1".to_owned();
        let rows: [(Event, &str, &str); 12] = [
            (
                TaskCreate {
                    container_id: id.clone(),
                    bundle: "/b".to_owned(),
                    ..TaskCreate::default()
                }
                .into(),
                "/tasks/create",
                "containerd.events.TaskCreate",
            ),
            (
                TaskStart {
                    container_id: id.clone(),
                    pid: 7,
                    ..TaskStart::default()
                }
                .into(),
                "/tasks/start",
                "containerd.events.TaskStart",
            ),
            (
                TaskExecAdded {
                    container_id: id.clone(),
                    exec_id: "e".to_owned(),
                    ..TaskExecAdded::default()
                }
                .into(),
                "/tasks/exec-added",
                "containerd.events.TaskExecAdded",
            ),
            (
                TaskExecStarted {
                    container_id: id.clone(),
                    pid: 8,
                    ..TaskExecStarted::default()
                }
                .into(),
                "/tasks/exec-started",
                "containerd.events.TaskExecStarted",
            ),
            (
                TaskExit {
                    container_id: id.clone(),
                    exit_status: 137,
                    ..TaskExit::default()
                }
                .into(),
                "/tasks/exit",
                "containerd.events.TaskExit",
            ),
            (
                TaskOOM {
                    container_id: id.clone(),
                    ..TaskOOM::default()
                }
                .into(),
                "/tasks/oom",
                "containerd.events.TaskOOM",
            ),
            (
                PidsLimit {
                    container_id: id.clone(),
                    hits: 3,
                    ..PidsLimit::default()
                }
                .into(),
                "/cotter/pids-limit",
                "cotter.events.v1.PidsLimit",
            ),
            (
                OomKill {
                    container_id: id.clone(),
                    kills: 2,
                    ..OomKill::default()
                }
                .into(),
                "/cotter/oom",
                "cotter.events.v1.OomKill",
            ),
            (
                TaskPaused {
                    container_id: id.clone(),
                    ..TaskPaused::default()
                }
                .into(),
                "/tasks/paused",
                "containerd.events.TaskPaused",
            ),
            (
                TaskResumed {
                    container_id: id.clone(),
                    ..TaskResumed::default()
                }
                .into(),
                "/tasks/resumed",
                "containerd.events.TaskResumed",
            ),
            (
                TaskCheckpointed {
                    container_id: id.clone(),
                    checkpoint: "/p".to_owned(),
                    ..TaskCheckpointed::default()
                }
                .into(),
                "/tasks/checkpointed",
                "containerd.events.TaskCheckpointed",
            ),
            (
                TaskDelete {
                    container_id: id.clone(),
                    exit_status: 1,
                    ..TaskDelete::default()
                }
                .into(),
                "/tasks/delete",
                "containerd.events.TaskDelete",
            ),
        ];
        for (event, topic, type_name) in rows {
            assert_eq!(event.topic(), topic);
            assert_eq!(event.container(), id);
            let any = event.any().unwrap();
            assert_eq!(any.type_url, type_name);
            assert_eq!(Event::from_any(&any).unwrap(), Some(event));
        }
    }

    #[test]
    fn what_is_no_event_of_a_task_is_told_apart() {
        let other = Any {
            type_url: "containerd.events.ImageCreate".to_owned(),
            ..Any::default()
        };
        assert_eq!(Event::from_any(&other).unwrap(), None);
        let broken = Any {
            type_url: "containerd.events.TaskExit".to_owned(),
            value: vec![0xff],
            ..Any::default()
        };
        assert!(Event::from_any(&broken).is_err());
    }

    #[test]
    fn only_exits_are_vital() {
        assert_eq!(Event::from(TaskExit::default()).rank(), Rank::Vital);
        assert_eq!(Event::from(TaskDelete::default()).rank(), Rank::Useful);
        assert_eq!(
            Event::from(TaskExecAdded::default()).rank(),
            Rank::Expendable
        );
    }
}
