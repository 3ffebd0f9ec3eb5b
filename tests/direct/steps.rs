//! Follows the stub and its process, system call by system call, and does something at one of them.
//!
//! A thread of the test's traces the shim and whoever it starts; who becomes any other program is let go at once.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What happens at the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// Who is there is killed.
    Kill,
    /// It is stopped.
    Stop,
    /// The shim is killed.
    KillShim,
}

/// The thread that follows; it lets go when this is dropped.
pub struct Steps {
    plan: Arc<Plan>,
    thread: Option<JoinHandle<()>>,
}

struct Plan {
    shim: i32,
    at: usize,
    blow: Blow,
    seen: AtomicUsize,
    ready: AtomicBool,
    over: AtomicBool,
}

impl Steps {
    /// Follows all stubs of this shim, and strikes at the `at`th step of the first.
    pub fn of(shim: u32, at: usize, blow: Blow) -> Self {
        let plan = Arc::new(Plan {
            shim: shim.cast_signed(),
            at,
            blow,
            seen: AtomicUsize::new(0),
            ready: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let own = Arc::clone(&plan);
        let thread = std::thread::spawn(move || own.follow());
        super::common::eventually("it is followed", || plan.ready.load(SeqCst));
        Self {
            plan,
            thread: Some(thread),
        }
    }

    /// How many steps there have been, and whether that one was among them.
    pub fn seen(&self) -> (usize, bool) {
        let seen = self.plan.seen.load(SeqCst);
        (seen, seen >= self.plan.at)
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.plan.over.store(true, SeqCst);
        let done = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || done.is_none_or(|done| done.is_ok()));
    }
}

fn trace(what: libc::c_uint, pid: i32, data: i32) -> bool {
    // SAFETY: none of the requests that are made here writes to memory of ours.
    unsafe { libc::ptrace(what, pid, 0_usize, i64::from(data)) != -1 }
}

/// Whether a process is the stub.
pub fn is_stub(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"cotter-stub\0"))
}

impl Plan {
    fn follow(&self) {
        let options = libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK
            | libc::PTRACE_O_TRACEEXEC
            | libc::PTRACE_O_TRACESYSGOOD;
        for thread in fs::read_dir(format!("/proc/{}/task", self.shim)).unwrap() {
            let thread = thread
                .unwrap()
                .file_name()
                .into_string()
                .unwrap()
                .parse()
                .unwrap();
            assert!(trace(libc::PTRACE_SEIZE, thread, options), "{thread}");
        }
        self.ready.store(true, SeqCst);
        let mut stubs = BTreeSet::new();
        while !self.over.load(SeqCst) {
            let mut status = 0;
            // What other threads of the test wait for is not taken from them.
            let flags = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
            // SAFETY: it writes one number.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
            match pid {
                1.. if libc::WIFSTOPPED(status) => self.goes_on(pid, status, &mut stubs),
                1.. => drop(stubs.remove(&pid)),
                _ => std::thread::sleep(std::time::Duration::from_micros(50)),
            }
        }
        // With its tracer's thread a tracee is let go.
    }

    fn goes_on(&self, pid: i32, status: i32, stubs: &mut BTreeSet<i32>) {
        const STEP: i32 = libc::SIGTRAP | 0x80;
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        if event == libc::PTRACE_EVENT_EXEC {
            match is_stub(pid) {
                true => stubs.insert(pid),
                false => stubs.remove(&pid),
            };
            if !stubs.contains(&pid) {
                trace(libc::PTRACE_DETACH, pid, 0);
                return;
            }
        }
        // The stub's own, before the stub tells of it.
        if event == libc::PTRACE_EVENT_STOP && signal == libc::SIGTRAP && is_stub(pid) {
            stubs.insert(pid);
        }
        if signal == STEP && stubs.contains(&pid) {
            let seen = self.seen.fetch_add(1, SeqCst) + 1;
            if seen == self.at {
                let (whom, with) = match self.blow {
                    Blow::Kill => (pid, Signal::SIGKILL),
                    Blow::Stop => (pid, Signal::SIGSTOP),
                    Blow::KillShim => (self.shim, Signal::SIGKILL),
                };
                kill(Pid::from_raw(whom), with).unwrap();
            }
        }
        // A stop that is the process's own; until it is continued by who may.
        let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        if event == libc::PTRACE_EVENT_STOP && stops.contains(&signal) {
            trace(libc::PTRACE_LISTEN, pid, 0);
            return;
        }
        let passed = if event == 0 && signal != STEP {
            signal
        } else {
            0
        };
        let how = match stubs.contains(&pid) {
            true => libc::PTRACE_SYSCALL,
            false => libc::PTRACE_CONT,
        };
        trace(how, pid, passed);
    }
}
