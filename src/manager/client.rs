//! A shim's task service as a manager calls it.
//!
//! Invariant: every call but `wait` ends within the client's time limit. Version 3 is asked where
//! the shim names it, version 2 otherwise, and either gives way to the other where the shim answers
//! that it does not have it (contract 10.2).

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::timeout;
use ttrpc::r#async::Client;
use ttrpc::context::{Context, with_duration};

use crate::error::{Code, Error, Result};
use crate::proto::task::*;
use crate::proto::{Empty, task, task_v2};

use super::dialect::Endpoint;

/// What a call may take unless said otherwise.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone)]
enum Service {
    V2(task_v2::TaskClient),
    V3(task::TaskClient),
}

/// A connection to a shim. Clones share the connection.
#[derive(Clone)]
pub struct Tasks {
    service: Service,
    limit: Option<Duration>,
}

impl Tasks {
    /// Connects, and finds out which version the shim serves.
    ///
    /// # Errors
    /// When nobody listens or the shim serves neither version.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self> {
        let client = Client::connect(&endpoint.address).await.map_err(|why| {
            Error::new(
                Code::Unavailable,
                format!("connect to {}: {why}", endpoint.address),
            )
        })?;
        let v2 = Service::V2(task_v2::TaskClient::new(client.clone()));
        let v3 = Service::V3(task::TaskClient::new(client));
        let services = if endpoint.version >= 3 {
            [v3, v2]
        } else {
            [v2, v3]
        };
        let mut refusal = None;
        for service in services {
            let tasks = Self {
                service,
                limit: Some(LIMIT),
            };
            match tasks.connect_task(&ConnectRequest::default()).await {
                // The Rust ttrpc server calls an unknown service an invalid argument.
                Err(why) if matches!(why.code, Code::Unimplemented | Code::InvalidArgument) => {
                    refusal = Some(why);
                }
                Err(why) if why.code == Code::Unavailable => return Err(why),
                Ok(_) | Err(_) => return Ok(tasks),
            }
        }
        Err(refusal.unwrap_or_else(|| Error::unimplemented("Connect")))
    }

    /// Over a connection that exists, without a question; `version` is 2 or 3.
    pub fn over(client: Client, version: i32) -> Self {
        let service = match version {
            3.. => Service::V3(task::TaskClient::new(client)),
            _ => Service::V2(task_v2::TaskClient::new(client)),
        };
        Self {
            service,
            limit: Some(LIMIT),
        }
    }

    /// The version of the service that is called.
    pub fn version(&self) -> i32 {
        match self.service {
            Service::V2(_) => 2,
            Service::V3(_) => 3,
        }
    }

    /// The same connection with another time limit per call; none for no limit.
    #[must_use]
    pub fn within(&self, limit: impl Into<Option<Duration>>) -> Self {
        Self {
            service: self.service.clone(),
            limit: limit.into(),
        }
    }

    fn context(&self) -> Context {
        self.limit.map_or_else(Context::default, with_duration)
    }
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $method:ident($request:ty) -> $response:ty;)*) => {
        impl Tasks {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// The shim's own, or [`Code::Unavailable`] when it is gone, or
                /// [`Code::DeadlineExceeded`].
                pub async fn $name(&self, request: &$request) -> Result<$response> {
                    let deadline = self.limit.map(|limit| Instant::now() + limit);
                    match &self.service {
                        Service::V2(client) => client.$method(self.context(), request).await,
                        Service::V3(client) => client.$method(self.context(), request).await,
                    }
                    .map_err(|why| error(why, deadline))
                }
            )*
        }
    };
}

