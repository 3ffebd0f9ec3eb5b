//! Exec: register a further process. Nothing runs until it is started (contract 2.4).
//!
//! Invariant: an exec id names at most one process of its container, from here to its Delete.

use std::sync::{Arc, PoisonError};

use crate::container::state::{InitOp, init_allows};
use crate::container::{Container, Process, files};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::proto::events::TaskExecAdded;
use crate::spec;
use crate::stdio::{self, Stdio};

impl Container {
    /// Registers an exec with its OCI process as JSON.
    ///
    /// # Errors
    /// A refusal by the state, a taken id, or what is wrong with the request; nothing changes then.
    pub fn exec(self: &Arc<Self>, exec_id: &str, stdio: Stdio, process: &[u8]) -> Result<()> {
        files::check_id("exec", exec_id)?;
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        if execs.contains_key(exec_id) {
            return Err(Error::already_exists(format!("id {exec_id}")));
        }
        init_allows(self.init.facts().state, InitOp::Exec)?;
        let process = spec::exec_process(process, stdio.terminal)?;
        stdio::plan(&stdio).map_err(|e| e.context("failed to create exec process I/O"))?;
        let exec = Process::new(Arc::downgrade(self), &self.id, exec_id, stdio, process);
        execs.insert(exec_id.to_owned(), Arc::new(exec));
        self.shared
            .tracker
            .queue()
            .push(Event::ExecAdded(TaskExecAdded {
                container_id: self.id.clone(),
                exec_id: exec_id.to_owned(),
                ..Default::default()
            }));
        Ok(())
    }
}
