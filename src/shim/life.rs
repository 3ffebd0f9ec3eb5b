//! When a shim has served its purpose.
//!
//! Invariant: a shim with a container never ends by itself, and one that nobody needs any more does;
//! nobody is made a promise by a shim that is about to break it: from the decision on no Create is
//! accepted, and a connection that came before it is served instead.
//!
//! The Go shim ends on a Shutdown without containers, and forgets one that comes too early; a manager
//! that deletes a pod's first container before the others, or that dies before its first Create, leaves
//! such a shim behind for good (contract 10.4). tests/pods ends shims in all these ways.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::container::Registry;
use crate::limits::Limits;
use crate::service::Shutdown;

/// What there is to decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    /// Containers, those that are being made included.
    containers: usize,
    /// Clients that are connected.
    connections: usize,
    /// Whether a Shutdown has come, now or while there still were containers.
    asked: bool,
    /// Whether its one container, of no pod, has been deleted.
    deleted: bool,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is needed.
    Stay,
    /// It ends unless something changes for as long as this.
    EndAfter(Duration),
}

/// A Shutdown that came too early still counts, but not at once: the manager that deletes the last
/// container is about to ask again, and one that loses the connection before that takes it for a crash.
///
/// That crash is wanted where a client of containerd's died during Delete: containerd then neither asks for
/// the end nor forgets the task, which is "not created" to whoever asks for it and "already exists" to whoever
/// makes it, until the shim is gone. It tells the exit once more then, as it was.
fn decide(facts: Facts, limits: &Limits) -> Verdict {
    match facts {
        Facts {
            containers: 1.., ..
        } => Verdict::Stay,
        Facts { asked: true, .. } => Verdict::EndAfter(limits.leave),
        Facts { deleted: true, .. } => Verdict::EndAfter(limits.deleted),
        Facts { connections: 0, .. } => Verdict::EndAfter(limits.orphan),
        Facts { .. } => Verdict::Stay,
    }
}

/// Ends when the shim is not needed any more. `last_look` is told to make the shim unreachable, unless
/// somebody is waiting to be let in; it answers whether it did.
pub(super) async fn unneeded(
    registry: Arc<Registry>,
    mut connections: watch::Receiver<usize>,
    mut shutdown: watch::Receiver<Shutdown>,
    last_look: impl Fn() -> bool,
) {
    let mut containers = registry.count();
    loop {
        let facts = Facts {
            containers: *containers.borrow_and_update(),
            connections: *connections.borrow_and_update(),
            asked: *shutdown.borrow_and_update() != Shutdown::Never,
            deleted: registry.had_its_one(),
        };
        let change = async {
            tokio::select! {
                // Their senders live as long as the server.
                _ = containers.changed() => {}
                _ = connections.changed() => {}
                _ = shutdown.changed() => {}
            }
        };
        match decide(facts, &registry.shared.limits) {
            Verdict::Stay => change.await,
            Verdict::EndAfter(grace) if timeout(grace, change).await.is_ok() => {}
            Verdict::EndAfter(_) => {
                if !registry.close() {
                    continue;
                }
                if last_look() {
                    log::info!("ending: {facts:?}");
                    return;
                }
                registry.reopen();
                // Whoever waits is let in before the next look.
                tokio::task::yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_grid() {
        let limits = Limits::default();
        let [leave, orphan, gone] =
            [limits.leave, limits.orphan, limits.deleted].map(Verdict::EndAfter);
        for (containers, connections, asked, deleted, expected) in [
            (0, 0, false, false, orphan),
            (0, 0, true, false, leave),
            (0, 1, false, false, Verdict::Stay),
            (0, 1, true, false, leave),
            (0, 0, false, true, gone),
            (0, 1, false, true, gone),
            (0, 1, true, true, leave),
            (1, 0, false, false, Verdict::Stay),
            (1, 0, true, false, Verdict::Stay),
            (1, 1, false, false, Verdict::Stay),
            (2, 7, true, false, Verdict::Stay),
        ] {
            let facts = Facts {
                containers,
                connections,
                asked,
                deleted,
            };
            assert_eq!(decide(facts, &limits), expected, "{facts:?}");
        }
    }
}
