//! Programs that mount: run for the thread that does the mounts of a Create.
//!
//! Invariant: the monitor alone reaps them, and a program that takes too long is killed together
//! with what it has started.

use std::io;

use nix::sys::signal::Signal;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::container::Shared;
use crate::program::Program;
use crate::runtime::clean_environment;

/// Runs programs for a thread that may block, from within the shim's tokio runtime.
pub(super) fn runner(shared: &Shared) -> impl Fn(&mut Program) -> io::Result<u32> + Send + 'static {
    let (monitor, limit) = (shared.monitor.clone(), shared.limits.mount_program);
    let reactor = Handle::current();
    move |command| {
        clean_environment(command);
        let mut child = monitor.spawn_by(command.name(), || command.leads_group().start())?;
        reactor.block_on(async {
            if let Ok(exit) = timeout(limit, child.exited()).await {
                return Ok(exit.status);
            }
            // ESRCH: it ended just now.
            let _ = child.kill_group(Signal::SIGKILL);
            // One stuck in the kernel may never end.
            let _ = timeout(limit, child.exited()).await;
            Err(io::ErrorKind::TimedOut.into())
        })
    }
}
