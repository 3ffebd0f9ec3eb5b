//! Receives what shims tell, as containerd's event service does.
//!
//! Invariant: events come out in the order in which they came in. A shim sends the next one when
//! the one before is answered, and it is handed over before it is answered.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use protobuf::well_known_types::any::Any;
use tokio::sync::mpsc;
use tokio::time::timeout;
use ttrpc::r#async::transport::Listener;
use ttrpc::r#async::{Server, TtrpcContext};

use crate::error::{Error, Result};
use crate::proto::cotter_pids::{PidsLevel, PidsLimit};
use crate::proto::events_ttrpc::{Events, ForwardRequest, create_events};
use crate::proto::{Empty, Timestamp};
use crate::shown;

/// What happened. `Other` is none of these, or bytes that are not what the type says.
pub type Event = crate::events::Event<Any>;

impl Event {
    fn decode(any: Any) -> Self {
        Self::known(&any).ok().flatten().unwrap_or(Self::Other(any))
    }

    /// What it says besides the container, for people: one line.
    pub fn details(&self) -> String {
        let text = match self {
            Self::Create(event) => format!("pid {}", event.pid),
            Self::Start(event) => format!("pid {}", event.pid),
            Self::Exit(event) if event.id == event.container_id => {
                format!("pid {} status {}", event.pid, event.exit_status)
            }
            Self::Exit(event) => format!(
                "pid {} status {} exec {}",
                event.pid, event.exit_status, event.id
            ),
            Self::Delete(event) => format!("pid {} status {}", event.pid, event.exit_status),
            Self::ExecAdded(event) => format!("exec {}", event.exec_id),
            Self::ExecStarted(event) => format!("pid {} exec {}", event.pid, event.exec_id),
            Self::PidsLimit(event) => pids_limit(event),
            Self::Checkpointed(event) => event.checkpoint.clone(),
            Self::OomKill(event) => crate::events::describe(event),
            Self::Oom(_) | Self::Paused(_) | Self::Resumed(_) => String::new(),
            Self::Other(any) => any.type_url.clone(),
        };
        shown::line(&text)
    }
}

fn pids_limit(event: &PidsLimit) -> String {
    let level = match event.level.enum_value_or_default() {
        PidsLevel::PIDS_LEVEL_CONTAINER => "container",
        PidsLevel::PIDS_LEVEL_POD => "pod",
        PidsLevel::PIDS_LEVEL_HIGHER => "higher",
        PidsLevel::PIDS_LEVEL_UNKNOWN => "unknown",
    };
    let zombies = match event.zombies {
        0 => String::new(),
        n => format!(" zombies {n}"),
    };
    format!(
        "refused {} limit {} current {}{zombies} level {level} {}",
        event.hits, event.limit, event.current, event.cgroup
    )
}

/// An event and what stood on its envelope.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// When it arrived here.
    pub received: Instant,
    /// When the shim says it happened.
    pub timestamp: Timestamp,
    /// The container's namespace.
    pub namespace: String,
    /// E.g. `/tasks/exit`.
    pub topic: String,
    /// What happened.
    pub event: Event,
}

/// The event service on a socket of its own.
pub struct EventServer {
    path: PathBuf,
    server: Server,
    told: mpsc::UnboundedReceiver<Told>,
}

struct Inbox(mpsc::UnboundedSender<Told>);

#[async_trait]
impl Events for Inbox {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        // Fails only while the server goes down, and then nobody listens.
        let _ = self.0.send(Told {
            received: Instant::now(),
            timestamp: envelope.timestamp.unwrap_or_default(),
            namespace: envelope.namespace,
            topic: envelope.topic,
            event: Event::decode(envelope.event.unwrap_or_default()),
        });
        Ok(Empty::new())
    }
}

