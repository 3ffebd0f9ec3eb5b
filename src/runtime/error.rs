//! A failed call keeps the runtime's own words: clients look for phrases in them.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::error::{Code, Error};

/// A command of the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the runtime names them")]
pub enum Operation {
    Create,
    Start,
    Exec,
    Kill,
    Delete,
    Pause,
    Resume,
    Ps,
    Update,
    Checkpoint,
    Restore,
    Features,
    Version,
}

impl Operation {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Exec => "exec",
            Self::Kill => "kill",
            Self::Delete => "delete",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Ps => "ps",
            Self::Update => "update",
            Self::Checkpoint => "checkpoint",
            Self::Restore => "restore",
            Self::Features => "features",
            Self::Version => "--version",
        }
    }

    /// How long a call may take: far above what is normal on a loaded machine, with room for
    /// hooks where they run and for the memory that a checkpoint moves.
    pub fn limit(self) -> Duration {
        let seconds = match self {
            Self::Checkpoint | Self::Restore => 600,
            Self::Create | Self::Start | Self::Exec | Self::Delete => 120,
            Self::Kill | Self::Pause | Self::Resume | Self::Update => 30,
            Self::Ps | Self::Features | Self::Version => 10,
        };
        Duration::from_secs(seconds)
    }
}

/// How a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It could not be started.
    Spawn,
    /// It could not be started because no thread or process was to be had.
    Exhausted,
    /// It was killed at its time limit. What it made so far may still be there.
    Timeout,
    /// A signal ended it (or it exited with 128 + a signal's number, as shells do).
    Killed(u32),
    /// It exited with a status other than 0.
    Failed(u32),
    /// It succeeded and printed what can't be understood.
    Output,
}

/// A failed call of the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeError {
    /// What was called.
    pub operation: Operation,
    /// How it failed.
    pub kind: Kind,
    /// Why: the runtime's own message, unmodified, if it gave one.
    pub message: String,
}

impl RuntimeError {
    pub(crate) fn new(operation: Operation, kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            operation,
            kind,
            message,
        }
    }

    /// Adds what to do to a refusal of the spec's `ociVersion`: crun before 1.9 knows none above 1.0
    /// and says only that it is unknown, while newer managers write newer ones.
    #[must_use]
    pub fn about_spec(mut self, oci_version: &str, binary: &Path) -> Self {
        if self.message.contains("unknown version specified") {
            let binary = binary.display();
            self.message.push_str(&format!(
                " (config.json is written for OCI version {oci_version}, which this {binary} is too old for: install a newer one)"
            ));
        }
        self
    }

    /// The runtime did not get to say whether it did anything: it was not started, or killed. For a kill that is
    /// no reason to let the container live.
    pub fn is_cut_off(&self) -> bool {
        match self.kind {
            Kind::Spawn | Kind::Exhausted | Kind::Timeout | Kind::Killed(_) => true,
            Kind::Failed(_) | Kind::Output => false,
        }
    }

    /// The runtime doesn't know the container; a delete has nothing left to do.
    pub fn no_such_container(&self) -> bool {
        matches!(self.kind, Kind::Failed(_)) && no_such_container(&self.message)
    }
}

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = self.operation.name();
        write!(f, "OCI runtime {operation} failed: {}", self.message)
    }
}

impl std::error::Error for RuntimeError {}

