//! A child between its making and its exec.
//!
//! Invariant: in the child, from its making to its exec or its end, runs [`be`] and nothing else. It shares
//! this process's memory (`CLONE_VM`) and the calling thread, which the kernel holds meanwhile
//! (`CLONE_VFORK`), has lent it its thread-local storage. So it makes system calls on what was made ready
//! before, writes to nothing but its own stack, `errno`, and the two words in which it says what failed, takes
//! no lock, allocates nothing and does not panic. All signals are blocked from before its making until each
//! has its default meaning: no handler of ours runs in it, where it would write to our pipes.
//!
//! What it is given of the process beside that memory are copies, of descriptors, dispositions, the limits
//! and the working directory, so that nothing it sets touches us.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use nix::errno::Errno;

/// The child's stack: it calls nothing deep, and no signal can come.
const STACK: usize = 16 * 1024;

/// Bytes of a set of signals, as the kernel has it.
const SET: usize = size_of::<u64>();

/// All that a child has to do.
pub(super) struct Plan<'a> {
    /// Tried one after the other, as execvp(3) does.
    pub paths: Vec<CString>,
    pub args: Vec<CString>,
    pub environment: Vec<CString>,
    pub directory: Option<CString>,
    /// What is to have the numbers from 0 up.
    pub descriptors: &'a [BorrowedFd<'a>],
    pub leads_group: bool,
    pub open_files: Option<&'a libc::rlimit>,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Step {
    Make,
    Group,
    Directory,
    Descriptors,
    Exec,
}

/// The same for the child: lists end with a null pointer, what is absent is one.
struct Orders {
    paths: *const *const libc::c_char,
    args: *const *const libc::c_char,
    environment: *const *const libc::c_char,
    directory: *const libc::c_char,
    descriptors: *mut RawFd,
    count: RawFd,
    leads_group: bool,
    open_files: *const libc::rlimit,
    /// What failed, said by the child.
    failed: Option<(Step, i32)>,
}

impl Plan<'_> {
    /// Makes the child; answers its pid once it runs the program.
    pub(super) fn start(&self) -> Result<libc::pid_t, (Step, Errno)> {
        let (paths, args) = (pointers(&self.paths), pointers(&self.args));
        let environment = pointers(&self.environment);
        let raw = self.descriptors.iter().map(AsRawFd::as_raw_fd);
        let mut descriptors: Vec<RawFd> = raw.collect();
        let count = RawFd::try_from(descriptors.len()).map_err(|_| (Step::Make, Errno::E2BIG))?;
        let mut orders = Orders {
            paths: paths.as_ptr(),
            args: args.as_ptr(),
            environment: environment.as_ptr(),
            directory: self
                .directory
                .as_ref()
                .map_or(ptr::null(), |dir| dir.as_ptr()),
            descriptors: descriptors.as_mut_ptr(),
            count,
            leads_group: self.leads_group,
            open_files: self.open_files.map_or(ptr::null(), ptr::from_ref),
            failed: None,
        };
        let mut stack = MaybeUninit::<[u8; STACK]>::uninit();
        let blocked = Blocked::all();
        // Needed because no safe way of starting a child sets what has to be set in it; see the module.
        // SAFETY: the stack is this function's, which the kernel keeps from returning until the child has
        // called exec or has ended; so are the orders and all they point to. The end of the stack is
        // aligned as every architecture wants it. `be` keeps to what may be done there.
        let made = unsafe {
            let end = stack.as_mut_ptr().cast::<u8>().add(STACK);
            let end = end.sub(end.addr() % 16);
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            Errno::result(libc::clone(be, end.cast(), flags, (&raw mut orders).cast()))
        };
        drop(blocked);
        let pid = made.map_err(|why| (Step::Make, why))?;
        // SAFETY: a live local, which the child has written to, if at all, before the kernel let this
        // thread go on. Volatile, since the compiler does not see who writes.
        match unsafe { (&raw const orders.failed).read_volatile() } {
            None => Ok(pid),
            Some((step, why)) => {
                collect(pid);
                Err((step, Errno::from_raw(why)))
            }
        }
    }
}

fn pointers(texts: &[CString]) -> Vec<*const libc::c_char> {
    let texts = texts.iter().map(|text| text.as_ptr());
    texts.chain([ptr::null()]).collect()
}

