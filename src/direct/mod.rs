//! An exec without the runtime: the shim itself puts the process into the container.
//!
//! Invariant: the process is the one that the runtime would have made, to the last byte, or the runtime makes it.
//! Nothing is refused here and no error is ours: whatever is not understood, fails before the program runs, or
//! takes too long is a [`Reason`], and the runtime's exec follows. Exactly one process ever runs the program.
//!
//! | question | module |
//! |---|---|
//! | Which runtimes are known? | [`version`] |
//! | What does the runtime keep of the container? | [`kept`] |
//! | Can this exec be done here, and what is it then? | [`decide`], pure |
//! | Which system calls is that, in which order? | [`plan`], pure, on a [`sheet`] |
//! | Its filter of system calls? | [`filter`] |
//! | Who does it? | [`stub`] (the program is `stub/`), as [`run`] has it |
//!
//! What each runtime does was read and measured: the sources are told where something depends on them. Pinned by
//! `tests/direct`, which compares what a process can see with what it sees when its runtime has made it.

mod capabilities;
mod decide;
mod filter;
mod kept;
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
mod version;

/// Why an exec is its runtime's.
pub type Reason = &'static str;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Pid as Number, SysconfVar, sysconf};

use crate::blocking::{Job, within};
use crate::cgroup::{Cgroup, Joined, Version};
use crate::kernel_file;
use crate::monitor::Pid;
use crate::pidfd;
use crate::runtime::{Fds, Runtime};
use crate::spec::{LONGEST, read_own};
use decide::{Wanted, decide};
use filter::Program;
use kept::{Cgroups, Filter, Kept};
use plan::{Groups, Plan};
use version::Ways;

use run::Given;

pub use run::Outcome;

/// How long the stub may take. It is a hundredth of that on a busy machine, and the runtime follows.
const LIMIT: Duration = Duration::from_secs(5);

/// So many failures in a row, and a container's execs are the runtime's: each costs both ways.
const ENOUGH: u32 = 3;

