//! Every method of the task API, by name; both versions answer alike.

use std::sync::Arc;

use async_trait::async_trait;
use ttrpc::r#async::TtrpcContext;

use super::{Shutdown, TaskService, convert, guarded, own};
use crate::error::{Error, Result};
use crate::options::Given;
use crate::proto::Empty;
use crate::proto::task::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, Task,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use crate::stdio::Stdio;

impl TaskService {
    async fn create(&self, req: CreateTaskRequest) -> Result<CreateTaskResponse> {
        let options = Given::required(req.options.as_ref())?;
        let registry = Arc::clone(&self.registry);
        let pid = own(async move {
            let limit = registry.shared.limits.disk;
            let options = options.read_elsewhere(limit).await?;
            registry.create(convert::create(req, options)).await
        })
        .await?;
        Ok(CreateTaskResponse {
            pid: pid.cast_unsigned(),
            ..Default::default()
        })
    }

    async fn start(&self, req: StartRequest) -> Result<StartResponse> {
        let container = self.registry.get(&req.id)?;
        let pid = own(async move { container.start(&req.exec_id).await }).await?;
        Ok(StartResponse {
            pid: pid.cast_unsigned(),
            ..Default::default()
        })
    }

    async fn delete(&self, req: DeleteRequest) -> Result<DeleteResponse> {
        let registry = Arc::clone(&self.registry);
        let deleted = own(async move { registry.delete(&req.id, &req.exec_id).await }).await?;
        Ok(DeleteResponse {
            pid: deleted.pid.cast_unsigned(),
            exit_status: deleted.exit.status,
            exited_at: convert::exited_at(deleted.exit),
            ..Default::default()
        })
    }

    async fn exec(&self, req: ExecProcessRequest) -> Result<Empty> {
        let container = self.registry.get(&req.id)?;
        let Some(spec) = req.spec.into_option() else {
            return Err(Error::invalid_argument(format!(
                "exec {}: spec is absent",
                req.exec_id.escape_debug()
            )));
        };
        let stdio = Stdio {
            stdin: req.stdin,
            stdout: req.stdout,
            stderr: req.stderr,
            terminal: req.terminal,
        };
        container.exec(&req.exec_id, stdio, &spec.value)?;
        Ok(Empty::new())
    }

    async fn kill(&self, req: KillRequest) -> Result<Empty> {
        let container = self.registry.get(&req.id)?;
        own(async move { container.kill(&req.exec_id, req.signal, req.all).await }).await?;
        Ok(Empty::new())
    }

