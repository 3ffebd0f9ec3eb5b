//! Every child that ends is reaped at once and its exit reported once, to exactly one owner.
//!
//! One SIGCHLD source and one task serve any number of processes. A wake-up looks until nothing is
//! left, because the kernel merges signals that are pending together. The exit of a child started
//! with [`Monitor::spawn`] goes to its [`Child`]; every other exit (descendants that the subreaper
//! flag brought here) goes to one callback. The loop waits for nobody.
//!
//! Nor does anybody wait for the loop, or behind strangers, of whom there may be any number. Each turn
//! first waits for the children that are known ([`Monitor::spawn`], [`Monitor::expect`]), each by its
//! pid, which the kernel finds at once; then [`strangers`] have a short turn, and their turns have a
//! fixed share of the thread.
//!
//! A child may be started on any thread, and starting one holds nothing up: while a spawn is under
//! way somewhere, the loop takes only children of its own thread (`__WNOTHREAD`) and those that are
//! known, by their pids. To the kernel a child belongs to the thread that started it, as long as
//! that thread lives; so none is reaped before it is known, and the `waitpid` with which the standard
//! library collects a failed spawn is never robbed of its child. Reaps and signals exclude each
//! other by one lock, so that a signal never reaches a recycled pid.
//!
//! The kernel gives a subreaper's strangers to its first thread. A loop on another one, as in a
//! test, sees their exits once no spawn is under way.
//!
//! Nothing else in the process may wait for children, but for one that it holds by a pidfd and whose
//! exit it does not need (`mount::userns`): there it does not matter who is first. The module knows pids and statuses only;
//! it needs tokio, nix and signal-hook and nothing of the rest of this crate.
//!
//! Pinned by `tests/monitor.rs`, in a process of its own.

mod child;
mod group;
mod moment;
mod others;
mod reap;
mod share;
mod strangers;
mod supervise;
mod wait;

pub use child::Child;
use child::Streams;
pub(crate) use moment::fields;
pub use moment::{Clocks, Moment};
pub use others::Others;
pub use supervise::{Action, Restart, Streak, Supervised, end, next, supervise};
pub use wait::is_unreaped_child;

use std::collections::{BTreeSet, HashMap};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};
use std::{fs, io};

use nix::sys::prctl;
use nix::sys::signal::{self, SigSet, Signal};
use signal_hook::SigId;
use signal_hook::low_level::{pipe, unregister};
use tokio::sync::{Notify, oneshot};

/// A process id as the kernel numbers them; positive.
pub type Pid = i32;

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The process that ended. The number may belong to another process already.
    pub pid: Pid,
    /// The exit code, or 128 + the number of the signal that ended it.
    pub status: u32,
    /// Taken at the reap.
    pub at: SystemTime,
}

/// The process-wide reaper; clones share it. It ends with its last clone and last [`Child`].
#[derive(Clone, Debug)]
pub struct Monitor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    signal: SigId,
    /// Has the loop look again, without a signal.
    again: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Table {
    /// Children started here and not reaped yet.
    children: HashMap<Pid, Entry>,
    /// Children that others started, and whose exits are waited for.
    expected: BTreeSet<Pid>,
    /// Tells a child from a later one with the same pid.
    next_serial: u64,
    /// Spawns that are under way. What they start is not in `children` yet.
    starting: usize,
    /// The loop has looked while some were.
    looked_meanwhile: bool,
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    exit: oneshot::Sender<Exit>,
    /// What people are told that it is.
    what: Box<str>,
    since: Instant,
}

/// A child that has not been reaped, for people to see.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its process id.
    pub pid: Pid,
    /// What it is.
    pub what: String,
    /// When it was started.
    pub since: Instant,
}

/// Two reapers would take each other's exits.
static RUNNING: AtomicBool = AtomicBool::new(false);

impl Table {
    /// Whether the pid still belongs to the child with this serial.
    fn unreaped(&self, pid: Pid, serial: u64) -> bool {
        let entry = self.children.get(&pid);
        entry.is_some_and(|entry| entry.serial == serial)
    }

    /// Children of this process that are not here. The first thread gets those that others leave, and
    /// those of its own threads when these end: by then they are in the table.
    fn adopted(&self) -> io::Result<Vec<Pid>> {
        let first = std::process::id();
        let list = fs::read_to_string(format!("/proc/self/task/{first}/children"))?;
        let mut all = pids(&list);
        all.retain(|pid| !self.children.contains_key(pid));
        Ok(all)
    }
}

/// A spawn that is under way.
struct Starting<'a>(&'a Shared);

impl<'a> Starting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.lock().starting += 1;
        Self(shared)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut table = self.0.lock();
        table.starting -= 1;
        // What it started may have ended already, and the loop have passed it over.
        if std::mem::take(&mut table.looked_meanwhile) {
            self.0.again.notify_one();
        }
    }
}