/// How the execs of one container are done.
#[derive(Debug, Default)]
pub struct Direct {
    /// Found out at the first exec.
    known: Mutex<Option<Arc<Known>>>,
    /// Of a container whose runtime keeps none: taken from its init, while that waits to be started.
    filter: OnceLock<Result<Program, Reason>>,
    counts: Mutex<Counts>,
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

/// What an exec depends on beside its spec.
#[derive(Debug)]
struct Known {
    kept: Kept,
    ways: Ways,
    binary: Identity,
    filter: Option<Program>,
    groups: Groups,
    /// Where init was then: `/proc/<pid>/cgroup`.
    membership: Vec<u8>,
    last_capability: usize,
}

/// A runtime's program, by its file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
    changed: (i64, i64),
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

/// What has to hold and is asked of the system.
const GONE: Reason = "the container's init is gone";
const MOVED: Reason = "the container is not in the cgroups in which its runtime put it";
const BINARY: Reason = "the runtime's program cannot be told";

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
            let filter = Program::of(&runtime.monitor, init, flags, LIMIT).await;
            let _ = self.filter.set(filter);
        }
    }

    /// Does it, or says why not.
    pub async fn exec(&self, exec: Exec<'_>) -> Outcome {
        let outcome = match self.begin(&exec).await {
            Ok((plan, init, fds, binary)) => {
                let what = format!("direct exec in {}", exec.id);
                let monitor = &exec.runtime.monitor;
                {
                    let init = Some(init);
                    let given = Given { fds, init };
                    run::run(monitor, what, plan, given, move || binary.is_there(), LIMIT).await
                }
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
                self.lock().failed += 1;
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
        let known = self.known(exec).await?;
        if exec.cgroup.and_then(Cgroup::is_frozen) != Some(false) {
            return Err("the container is frozen, or may be");
        }
        if membership(exec.init)? != known.membership {
            return Err(MOVED);
        }
        let wanted = decide(exec.spec, &known.kept, known.ways)?;
        let owned = owned(exec.fds)?;
        let plan = known.plan(&wanted, owned);
        let orders = plan.orders().ok_or("its spec is too long")?;
        let fds = exec
            .fds
            .try_clone()
            .map_err(|_| "no descriptor can be had")?;
        Ok((orders, init, fds, known.binary.clone()))
    }

    async fn known(&self, exec: &Exec<'_>) -> Result<Arc<Known>, Reason> {
        let known = |known: &Mutex<Option<Arc<Known>>>| {
            known.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        if let Some(known) = known(&self.known) {
            return Ok(known);
        }
        let found = Arc::new(Known::find(exec, self.filter.get()).await?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(known.get_or_insert(found)))
    }
}

impl Known {
    async fn find(
        exec: &Exec<'_>,
        filter: Option<&Result<Program, Reason>>,
    ) -> Result<Self, Reason> {
        let membership = membership(exec.init)?;
        let cgroup = exec.cgroup.ok_or(MOVED)?;
        if cgroup.version() == Version::V2 {
            return Err("cgroup v2 is not known well enough");
        }
        let own = kernel_file::bytes("/proc/self/cgroup").map_err(|_| MOVED)?;
        let joined = cgroup.joined(&own).ok_or(MOVED)?;
        if !has_all_processors() {
            return Err("the shim may not use all processors, and runtimes let execs do so");
        }
        let binary = exec.runtime.binary.clone();
        let directory = exec.runtime.root.join(exec.id);
        let identity = elsewhere("look at", &binary.clone(), move || Identity::of(&binary)).await?;
        let identity = identity.ok_or(BINARY)?;
        let text = exec.runtime.version().await.map_err(|_| BINARY)?;
        let ways = Ways::of(&String::from_utf8_lossy(&text));
        let ways = ways.ok_or("this version of the runtime is not known")?;
        let taken = filter.cloned();
        let read = move || read(&directory, ways, taken);
        let (kept, filter) = elsewhere("read", &exec.runtime.root.join(exec.id), read).await??;
        Ok(Self {
            groups: groups(&joined, &kept.cgroups)?,
            kept,
            ways,
            binary: identity,
            filter,
            membership,
            last_capability: last_capability()?,
        })
    }

    fn plan<'a>(&'a self, wanted: &'a Wanted, owned: [bool; 3]) -> Plan<'a> {
        Plan {
            wanted,
            kept: &self.kept,
            ways: self.ways,
            filter: self.filter.as_ref(),
            groups: &self.groups,
            owned,
            last_capability: self.last_capability,
        }
    }
}

impl Identity {
    /// Of the file that would be run.
    fn of(binary: &Path) -> Option<Self> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let mut paths = crate::program::candidates(binary, &paths).into_iter();
        paths.find_map(|path| {
            let file = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
            Some(Self {
                path,
                device: file.dev(),
                inode: file.ino(),
                changed: (file.ctime(), file.ctime_nsec()),
            })
        })
    }

    /// Whether it is still that file. Asks its disk.
    fn is_there(&self) -> Result<(), Reason> {
        match Self::of(&self.path).as_ref() == Some(self) {
            true => Ok(()),
            false => Err("the runtime's program is another than at the first exec"),
        }
    }
}

/// Runs what asks a disk.
async fn elsewhere<T: Send + 'static>(
    what: &str,
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Reason> {
    let job = Job {
        name: "direct-exec",
        what: format!("{what} {}", path.display()),
        limit: LIMIT,
    };
    within(job, work).await.map_err(|why| {
        log::debug!("direct exec: {why}");
        "what the runtime keeps of the container cannot be read"
    })
}

/// What the runtime keeps, and the filter.
fn read(
    directory: &Path,
    ways: Ways,
    taken: Option<Result<Program, Reason>>,
) -> Result<(Kept, Option<Program>), Reason> {
    let file = |name: &str| {
        let read = read_own(&directory.join(name), LONGEST);
        read.map_err(|_| "what the runtime keeps of the container cannot be read")
    };
    let filter = directory.join("seccomp.bpf");
    let kept = match ways.is_runc() {
        true => Kept::of_runc(&file("state.json")?)?,
        false => Kept::of_crun(&file("status")?, &file("config.json")?, filter.exists())?,
    };
    let program = match kept.filter {
        Filter::None => None,
        Filter::File(flags) => Some(Program::read(&filter, flags)?),
        Filter::Kernel(_) => {
            Some(taken.ok_or("its filter of system calls is in the kernel only")??)
        }
    };
    Ok((kept, program))
}

fn membership(pid: Pid) -> Result<Vec<u8>, Reason> {
    kernel_file::bytes(format!("/proc/{pid}/cgroup")).map_err(|_| GONE)
}

/// The cgroups that are to be joined: those in which init is, which are those that its runtime has made.
fn groups(joined: &[Joined<'_>], kept: &Cgroups) -> Result<Groups, Reason> {
    let is_kept = |joined: &Joined<'_>| match kept {
        Cgroups::In(all) => all.iter().any(|path| path == joined.dir),
        Cgroups::Below(path) => {
            let below = path.strip_prefix('/').unwrap_or(path);
            !below.is_empty() && joined.mount_point.join(below) == joined.dir
        }
    };
    let is_joined = |path: &PathBuf| joined.iter().any(|joined| joined.dir == path);
    let all = match kept {
        Cgroups::In(all) => all.iter().all(is_joined),
        Cgroups::Below(_) => true,
    };
    if !all || joined.is_empty() || !joined.iter().all(is_kept) {
        return Err(MOVED);
    }
    let mut groups = Groups::default();
    for one in joined {
        let dir = one.dir.to_owned();
        match one.controllers {
            [] => groups.v2 = Some(dir),
            names if names.iter().any(|name| name == "pids") => groups.pids = Some(dir),
            _ => groups.v1.push(dir),
        }
    }
    Ok(groups)
}

/// Which of the streams become the user's: pipes do.
fn owned(fds: &Fds) -> Result<[bool; 3], Reason> {
    let mut owned = [false; 3];
    for (owned, fd) in owned.iter_mut().zip([&fds.stdin, &fds.stdout, &fds.stderr]) {
        let Some(fd) = fd else { continue };
        let kind =
            fstat(fd.as_fd()).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        *owned = kind == Ok(SFlag::S_IFIFO);
        if !*owned {
            return Err("its streams are no pipes");
        }
    }
    Ok(owned)
}

fn has_all_processors() -> bool {
    let all = sysconf(SysconfVar::_NPROCESSORS_CONF).ok().flatten();
    let own = sched_getaffinity(Number::from_raw(0)).map(|set| {
        (0..CpuSet::count())
            .filter(|cpu| set.is_set(*cpu).unwrap_or_default())
            .count()
    });
    all.is_some_and(|all| own.is_ok_and(|own| usize::try_from(all) == Ok(own)))
}

fn last_capability() -> Result<usize, Reason> {
    static LAST: OnceLock<Option<usize>> = OnceLock::new();
    let read = || {
        kernel_file::text("/proc/sys/kernel/cap_last_cap")
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    LAST.get_or_init(read)
        .ok_or("the kernel does not tell its capabilities")
}

/// The reason that a step's failure is.
fn reason_of(step: &str) -> Reason {
    match step {
        "cgroups" | "join" => "a cgroup could not be joined",
        "namespaces" => "its namespaces could not be joined",
        "fork" => "no process could be made",
        "filter of system calls" => "its filter of system calls could not be loaded",
        "working directory" => "its working directory could not be entered",
        "home" => "its home could not be looked up",
        "program" => "its program could not be run",
        _ => "a step of its set-up failed",
    }
}
