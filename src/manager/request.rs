//! Requests that say no more than what they are about: a container, and an exec of it.
//!
//! Invariant: an empty exec id is the container's init process, as it is on the wire.

use crate::proto::task::*;

macro_rules! about_a_process {
    ($($name:ident: $request:ident,)*) => {
        $(
            #[doc = concat!("A [`", stringify!($request), "`] about a process.")]
            pub fn $name(id: &str, exec_id: &str) -> $request {
                $request {
                    id: id.into(),
                    exec_id: exec_id.into(),
                    ..Default::default()
                }
            }
        )*
    };
}

macro_rules! about_a_container {
    ($($name:ident: $request:ident,)*) => {
        $(
            #[doc = concat!("A [`", stringify!($request), "`] about a container.")]
            pub fn $name(id: &str) -> $request {
                $request {
                    id: id.into(),
                    ..Default::default()
                }
            }
        )*
    };
}

about_a_process! {
    state: StateRequest,
    start: StartRequest,
    wait: WaitRequest,
    delete: DeleteRequest,
}

about_a_container! {
    connect: ConnectRequest,
    pids: PidsRequest,
    stats: StatsRequest,
    pause: PauseRequest,
    resume: ResumeRequest,
    shutdown: ShutdownRequest,
}

/// A [`KillRequest`] about a process.
pub fn kill(id: &str, exec_id: &str, signal: u32) -> KillRequest {
    KillRequest {
        id: id.into(),
        exec_id: exec_id.into(),
        signal,
        ..Default::default()
    }
}

/// A [`CloseIORequest`] about the input of a process.
pub fn close_stdin(id: &str, exec_id: &str) -> CloseIORequest {
    CloseIORequest {
        id: id.into(),
        exec_id: exec_id.into(),
        stdin: true,
        ..Default::default()
    }
}