impl Monitor {
    /// Makes this process a subreaper and starts the reap loop as one task on the current tokio
    /// runtime.
    ///
    /// `others` is told of every exit that is no child of [`Monitor::spawn`]. Fails with
    /// `AlreadyExists` while another monitor runs in this process.
    pub fn start(others: impl Others) -> io::Result<Monitor> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        if RUNNING.swap(true, Ordering::AcqRel) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a monitor is already running in this process",
            ));
        }
        let (monitor, signals) = Self::register().inspect_err(|_| {
            RUNNING.store(false, Ordering::Release);
        })?;
        let again = Arc::clone(&monitor.shared.again);
        let shared = Arc::downgrade(&monitor.shared);
        runtime.spawn(reap::reap_loop(signals, again, shared, others));
        Ok(monitor)
    }

    fn register() -> io::Result<(Monitor, tokio::net::UnixStream)> {
        prctl::set_child_subreaper(true)?;
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        let signals = tokio::net::UnixStream::from_std(read)?;
        let signal = pipe::register(signal::SIGCHLD as i32, write)?;
        let shared = Arc::new(Shared {
            table: Mutex::default(),
            signal,
            again: Arc::default(),
        });
        // A mask inherited over exec could keep the handler from ever running.
        SigSet::from(Signal::SIGCHLD).thread_unblock()?;
        Ok((Monitor { shared }, signals))
    }

    /// Starts a child whose exit comes to the returned handle only, however fast it ends.
    ///
    /// The call returns once the child has called `execve`, as the standard library does. `command`
    /// keeps its descriptors: drop it to close the caller's copies.
    ///
    /// The calling thread waits, no other one does. Should it be one that soon ends, the child must
    /// not ask for a signal at its parent's death (`PR_SET_PDEATHSIG`): the kernel means the thread.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let path = std::path::Path::new(command.get_program());
        let name = path.file_name().unwrap_or(path.as_os_str());
        let what = name.to_string_lossy().into_owned();
        self.spawn_as(command, what)
    }

    /// [`spawn`](Self::spawn), with other words than the program's name for what it is.
    pub fn spawn_as(&self, command: &mut Command, what: String) -> io::Result<Child> {
        let mut streams = Streams::default();
        let start = || {
            let mut child = command.spawn()?;
            streams = Streams::of(&mut child);
            // A pid_t always fits: the kernel's limit is 2^22.
            Pid::try_from(child.id()).map_err(io::Error::other)
        };
        let mut child = self.spawn_by(what, start)?;
        child.streams = streams;
        Ok(child)
    }

    /// [`spawn`](Self::spawn) in a way of the caller's: `start` answers the pid of a child that it has just
    /// made, on the calling thread, and has reaped what came to nothing.
    pub fn spawn_by(
        &self,
        what: String,
        start: impl FnOnce() -> io::Result<Pid>,
    ) -> io::Result<Child> {
        let starting = Starting::new(&self.shared);
        let pid = start()?;
        let (exit, receiver) = oneshot::channel();
        let mut table = self.shared.lock();
        let serial = table.next_serial;
        table.next_serial += 1;
        let entry = Entry {
            serial,
            exit,
            what: what.into(),
            since: Instant::now(),
        };
        table.children.insert(pid, entry);
        drop(table);
        drop(starting);
        Ok(Child::new(self.clone(), (pid, serial), receiver))
    }

    /// This child, which no [`Monitor::spawn`] started, is waited for, until it is reaped: its exit
    /// comes in time whatever other children do.
    pub fn expect(&self, pid: Pid) {
        self.shared.lock().expected.insert(pid);
    }

    /// Children of [`Monitor::spawn`] that are not reaped yet, dropped handles included.
    pub fn live_children(&self) -> usize {
        self.shared.lock().children.len()
    }

    /// The same one by one, oldest first.
    pub fn running(&self) -> Vec<Running> {
        let table = self.shared.lock();
        let running = |(&pid, entry): (&Pid, &Entry)| Running {
            pid,
            what: entry.what.to_string(),
            since: entry.since,
        };
        let mut all: Vec<Running> = table.children.iter().map(running).collect();
        drop(table);
        all.sort_by_key(|running| running.since);
        all
    }

    /// Children of this process, not reaped yet, that no [`Monitor::spawn`] started: the subreaper
    /// flag brought them here. On the thread of the reap loop, and up to its next await, the pids
    /// stay theirs.
    pub fn adopted(&self) -> io::Result<Vec<Pid>> {
        self.shared.lock().adopted()
    }

    /// Sends a signal to those of the [`adopted`](Self::adopted) that are `meant`, which is asked under the
    /// lock: meanwhile none is reaped, so that the signal goes to the process that the answer is about.
    ///
    /// # Errors
    /// When the children cannot be read. One that has ended and is not reaped takes any signal.
    pub fn kill_adopted(&self, meant: impl Fn(Pid) -> bool, signal: Signal) -> io::Result<usize> {
        let table = self.shared.lock();
        let mut adopted = table.adopted()?;
        adopted.retain(|pid| meant(*pid));
        for pid in &adopted {
            let _ = signal::kill(nix::unistd::Pid::from_raw(*pid), signal);
        }
        Ok(adopted.len())
    }
}

/// The children of a process, named as in `/proc`, that are not reaped yet.
///
/// # Errors
/// It is gone, or could not be read.
pub fn children(process: &str) -> io::Result<Vec<Pid>> {
    let mut all = Vec::new();
    // A child belongs to the thread that forked it or got it.
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        match fs::read_to_string(thread?.path().join("children")) {
            // The thread has just ended; its children went to another one.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
            list => all.extend(pids(&list?)),
        }
    }
    Ok(all)
}

/// What a `children` file lists.
fn pids(list: &str) -> Vec<Pid> {
    let pids = list.split_ascii_whitespace();
    pids.filter_map(|pid| pid.parse().ok()).collect()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Closes the write end, so the loop reads the end of the stream and ends.
        unregister(self.signal);
        RUNNING.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Instant, Table, oneshot};

    #[test]
    fn a_recycled_pid_is_another_child() {
        let mut table = Table::default();
        let (exit, _receiver) = oneshot::channel();
        let entry = Entry {
            serial: 1,
            exit,
            what: "a child".into(),
            since: Instant::now(),
        };
        table.children.insert(7, entry);
        assert!(table.unreaped(7, 1));
        assert!(!table.unreaped(7, 0), "an earlier owner of the pid");
        assert!(!table.unreaped(8, 1));
    }
}