calls! {
    /// What became of a process.
    state = state(StateRequest) -> StateResponse;
    /// Makes a container.
    create = create(CreateTaskRequest) -> CreateTaskResponse;
    /// Starts its init process or an exec.
    start = start(StartRequest) -> StartResponse;
    /// Forgets a stopped container or exec.
    delete = delete(DeleteRequest) -> DeleteResponse;
    /// The pids of a container.
    pids = pids(PidsRequest) -> PidsResponse;
    /// Freezes a container.
    pause = pause(PauseRequest) -> Empty;
    /// Thaws it.
    resume = resume(ResumeRequest) -> Empty;
    /// Has CRIU dump it.
    checkpoint = checkpoint(CheckpointTaskRequest) -> Empty;
    /// Sends a signal.
    kill = kill(KillRequest) -> Empty;
    /// Registers an exec, which `start` then starts.
    exec = exec(ExecProcessRequest) -> Empty;
    /// Sets the size of a terminal.
    resize_pty = resize_pty(ResizePtyRequest) -> Empty;
    /// Ends a process's standard input.
    close_io = close_io(CloseIORequest) -> Empty;
    /// Changes the limits of a container.
    update = update(UpdateTaskRequest) -> Empty;
    /// Waits for a process to exit, within the client's time limit.
    wait_within = wait(WaitRequest) -> WaitResponse;
    /// What a container uses.
    stats = stats(StatsRequest) -> StatsResponse;
    /// The pids of the shim and of a container's init process.
    connect_task = connect(ConnectRequest) -> ConnectResponse;
    /// Asks the shim to end if it has no container left.
    shutdown = shutdown(ShutdownRequest) -> Empty;
}

impl Tasks {
    /// Waits for a process to exit, however long that takes.
    ///
    /// # Errors
    /// The shim's own, or [`Code::Unavailable`] when it is gone.
    pub async fn wait(&self, request: &WaitRequest) -> Result<WaitResponse> {
        self.within(None).wait_within(request).await
    }
}

/// Waits for a shim to go away.
///
/// # Errors
/// When it is still there after `limit`.
pub async fn gone(endpoint: &Endpoint, limit: Duration) -> Result<()> {
    let closed = async {
        if let Ok(mut stream) = UnixStream::connect(endpoint.socket()).await {
            // A shim has nothing to say on its own: this ends when the connection does.
            let _ = stream.read(&mut [0; 1]).await;
        }
    };
    timeout(limit, closed).await.map_err(|_| {
        Error::deadline_exceeded(format_args!(
            "the shim at {} did not end within {limit:?}",
            endpoint.address
        ))
    })
}

/// What a call's failure is, in our words; with its deadline, if it had one.
pub fn error(error: ttrpc::Error, deadline: Option<Instant>) -> Error {
    let status = match error {
        ttrpc::Error::RpcStatus(status) => status,
        // The library has no variant of its own for a call that it gave up.
        ttrpc::Error::Others(why) if deadline.is_some_and(|end| end <= Instant::now()) => {
            return Error::deadline_exceeded(format_args!("call the shim: {why}"));
        }
        error => return Error::new(Code::Unavailable, format!("call the shim: {error}")),
    };
    let code = match status.code() {
        ttrpc::Code::CANCELLED => Code::Canceled,
        ttrpc::Code::INVALID_ARGUMENT => Code::InvalidArgument,
        ttrpc::Code::DEADLINE_EXCEEDED => Code::DeadlineExceeded,
        ttrpc::Code::NOT_FOUND => Code::NotFound,
        ttrpc::Code::ALREADY_EXISTS => Code::AlreadyExists,
        ttrpc::Code::PERMISSION_DENIED => Code::PermissionDenied,
        ttrpc::Code::RESOURCE_EXHAUSTED => Code::ResourceExhausted,
        ttrpc::Code::FAILED_PRECONDITION => Code::FailedPrecondition,
        ttrpc::Code::UNIMPLEMENTED => Code::Unimplemented,
        ttrpc::Code::INTERNAL => Code::Internal,
        ttrpc::Code::UNAVAILABLE => Code::Unavailable,
        _ => Code::Unknown,
    };
    Error::new(code, status.message)
}