impl From<RuntimeError> for Error {
    fn from(error: RuntimeError) -> Self {
        match (error.kind, error.operation) {
            (Kind::Timeout, _) => Error::new(Code::DeadlineExceeded, error.to_string()),
            (Kind::Spawn, Operation::Kill) => {
                Error::unknown(format!("unknown error after kill: {}", error.message))
            }
            (Kind::Exhausted, _) => Error::new(Code::ResourceExhausted, error.to_string()),
            (Kind::Failed(_), Operation::Kill) => match kill_failure(&error.message) {
                KillFailure::Finished => Error::not_found("process already finished"),
                KillFailure::NoSuchContainer => Error::not_found("no such container"),
                KillFailure::Other => {
                    Error::unknown(format!("unknown error after kill: {}", error.message))
                }
            },
            _ => Error::unknown(error.to_string()),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum KillFailure {
    Finished,
    NoSuchContainer,
    Other,
}

/// Contract, section 2.5. crun says `open pidfd: No such process` of an init that is reaped.
fn kill_failure(message: &str) -> KillFailure {
    let lower = message.to_ascii_lowercase();
    let finished = [
        "process already finished",
        "container not running",
        "no such process",
    ];
    if finished.iter().any(|phrase| lower.contains(phrase)) {
        KillFailure::Finished
    } else if no_such_container(message) {
        KillFailure::NoSuchContainer
    } else {
        KillFailure::Other
    }
}

/// runc: `container does not exist`. crun (1.28 for delete, 1.8 for all) only says which of its files is missing: the state
/// directory (delete) or the status file in it (all others).
fn no_such_container(message: &str) -> bool {
    let missing = [
        "/status`: ",
        "cannot open directory '",
        "cannot open directory `",
    ];
    let crun = message.contains("No such file or directory")
        && missing.iter().any(|what| message.contains(what));
    crun || message.contains("does not exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What runc 1.1.5 and crun 1.8.1 and 1.28 print.
    #[test]
    fn kill_failures() {
        use KillFailure::{Finished, NoSuchContainer, Other};
        for (message, expected) in [
            ("container not running", Finished),
            ("os: process already finished", Finished),
            ("open pidfd: No such process", Finished),
            (
                "runc did not terminate successfully: exit status 1: container does not exist",
                NoSuchContainer,
            ),
            (
                "error opening file `/r/ns/id/status`: No such file or directory",
                NoSuchContainer,
            ),
            (
                "cannot open directory '/r/ns/id': No such file or directory",
                NoSuchContainer,
            ),
            (
                "cannot open directory `/r/ns/id`: No such file or directory",
                NoSuchContainer,
            ),
            (
                "container `id` does not exist: open `/r/ns/id/status`: No such file or directory",
                NoSuchContainer,
            ),
            ("unable to signal init: invalid argument", Other),
            (
                "cannot open `/r/ns/id/exec.fifo`: No such file or directory",
                Other,
            ),
            ("send signal to pidfd: Invalid argument", Other),
            ("", Other),
        ] {
            assert_eq!(kill_failure(message), expected, "{message}");
        }
    }

    #[test]
    fn who_did_not_get_to_say_what_became_of_it() {
        for (kind, expected) in [
            (Kind::Spawn, true),
            (Kind::Exhausted, true),
            (Kind::Timeout, true),
            (Kind::Killed(9), true),
            (Kind::Failed(1), false),
            (Kind::Output, false),
        ] {
            let error = RuntimeError::new(Operation::Kill, kind, "");
            assert_eq!(error.is_cut_off(), expected, "{kind:?}");
        }
    }

    #[test]
    fn on_the_wire() {
        let wire =
            |operation, kind, message| Error::from(RuntimeError::new(operation, kind, message));
        for (operation, kind, message, code, text) in [
            (
                Operation::Create,
                Kind::Failed(1),
                "exec: \"x\": not found",
                Code::Unknown,
                "OCI runtime create failed: exec: \"x\": not found",
            ),
            (
                Operation::Start,
                Kind::Killed(9),
                "m",
                Code::Unknown,
                "OCI runtime start failed: m",
            ),
            (
                Operation::Exec,
                Kind::Timeout,
                "m",
                Code::DeadlineExceeded,
                "OCI runtime exec failed: m",
            ),
            (
                Operation::Exec,
                Kind::Exhausted,
                "m",
                Code::ResourceExhausted,
                "OCI runtime exec failed: m",
            ),
            (
                Operation::Kill,
                Kind::Failed(1),
                "container not running",
                Code::NotFound,
                "process already finished: not found",
            ),
            (
                Operation::Kill,
                Kind::Failed(1),
                "container does not exist",
                Code::NotFound,
                "no such container: not found",
            ),
            (
                Operation::Kill,
                Kind::Failed(1),
                "m",
                Code::Unknown,
                "unknown error after kill: m",
            ),
            (
                Operation::Kill,
                Kind::Spawn,
                "fork/exec /r: permission denied",
                Code::Unknown,
                "unknown error after kill: fork/exec /r: permission denied",
            ),
            (
                Operation::Kill,
                Kind::Killed(9),
                "m",
                Code::Unknown,
                "OCI runtime kill failed: m",
            ),
        ] {
            assert_eq!(wire(operation, kind, message), Error::new(code, text));
        }
    }
}
