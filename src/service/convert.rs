//! Between wire messages and the container's own words.
//!
//! Invariant: whatever is in a message, the result is a value or an error that names the field.

use protobuf::{EnumOrUnknown, MessageField};

use crate::cgroup::Metrics;
use crate::container::snapshot::{Member, Snapshot};
use crate::container::state::State;
use crate::container::{Create, ExitStatus};
use crate::error::{Error, Result};
use crate::mount::Mount;
use crate::proto::runc_options::{Options, ProcessDetails};
use crate::proto::task::{CreateTaskRequest, ProcessInfo, StateResponse, Status};
use crate::proto::{Any, pack, timestamp, unpack};
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
        crate::error::Code::FailedPrecondition => ttrpc::Code::FAILED_PRECONDITION,
        crate::error::Code::Unimplemented => ttrpc::Code::UNIMPLEMENTED,
        crate::error::Code::Internal => ttrpc::Code::INTERNAL,
        crate::error::Code::Unavailable => ttrpc::Code::UNAVAILABLE,
    };
    status.set_code(code);
    status.set_message(error.message);
    ttrpc::Error::RpcStatus(status)
}

/// What Create asks for.
///
/// # Errors
/// Options of an unknown type, or not decodable.
pub fn create(req: CreateTaskRequest) -> Result<Create> {
    Ok(Create {
        options: options(req.options.as_ref())?,
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
    })
}

/// The runtime's options; a type URL without a value means defaults (contract 2.2).
fn options(any: Option<&Any>) -> Result<Options> {
    let Some(any) = any.filter(|a| !a.value.is_empty()) else {
        return Ok(Options::new());
    };
    match unpack(any) {
        Ok(Some(options)) => Ok(options),
        Ok(None) => Err(Error::unknown(format!(
            "type with url {}: not found",
            any.type_url
        ))),
        Err(e) => Err(Error::invalid_argument(format!(
            "options of type {}: {e}",
            any.type_url
        ))),
    }
}

fn wire_state(state: State) -> EnumOrUnknown<Status> {
    match state {
        State::Created => Status::CREATED,
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
    use protobuf::Message;

    use super::*;
    use crate::error::Code;

    const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";

    fn any(url: &str, value: &[u8]) -> Any {
        Any {
            type_url: url.into(),
            value: value.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn options_by_the_last_part_of_their_type() {
        let mut o = Options::new();
        o.binary_name = "crun".into();
        let bytes = o.write_to_bytes().unwrap();
        for url in [
            RUNC_OPTIONS,
            "type.googleapis.com/containerd.runc.v1.Options",
        ] {
            assert_eq!(
                options(Some(&any(url, &bytes))).unwrap().binary_name,
                "crun"
            );
        }
        assert_eq!(options(None).unwrap(), Options::new());
        assert_eq!(
            options(Some(&any("anything", b""))).unwrap(),
            Options::new()
        );
    }

    #[test]
    fn options_of_another_type_are_an_error() {
        let e = options(Some(&any("containerd.runc.v1.CheckpointOptions", &[8, 1]))).unwrap_err();
        assert_eq!(
            (e.code, e.message.as_str()),
            (
                Code::Unknown,
                "type with url containerd.runc.v1.CheckpointOptions: not found"
            )
        );
        let e = options(Some(&any(RUNC_OPTIONS, &[0xff, 0xff]))).unwrap_err();
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