    async fn wait(&self, req: WaitRequest) -> Result<WaitResponse> {
        let exit = self.registry.get(&req.id)?.wait(&req.exec_id).await?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: convert::exited_at(exit),
            ..Default::default()
        })
    }

    async fn state(&self, req: StateRequest) -> Result<StateResponse> {
        let container = self.registry.get(&req.id)?;
        Ok(convert::state(
            &container.bundle,
            &container.snapshot(&req.exec_id)?,
        ))
    }

    async fn pids(&self, req: PidsRequest) -> Result<PidsResponse> {
        let container = self.registry.get(&req.id)?;
        let members = container.with_its_end(container.pids().await)?;
        Ok(PidsResponse {
            processes: members.into_iter().map(convert::process_info).collect(),
            ..Default::default()
        })
    }

    async fn close_io(&self, req: CloseIORequest) -> Result<Empty> {
        let process = self.registry.get(&req.id)?.process(&req.exec_id)?;
        if let (true, Some(io)) = (req.stdin, process.io()) {
            io.close_stdin();
        }
        Ok(Empty::new())
    }

    async fn resize_pty(&self, req: ResizePtyRequest) -> Result<Empty> {
        let container = self.registry.get(&req.id)?;
        container.resize(&req.exec_id, req.width, req.height)?;
        Ok(Empty::new())
    }

    async fn connect(&self, req: ConnectRequest) -> Result<ConnectResponse> {
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.registry.task_pid(&req.id).cast_unsigned(),
            ..Default::default()
        })
    }

    /// While containers remain it is answered and remembered ([`crate::shim`] says what becomes of it);
    /// `now` and `id` mean nothing (contract 2.1).
    async fn shutdown(&self, _req: ShutdownRequest) -> Result<Empty> {
        self.shutdown.send_replace(match self.registry.close() {
            true => Shutdown::Now,
            false => Shutdown::Later,
        });
        Ok(Empty::new())
    }

    async fn pause(&self, req: PauseRequest) -> Result<Empty> {
        let container = self.registry.get(&req.id)?;
        own(async move { container.pause().await }).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, req: ResumeRequest) -> Result<Empty> {
        let container = self.registry.get(&req.id)?;
        own(async move { container.resume().await }).await?;
        Ok(Empty::new())
    }

    async fn checkpoint(&self, req: CheckpointTaskRequest) -> Result<Empty> {
        let container = self.registry.get(&req.id)?;
        let options = convert::checkpoint_options(req.options.as_ref())?;
        own(async move { container.checkpoint(&req.path, &options).await }).await?;
        Ok(Empty::new())
    }

    async fn update(&self, req: UpdateTaskRequest) -> Result<Empty> {
        let container = self.registry.get(&req.id)?;
        let resources = req.resources.into_option();
        let annotations: Vec<String> = req.annotations.into_keys().collect();
        own(async move {
            let json = resources.as_ref().map(|any| any.value.as_slice());
            container.update(json, annotations).await
        })
        .await?;
        Ok(Empty::new())
    }

    async fn stats(&self, req: StatsRequest) -> Result<StatsResponse> {
        let metrics = self.registry.get(&req.id)?.stats()?;
        Ok(StatsResponse {
            stats: Some(convert::metrics(&metrics)?).into(),
            ..Default::default()
        })
    }
}

macro_rules! task_api {
    ($($whose:ident $method:ident($request:ty $(, $exec:ident)?) -> $response:ty;)*) => {
        #[async_trait]
        impl Task for TaskService {
            $(async fn $method(&self, _ctx: &TtrpcContext, req: $request) -> ttrpc::Result<$response> {
                $whose(self);
                let exec: &[&str] = &[$(&req.$exec)?];
                let exec = exec.first().copied().unwrap_or_default();
                let call = self.calls.begin(stringify!($method), &req.id, exec);
                // Boxed, as each layer around it would hold it twice.
                let handler = Box::pin(guarded(TaskService::$method(self, req)));
                call.follow(handler).await.map_err(convert::status)
            })*
        }
    };
}

/// A request that only a client of the manager makes: it has something done ([`crate::events::Clients`]).
fn clients(service: &TaskService) {
    service.clients.act();
}

/// A request that the manager may make by itself, or for whoever lists and measures.
const fn anybodys(_: &TaskService) {}

task_api! {
    anybodys state(StateRequest, exec_id) -> StateResponse;
    clients create(CreateTaskRequest) -> CreateTaskResponse;
    clients start(StartRequest, exec_id) -> StartResponse;
    anybodys delete(DeleteRequest, exec_id) -> DeleteResponse;
    anybodys pids(PidsRequest) -> PidsResponse;
    clients pause(PauseRequest) -> Empty;
    clients resume(ResumeRequest) -> Empty;
    clients checkpoint(CheckpointTaskRequest) -> Empty;
    clients kill(KillRequest, exec_id) -> Empty;
    clients exec(ExecProcessRequest, exec_id) -> Empty;
    clients resize_pty(ResizePtyRequest, exec_id) -> Empty;
    clients close_io(CloseIORequest, exec_id) -> Empty;
    clients update(UpdateTaskRequest) -> Empty;
    anybodys wait(WaitRequest, exec_id) -> WaitResponse;
    anybodys stats(StatsRequest) -> StatsResponse;
    anybodys connect(ConnectRequest) -> ConnectResponse;
    anybodys shutdown(ShutdownRequest) -> Empty;
}
