//! An exec without the runtime: the shim itself puts the process into the container.
//!
//! Invariant: the process is the one that the runtime would have made, to the last byte, or the runtime makes it.
//! Nothing is refused here and no error is ours: whatever is not understood, fails before the program runs, or
//! takes too long is a [`Reason`], and the runtime's exec follows. Exactly one process ever runs the program.
//!
//! | question | module |
//! |---|---|
//! | Which runtimes are known? | [`version`] |
//! | What does the runtime keep of the container? | [`kept`], pure; [`known`] asks |
//! | Can this exec be done here, and what is it then? | [`mod@decide`], pure |
//! | Which system calls is that, in which order? | [`plan`] of [`calls`], pure, on a [`sheet`] |
//! | Its filter of system calls? | [`filter`]; what only the kernel has is [`taken`] |
//! | Who does it? | [`stub`] (the program is `stub/`), as [`run`] has it |
//!
//! What each runtime does was read and measured: the sources are told where something depends on them. Pinned by
//! `tests/direct` and `tests/enter`, which compare what a process can see with what it sees when its runtime has made it.

mod calls;
mod capabilities;
mod decide;
mod filter;
mod kept;
mod known;
#[path = "../../stub/orders.rs"]
#[cfg_attr(not(test), allow(dead_code))]
mod orders;
#[path = "../../stub/passwd.rs"]
#[cfg_attr(not(test), allow(dead_code))]
mod passwd;
mod plan;
mod run;
mod sheet;
mod stub;
mod taken;
mod version;

/// Why an exec is its runtime's.
pub type Reason = &'static str;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::cgroup::Cgroup;
use crate::monitor::Pid;
use crate::pidfd;
use crate::runtime::{Fds, Runtime};
use crate::spec::{LONGEST, read_own};
use decide::decide;
use filter::Program;
use kept::{Filter, Kept};
use known::{
    GONE, Identity, Known, MOVED, apparmor, elsewhere, is_full, membership, most_files, owned,
};
use plan::Plan;

use run::Given;

pub use run::Outcome;

/// How long the stub may take. It is a hundredth of that on a busy machine, and the runtime follows.
const LIMIT: Duration = Duration::from_secs(5);

/// So many failures in a row, and a container's execs are the runtime's: each costs both ways.
const ENOUGH: u32 = 3;

/// How the execs of one container are done.
#[derive(Debug, Default)]
pub struct Direct {
    /// Found out at the first exec, also that there will be none.
    known: OnceCell<Result<Known, Reason>>,
    /// Of a container whose runtime keeps none: taken from its init, while that waits to be started.
    filter: OnceLock<Result<Program, Reason>>,
    counts: Mutex<Counts>,
}

/// No container is left: what all have shared is made again for the next.
pub fn rest() {
    stub::forget();
}

/// How many were done how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Without the runtime.
    pub direct: u64,
    /// By the runtime, for each reason.
    pub runtime: BTreeMap<Reason, u64>,
    /// Attempts that failed one after another.
    failed: u32,
}

/// One exec.
pub struct Exec<'a> {
    /// The container's runtime.
    pub runtime: &'a Runtime,
    /// The container's id.
    pub id: &'a str,
    /// The OCI process.
    pub spec: &'a [u8],
    /// Its streams.
    pub fds: &'a Fds,
    /// Its init, which runs and is not reaped, up to the next await.
    pub init: Pid,
    /// Its cgroup.
    pub cgroup: Option<&'a Cgroup>,
}

impl Direct {
    /// Takes what can be had only now that its init is there and waits to be started.
    pub async fn is_created(&self, runtime: &Runtime, id: &str, init: Pid) {
        let directory = runtime.root.join(id);
        let state = directory.join("state.json");
        let flags = elsewhere("read", &directory, move || {
            match read_own(&state, LONGEST) {
                Ok(state) => Kept::of_runc(&state).map(|kept| kept.filter),
                Err(_) => Ok(Filter::None),
            }
        });
        if let Ok(Ok(Filter::Kernel(flags))) = flags.await {
            let filter = taken::filter(&runtime.monitor, init, flags, LIMIT).await;
            let _ = self.filter.set(filter);
        }
    }

