//! Between wire messages and the container's own words.
//!
//! Invariant: whatever is in a message, the result is a value or an error that names the field.

use protobuf::{EnumOrUnknown, MessageField};

use crate::cgroup::Metrics;
use crate::container::ExitStatus;
use crate::container::operations::Create;
use crate::container::operations::members::Member;
use crate::container::operations::snapshot::Snapshot;
use crate::container::state::State;
use crate::error::{Error, Result};
use crate::mount::Mount;
use crate::proto::runc_options::{CheckpointOptions, Options, ProcessDetails};
use crate::proto::task::{CreateTaskRequest, ProcessInfo, StateResponse, Status};
use crate::proto::{Any, Named, pack, timestamp, unpack};
use crate::stdio::Stdio;

/// An error as ttrpc sends it.
pub fn status(error: Error) -> ttrpc::Error {
    let mut status = ttrpc::Status::new();
    let code = match error.code {
        crate::error::Code::Canceled => ttrpc::Code::CANCELLED,
        crate::error::Code::Unknown => ttrpc::Code::UNKNOWN,
        crate::error::Code::InvalidArgument => ttrpc::Code::INVALID_ARGUMENT,
        crate::error::Code::DeadlineExceeded => ttrpc::Code::DEADLINE_EXCEEDED,
        crate::error::Code::NotFound => ttrpc::Code::NOT_FOUND,
        crate::error::Code::AlreadyExists => ttrpc::Code::ALREADY_EXISTS,
        crate::error::Code::PermissionDenied => ttrpc::Code::PERMISSION_DENIED,
        crate::error::Code::ResourceExhausted => ttrpc::Code::RESOURCE_EXHAUSTED,
        crate::error::Code::FailedPrecondition => ttrpc::Code::FAILED_PRECONDITION,
        crate::error::Code::Unimplemented => ttrpc::Code::UNIMPLEMENTED,
        crate::error::Code::Internal => ttrpc::Code::INTERNAL,
        crate::error::Code::Unavailable => ttrpc::Code::UNAVAILABLE,
    };
    status.set_code(code);
    status.set_message(error.message);
    ttrpc::Error::RpcStatus(status)
}

/// What Create asks for, with the options that its own hold.
pub fn create(req: CreateTaskRequest, options: Options) -> Create {
    Create {
        options,
        id: req.id,
        bundle: req.bundle.into(),
        rootfs: req
            .rootfs
            .into_iter()
            .map(|m| Mount {
                kind: m.type_,
                source: m.source,
                target: m.target,
                options: m.options,
            })
            .collect(),
        stdio: Stdio {
            stdin: req.stdin,
            stdout: req.stdout,
            stderr: req.stderr,
            terminal: req.terminal,
        },
        checkpoint: req.checkpoint,
    }
}

/// The options of a Checkpoint; none are defaults, and those of another type an error even when they
/// are empty (contract 6.4).
///
/// # Errors
/// Options of another type, or not decodable.
pub fn checkpoint_options(any: Option<&Any>) -> Result<CheckpointOptions> {
    let Some(any) = any.filter(|any| !any.type_url.is_empty() || !any.value.is_empty()) else {
        return Ok(CheckpointOptions::new());
    };
    let url = any.type_url.escape_debug();
    match unpack(any) {
        Ok(Some(options)) => Ok(options),
        Ok(None) => {
            let wanted = CheckpointOptions::FULL_NAME;
            Err(Error::unknown(format!(
                "can't unmarshal type \"{url}\" to output \"{wanted}\""
            )))
        }
        Err(e) => Err(Error::invalid_argument(format!(
            "options of type {url}: {e}"
        ))),
    }
}

fn wire_state(state: State) -> EnumOrUnknown<Status> {
    match state {
        State::Created | State::CreatedCheckpoint => Status::CREATED,
        State::Running => Status::RUNNING,
        State::Pausing => Status::PAUSING,
        State::Paused => Status::PAUSED,
        State::Stopped | State::Deleted => Status::STOPPED,
    }
    .into()
}

/// A process's state as the wire has it. `id` is the exec's id for execs, and `exec_id` stays
/// empty, as in the Go shim (contract 2.1).
pub fn state(bundle: &std::path::Path, snapshot: &Snapshot) -> StateResponse {
    let process = &snapshot.process;
    StateResponse {
        id: process.id().to_owned(),
        bundle: bundle.to_string_lossy().into_owned(),
        pid: snapshot.facts.pid.cast_unsigned(),
        status: wire_state(snapshot.facts.state),
        stdin: process.stdio.stdin.clone(),
        stdout: process.stdio.stdout.clone(),
        stderr: process.stdio.stderr.clone(),
        terminal: process.stdio.terminal,
        exit_status: snapshot.exit.status,
        exited_at: exited_at(snapshot.exit),
        ..Default::default()
    }
}

/// The time of an exit; Go's zero time when there was none.
pub fn exited_at(
    exit: ExitStatus,
) -> MessageField<protobuf::well_known_types::timestamp::Timestamp> {
    Some(timestamp(exit.at)).into()
}

/// What a container uses, under the type URL of its cgroup version.
///
/// # Errors
/// Never for what a kernel tells: the message would have to be larger than 2 GiB.
pub fn metrics(metrics: &Metrics) -> Result<Any> {
    let packed = match metrics {
        Metrics::V1(metrics) => pack(metrics),
        Metrics::V2(metrics) => pack(metrics),
    };
    packed.map_err(|why| Error::unknown(format!("encode the metrics: {why}")))
}

/// A member of a container; an exec's own process carries its id.
pub fn process_info(member: Member) -> ProcessInfo {
    let details = member.exec_id.map(|exec_id| ProcessDetails {
        exec_id,
        ..Default::default()
    });
    let info = details.and_then(|details| pack(&details).ok());
    ProcessInfo {
        pid: member.pid.cast_unsigned(),
        info: info.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";

    fn any(url: &str, value: &[u8]) -> Any {
        Any {
            type_url: url.into(),
            value: value.into(),
            ..Default::default()
        }
    }

    #[test]
    fn checkpoint_options_are_of_their_type_or_absent() {
        let name = CheckpointOptions::FULL_NAME;
        for absent in [None, Some(any("", b"")), Some(any(name, b""))] {
            let options = checkpoint_options(absent.as_ref());
            assert_eq!(options, Ok(CheckpointOptions::new()));
        }
        assert!(checkpoint_options(Some(&any(name, &[8, 1]))).unwrap().exit);
        for (url, value) in [
            (RUNC_OPTIONS, &b""[..]),
            (RUNC_OPTIONS, &[8, 1]),
            ("", &[8, 1]),
        ] {
            let e = checkpoint_options(Some(&any(url, value))).unwrap_err();
            let text = format!("can't unmarshal type \"{url}\" to output \"{name}\"");
            assert_eq!(e, Error::unknown(text));
        }
        let e = checkpoint_options(Some(&any(name, &[0xff]))).unwrap_err();
        assert_eq!(e.code, Code::InvalidArgument);
    }

    #[test]
    fn no_exit_is_gos_zero_time() {
        let t = exited_at(ExitStatus {
            status: 0,
            at: None,
        });
        assert_eq!((t.seconds, t.nanos), (-62_135_596_800, 0));
    }
}