impl EventServer {
    /// Listens on a socket at `path`, in the place of whatever is there.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn listen(path: &Path) -> Result<Self> {
        let failed = |why: &std::io::Error| {
            Error::io(format_args!("listen for events on {}", path.display()), why)
        };
        let _ = fs::remove_file(path);
        let listener = UnixListener::bind(path).map_err(|why| failed(&why))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|why| failed(&why))?;
        let listener = Listener::try_from(listener).map_err(|why| failed(&why))?;
        let (inbox, told) = mpsc::unbounded_channel();
        let mut server = Server::new()
            .add_listener(listener)
            .register_service(create_events(Arc::new(Inbox(inbox))));
        server
            .start()
            .await
            .map_err(|why| Error::unknown(format!("serve events: {why}")))?;
        Ok(Self {
            path: path.to_owned(),
            server,
            told,
        })
    }

    /// The path of the socket, which is what TTRPC_ADDRESS holds.
    pub fn address(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// The next event, however long that takes.
    pub async fn next(&mut self) -> Option<Told> {
        self.told.recv().await
    }

    /// The next event.
    ///
    /// # Errors
    /// When none arrives within `limit`.
    pub async fn next_within(&mut self, limit: Duration) -> Result<Told> {
        match timeout(limit, self.next()).await {
            Ok(Some(told)) => Ok(told),
            Ok(None) | Err(_) => Err(Error::deadline_exceeded(format_args!(
                "no event within {limit:?}"
            ))),
        }
    }

    /// An event that has arrived already.
    pub fn take(&mut self) -> Option<Told> {
        self.told.try_recv().ok()
    }

    /// Goes away, as a manager that is restarted does. Returns the events nobody has taken.
    pub async fn stop(mut self) -> Vec<Told> {
        let _ = fs::remove_file(&self.path);
        // Ends by itself; what fails is only the wait for connections to close.
        let _ = self.server.shutdown().await;
        let mut rest = Vec::new();
        while let Ok(told) = self.told.try_recv() {
            rest.push(told);
        }
        rest
    }
}

impl Drop for EventServer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::events::{TaskCheckpointed, TaskExit, TaskPaused};
    use crate::proto::pack;

    #[test]
    fn every_event_is_recognised_by_its_name() {
        let exit = TaskExit {
            container_id: "c".into(),
            id: "x".into(),
            pid: 7,
            exit_status: 9,
            ..TaskExit::default()
        };
        let event = Event::decode(pack(&exit).unwrap());
        assert_eq!(event, Event::Exit(exit));
        assert_eq!(event.container(), "c");
        assert_eq!(event.details(), "pid 7 status 9 exec x");
        let limit = PidsLimit {
            container_id: "c".into(),
            level: PidsLevel::PIDS_LEVEL_POD.into(),
            cgroup: "/g".into(),
            limit: 20,
            current: 19,
            hits: 3,
            zombies: 2,
            ..PidsLimit::default()
        };
        let event = Event::decode(pack(&limit).unwrap());
        assert_eq!(event.container(), "c");
        assert_eq!(
            event.details(),
            "refused 3 limit 20 current 19 zombies 2 level pod /g"
        );
        let paused = Event::decode(pack(&TaskPaused::default()).unwrap());
        assert_eq!(paused, Event::Paused(TaskPaused::default()));
    }

    #[test]
    fn what_it_says_is_one_line() {
        let evil = "a\u{1b}[2J\nb\u{202e}\u{2028}".to_owned();
        let other = Any {
            type_url: evil.clone(),
            ..Any::default()
        };
        let exit = TaskExit {
            id: evil.clone(),
            ..TaskExit::default()
        };
        let checkpointed = TaskCheckpointed {
            checkpoint: evil.clone(),
            ..TaskCheckpointed::default()
        };
        for event in [
            Event::Other(other),
            Event::Exit(exit),
            Event::Checkpointed(checkpointed),
        ] {
            let told = event.details();
            assert!(!told.contains(shown::acts), "{told:?}");
            assert!(told.contains("\\u{1b}[2J\\nb"), "{told}");
        }
    }

    #[test]
    fn what_is_not_understood_is_kept() {
        let other = Any {
            type_url: "containerd.events.TaskExit".into(),
            value: vec![0xff],
            ..Any::default()
        };
        assert_eq!(Event::decode(other.clone()), Event::Other(other));
    }
}