    /// Does it, or says why not.
    pub async fn exec(&self, exec: Exec<'_>) -> Outcome {
        let outcome = match self.begin(&exec).await {
            Ok((plan, init, fds, binary)) => {
                let what = format!("direct exec in {}", exec.id);
                let monitor = &exec.runtime.monitor;
                let init = Some(init);
                let given = Given { fds, init };
                run::run(monitor, what, plan, given, move || binary.is_there(), LIMIT).await
            }
            Err(reason) => {
                self.is_the_runtimes(exec.id, reason);
                return Outcome::Not(reason, Vec::new());
            }
        };
        match &outcome {
            Outcome::Runs(_) => {
                let mut counts = self.lock();
                counts.direct += 1;
                counts.failed = 0;
            }
            Outcome::Not(reason, _) => {
                // A program that is not there is no flaw of this way.
                self.lock().failed += u32::from(!ASKED_FOR.contains(reason));
                self.is_the_runtimes(exec.id, reason);
            }
        }
        outcome
    }

    /// How many were done how.
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more; each reason is told once.
    fn is_the_runtimes(&self, id: &str, reason: Reason) {
        let mut counts = self.lock();
        let count = counts.runtime.entry(reason).or_default();
        *count += 1;
        if *count == 1 {
            log::info!("container {id}: execs by its runtime: {reason}");
        }
    }

    /// All that is to be had before anything is done.
    async fn begin(
        &self,
        exec: &Exec<'_>,
    ) -> Result<(sheet::Orders, OwnedFd, Fds, Identity), Reason> {
        if self.lock().failed >= ENOUGH {
            return Err("too many attempts in this container have failed");
        }
        let init = pidfd::open(exec.init.unsigned_abs()).map_err(|_| GONE)?;
        let init = init.pollable().ok_or("this kernel has no pidfds")?;
        let init = init
            .try_clone_to_owned()
            .map_err(|_| "no descriptor can be had")?;
        let known = self
            .known
            .get_or_init(|| Known::find(exec, self.filter.get()));
        let known = known.await.as_ref().map_err(|reason| *reason)?;
        if exec.cgroup.and_then(Cgroup::is_frozen) != Some(false) {
            return Err("the container is frozen, or may be");
        }
        if membership(exec.init)? != known.membership {
            return Err(MOVED);
        }
        if known.groups.pids.is_none() && exec.cgroup.is_some_and(is_full) {
            return Err("its cgroup is at its limit of processes");
        }
        let wanted = decide(exec.spec, &known.kept, known.ways)?;
        let owned = owned(exec.fds)?;
        let apparmor = match wanted.apparmor {
            Some(_) => apparmor()?,
            None => Path::new(""),
        };
        let plan = Plan {
            wanted: &wanted,
            kept: &known.kept,
            ways: known.ways,
            filter: known.filter.as_ref(),
            groups: &known.groups,
            apparmor,
            owned,
            most_files: most_files()?,
            last_capability: known.last_capability,
            stub: stub::identity().map_err(|why| {
                log::debug!("direct exec: make the stub: {why}");
                "the stub cannot be made"
            })?,
        };
        let orders = plan.orders()?;
        let fds = exec
            .fds
            .try_clone()
            .map_err(|_| "no descriptor can be had")?;
        Ok((orders, init, fds, known.binary.clone()))
    }
}

const DIRECTORY: Reason = "its working directory could not be entered";
const HOME: Reason = "its home could not be looked up";
const PROGRAM: Reason = "its program could not be run";

/// Failures that are what was asked for.
const ASKED_FOR: [Reason; 3] = [DIRECTORY, HOME, PROGRAM];

/// The reason that a step's failure is.
fn reason_of(step: &str) -> Reason {
    match step {
        "cgroups" | "join" => "a cgroup could not be joined",
        "AppArmor profile" => "its AppArmor profile could not be set",
        "namespaces" => "its namespaces could not be joined",
        "fork" => "no process could be made",
        "filter of system calls" => "its filter of system calls could not be loaded",
        "working directory" => DIRECTORY,
        "home" => HOME,
        "program" => PROGRAM,
        _ => "a step of its set-up failed",
    }
}