/// Reaps a child that did not come to its exec. ECHILD: somebody has the kernel do it.
fn collect(pid: libc::pid_t) {
    // SAFETY: nobody asks for the status: a null pointer is what the call documents for that.
    while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } < 0 && Errno::last() == Errno::EINTR {}
}

/// All signals are blocked for the calling thread, those that the C library keeps for itself included, until
/// this is dropped.
struct Blocked {
    before: u64,
}

impl Blocked {
    fn all() -> Self {
        Self {
            before: mask(u64::MAX),
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        mask(self.before);
    }
}

/// Sets the calling thread's mask, past the C library, which leaves its own signals out; answers what it was.
fn mask(signals: u64) -> u64 {
    let mut before = 0_u64;
    // SAFETY: both sets are live locals of the size given. Whoever blocks unblocks, see `Blocked`.
    unsafe {
        let (new, old) = (&raw const signals, &raw mut before);
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, new, old, SET);
    }
    before
}

/// The life of the child until it is another program.
extern "C" fn be(orders: *mut libc::c_void) -> libc::c_int {
    let orders = orders.cast::<Orders>();
    // SAFETY: the caller's live value, which nobody else touches meanwhile.
    unsafe {
        let step = obey(orders);
        let why = Errno::last_raw();
        (&raw mut (*orders).failed).write_volatile(Some((step, why)));
        libc::_exit(127)
    }
}

/// Does as it was told; answers where that ended, why being in `errno`.
///
/// # Safety
/// In the child only, with what [`Plan::start`] has made.
unsafe fn obey(orders: *const Orders) -> Step {
    // Nothing below allocates or locks: all are system calls, and pointers that walk lists made before.
    // SAFETY: the lists are alive and end with null; `descriptors` holds `count`.
    unsafe {
        default_signals();
        if (*orders).leads_group && libc::setpgid(0, 0) < 0 {
            return Step::Group;
        }
        if !(*orders).directory.is_null() && libc::chdir((*orders).directory) < 0 {
            return Step::Directory;
        }
        if !place((*orders).descriptors, (*orders).count) {
            return Step::Descriptors;
        }
        if !(*orders).open_files.is_null() {
            // Lowering the soft limit is always allowed.
            libc::setrlimit(libc::RLIMIT_NOFILE, (*orders).open_files);
        }
        mask(0);
        exec(orders);
        Step::Exec
    }
}

/// Gives every signal its default meaning. What is zero all over is that in every layout of the kernel's
/// `struct sigaction`; past the C library, which refuses it for its own.
///
/// # Safety
/// In the child only: a handler of the process is gone afterwards.
unsafe fn default_signals() {
    const LAST: libc::c_int = 64;
    let default = [0_u64; 4];
    for signal in 1..=LAST {
        // Of SIGKILL and SIGSTOP it is refused, and need not be.
        // SAFETY: the kernel reads one struct, which is not longer than this local.
        unsafe {
            let (action, none) = (default.as_ptr(), ptr::null_mut::<u64>());
            libc::syscall(libc::SYS_rt_sigaction, signal, action, none, SET);
        }
    }
}

/// Puts descriptors on the numbers from 0 up. First those away that are in the way of others.
///
/// # Safety
/// In the child only; there are `count` of them.
unsafe fn place(descriptors: *mut RawFd, count: RawFd) -> bool {
    // SAFETY: within the list. The numbers are those of open descriptors; what has one that is wanted for
    // another is closed in this process only, and is none of the list's by then.
    unsafe {
        for number in 0..count {
            let from = descriptors.offset(number as isize);
            if *from < count {
                *from = libc::fcntl(*from, libc::F_DUPFD_CLOEXEC, count);
            }
            if *from < 0 {
                return false;
            }
        }
        (0..count).all(|number| libc::dup2(*descriptors.offset(number as isize), number) == number)
    }
}

/// Runs the first program that there is. Returns if there is none, with the reason in `errno`: that one may
/// not be run counts more than that others are missing.
///
/// # Safety
/// In the child only, with lists that end with null.
unsafe fn exec(orders: *const Orders) {
    let mut refused = false;
    // SAFETY: as promised; a null pointer ends the walk.
    unsafe {
        let mut path = (*orders).paths;
        while !(*path).is_null() {
            libc::execve(*path, (*orders).args, (*orders).environment);
            match Errno::last_raw() {
                libc::EACCES => refused = true,
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV => {}
                _ => return,
            }
            path = path.add(1);
        }
    }
    if refused {
        Errno::EACCES.set();
    }
}
