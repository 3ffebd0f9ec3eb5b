//! The orders for one exec: into the container, and then all that the runtime would do there. Pure.
//!
//! Invariant: a step that fails ends it before the program runs; nothing below `/proc` is touched once the
//! container's mounts are joined; of what the stub was given, its program has the standard streams only.
//!
//! The order is each runtime's (`setns_init_linux.go` of runc, `container.c` of crun), where it can be seen.

use std::mem::offset_of;
use std::path::{Path, PathBuf};

use super::Reason;
use super::calls::{
    BORN, INIT, MADE, READY, TOLD, close_from, is_file, mode_is_file, open, prctl, tell, write,
};
use super::decide::{Limit, Wanted};
use super::filter::Program;
use super::kept::Kept;
use super::sheet::{Arg, Orders, Place, Sheet};
use super::version::Ways;

/// To clone3, of linux/sched.h; libc has it as an int, in which it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Of linux/capability.h: sets of 64 bits.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Of linux/keyctl.h.
const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
/// As much of a list of users is read.
const USERS: usize = 64 * 1024;
/// The longest `HOME=…`.
const HOME: usize = 4096 + 8;
/// The first descriptor that is free once what the stub was given is closed.
const FREE: i32 = TOLD + 1;
/// As long as a path can be.
const PATH: usize = 4096;

/// What an exec is made of.
pub struct Plan<'a> {
    pub wanted: &'a Wanted,
    pub kept: &'a Kept,
    pub ways: Ways,
    pub filter: Option<&'a Program>,
    pub groups: &'a Groups,
    /// Where a process writes which AppArmor profile its next program is to have.
    pub apparmor: &'a Path,
    /// The caller's streams that are to be the user's.
    pub owned: [bool; 3],
    /// The most open files that whoever is started may ask for.
    pub most_files: u64,
    /// The last capability that the kernel knows.
    pub last_capability: usize,
    /// The stub's file: its device and its inode.
    pub stub: [usize; 2],
}

/// The cgroups to join, by their directories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// Those of v1, but for pids.
    pub v1: Vec<PathBuf>,
    /// That of pids on v1, where a fork may be refused, but never a move.
    pub pids: Option<PathBuf>,
    /// That of v2.
    pub v2: Option<PathBuf>,
}

impl Plan<'_> {
    /// The orders.
    ///
    /// # Errors
    /// They are too many; or the filter would not let them pass, from the one that loads it on: then nobody
    /// could tell what has become of them.
    pub fn orders(&self) -> Result<Orders, Reason> {
        let mut sheet = Sheet::new();
        let pids = self.outside(&mut sheet);
        let fork = self.enter(&mut sheet);
        let child = sheet.here();
        sheet.then(fork, child);
        let filtered = self.inside(&mut sheet, pids);
        if let (Some(at), Some(filter)) = (filtered, self.filter)
            && !sheet
                .calls(at + 1)
                .all(|(number, args)| filter.lets(number, &args))
        {
            return Err("its filter of system calls is in the way of its own set-up");
        }
        let told = usize::try_from(TOLD).unwrap_or(usize::MAX);
        sheet.finish(told).ok_or("its spec is too long")
    }

    /// What is done of the host, where nobody in the container sees it. Answers the open of the cgroup that
    /// the new process is to join by itself.
    fn outside(&self, sheet: &mut Sheet) -> Option<usize> {
        sheet.step("hide");
        prctl(sheet, libc::PR_SET_DUMPABLE, 0);
        // For who sees it meanwhile; it would be called by the number of a descriptor.
        let name = sheet.text("cotter-stub");
        sheet.call(libc::SYS_prctl, &[libc::PR_SET_NAME.into(), name.into()]);
        let all = [
            TOLD.into(),
            u32::MAX.into(),
            libc::CLOSE_RANGE_CLOEXEC.into(),
        ];
        sheet.call(libc::SYS_close_range, &all);
        if let Some(adjustment) = self.kept.oom_score_adj {
            sheet.step("oom score");
            let open = open(sheet, Path::new("/proc/self/oom_score_adj"), libc::O_WRONLY);
            write(sheet, open, &adjustment.to_string());
        }
        if let Some(profile) = &self.wanted.apparmor {
            sheet.step("AppArmor profile");
            // It is for the next program, and a new process has it from its parent: so it can be said out here,
            // where /proc is the host's.
            let open = open(sheet, self.apparmor, libc::O_WRONLY);
            write(sheet, open, &format!("exec {profile}"));
        }
        sheet.step("cgroups");
        for directory in &self.groups.v1 {
            // A thread that moves itself waits for nobody; the file of processes waits for a grace period.
            let open = open(sheet, &directory.join("tasks"), libc::O_WRONLY);
            write(sheet, open, "0");
        }
        let pids = self.groups.pids.as_deref();
        pids.map(|directory| open(sheet, &directory.join("tasks"), libc::O_WRONLY))
    }

    /// Joins the namespaces, and makes the process in them; answers that order.
    fn enter(&self, sheet: &mut Sheet) -> usize {
        let mut args = libc::clone_args {
            flags: u64::from(libc::CLONE_PARENT.cast_unsigned()),
            pidfd: 0,
            child_tid: 0,
            parent_tid: 0,
            // With CLONE_PARENT it is the parent's.
            exit_signal: 0,
            stack: 0,
            stack_size: 0,
            tls: 0,
            set_tid: 0,
            set_tid_size: 0,
            cgroup: 0,
        };
        let group = self.groups.v2.as_deref();
        let group = group.map(|group| open(sheet, group, libc::O_PATH | libc::O_DIRECTORY));
        if group.is_some() {
            args.flags |= CLONE_INTO_CGROUP;
        }
        // SAFETY: plain numbers, all of which have been given values.
        let bytes = unsafe {
            let at = (&raw const args).cast::<u8>();
            std::slice::from_raw_parts(at, size_of_val(&args))
        };
        let place = sheet.bytes(bytes);
        if let Some(group) = group {
            let at = offset_of!(libc::clone_args, cgroup);
            sheet.store(group, Sheet::behind(place, at));
        }
        sheet.step("namespaces");
        // That of cgroups comes later: from within, a cgroup of the container's is not to be entered from outside.
        let namespaces = self.kept.namespaces & !libc::CLONE_NEWCGROUP;
        sheet.call(libc::SYS_setns, &[INIT.into(), namespaces.into()]);
        sheet.step("fork");
        let size = size_of::<libc::clone_args>();
        let fork = sheet.fork(libc::SYS_clone3, &[place.into(), size.into()]);
        let message = sheet.words(&[MADE.into(), 0_usize.into()]);
        sheet.store(fork, Sheet::behind(message, size_of::<usize>()));
        tell(sheet, message, 2 * size_of::<usize>());
        sheet.call(libc::SYS_exit_group, &[0.into()]);
        fork
    }

    /// What the new process does until it is the program. Answers the order that loads the filter.
    fn inside(&self, sheet: &mut Sheet, pids: Option<usize>) -> Option<usize> {
        sheet.step("join");
        if let Some(pids) = pids {
            write(sheet, pids, "0");
        }
        let cgroups = self.kept.namespaces & libc::CLONE_NEWCGROUP;
        if cgroups != 0 {
            sheet.call(libc::SYS_setns, &[INIT.into(), cgroups.into()]);
        }
        close_from(sheet, FREE);
        let born = sheet.bytes(&[BORN]);
        tell(sheet, born, 1);
        sheet.step("session");
        sheet.call(libc::SYS_setsid, &[]);
        if let Some(name) = &self.kept.keyring {
            let name = sheet.text(name);
            sheet.call(
                libc::SYS_keyctl,
                &[KEYCTL_JOIN_SESSION_KEYRING.into(), name.into()],
            );
        }
        self.limits(sheet);
        let first = !self.wanted.no_new_privileges;
        let early = if self.ways.is_runc() {
            self.no_new_privileges(sheet);
            self.umask(sheet);
            let loads = self.filter(sheet, first);
            self.directory(sheet);
            loads
        } else {
            self.directory(sheet);
            self.filter(sheet, first)
        };
        let home = self.home(sheet);
        self.user(sheet);
        if self.ways.is_runc() {
            self.checked_directory(sheet);
        } else {
            self.no_new_privileges(sheet);
            self.directory(sheet);
            self.checked_directory(sheet);
        }
        let late = self.program(sheet, home);
        early.or(late)
    }

    fn no_new_privileges(&self, sheet: &mut Sheet) {
        if self.wanted.no_new_privileges {
            sheet.step("privileges");
            prctl(sheet, libc::PR_SET_NO_NEW_PRIVS, 1);
        }
    }

    fn umask(&self, sheet: &mut Sheet) {
        if let Some(umask) = self.wanted.umask {
            sheet.step("umask");
            sheet.call(libc::SYS_umask, &[umask.into()]);
        }
    }

    /// Loads the filter, if this is when: at once, or last of all. Answers the order that does.
    fn filter(&self, sheet: &mut Sheet, now: bool) -> Option<usize> {
        let program = self.filter.filter(|_| now)?;
        sheet.step("filter of system calls");
        let instructions = sheet.bytes(&program.instructions);
        let count = program.instructions.len() / size_of::<libc::sock_filter>();
        // A struct sock_fprog: a short, padding, a pointer.
        let description = sheet.words(&[count.into(), instructions.into()]);
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        Some(sheet.call(
            libc::SYS_seccomp,
            &[mode.into(), program.flags.into(), description.into()],
        ))
    }

    fn directory(&self, sheet: &mut Sheet) {
        sheet.step("working directory");
        let directory = sheet.text(&self.wanted.cwd);
        sheet.call(libc::SYS_chdir, &[directory.into()]);
    }

    /// What the kernel calls it, begins with a slash: it is not outside of the root.
    fn checked_directory(&self, sheet: &mut Sheet) {
        sheet.step("working directory");
        let name = sheet.room(PATH);
        sheet.call(libc::SYS_getcwd, &[name.into(), PATH.into()]);
        let slash = u32::from_ne_bytes([b'/', 0, 0, 0]);
        sheet.check(name, u32::from_ne_bytes([0xff, 0, 0, 0]), slash);
    }

    /// Looks HOME up in the container's list of users: one that is a file, and no longer than makes sense.
    fn home(&self, sheet: &mut Sheet) -> Option<Place> {
        if !self.wanted.home {
            return None;
        }
        sheet.step("home");
        let home = sheet.room(HOME);
        let users = sheet.room(USERS + 1);
        let name = Path::new("/etc/passwd");
        // What it is is asked before it is opened: a device may act on that.
        let there = open(sheet, name, libc::O_PATH);
        is_file(sheet, FREE);
        open(
            sheet,
            name,
            libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY,
        );
        is_file(sheet, FREE + 1);
        let args = [(FREE + 1).into(), users.into(), (USERS + 1).into()];
        let read = sheet.call(libc::SYS_read, &args);
        let found = sheet.home(users, self.wanted.uid, home, HOME);
        sheet.pass(read, found, 1);
        // Nobody is in a list that is not there.
        sheet.may_fail(there, libc::ENOENT, found);
        close_from(sheet, FREE);
        Some(home)
    }

    fn limits(&self, sheet: &mut Sheet) {
        sheet.step("limits");
        let raised = (Limit::OpenFiles, self.most_files, self.most_files);
        let raised = self.wanted.raised.then_some(raised);
        for (limit, soft, hard) in self.wanted.limits.iter().copied().chain(raised) {
            let number = match limit {
                Limit::OpenFiles => libc::RLIMIT_NOFILE,
                Limit::Core => libc::RLIMIT_CORE,
                Limit::LockedMemory => libc::RLIMIT_MEMLOCK,
                Limit::Signals => libc::RLIMIT_SIGPENDING,
            };
            let bytes = [soft.to_ne_bytes(), hard.to_ne_bytes()].concat();
            let values = sheet.bytes(&bytes);
            sheet.call(
                libc::SYS_prlimit64,
                &[0.into(), number.into(), values.into(), 0.into()],
            );
        }
    }

    /// The user, its groups and what it may do.
    fn user(&self, sheet: &mut Sheet) {
        let Wanted {
            uid,
            gid,
            groups,
            capabilities,
            ..
        } = self.wanted;
        sheet.step("capabilities");
        for number in 0..=self.last_capability {
            if capabilities.bounding.0 & (1 << number) == 0 {
                prctl(sheet, libc::PR_CAPBSET_DROP, number);
            }
        }
        prctl(sheet, libc::PR_SET_KEEPCAPS, 1);
        sheet.step("streams");
        for (fd, _) in self.owned.iter().enumerate().filter(|(_, owned)| **owned) {
            // runc leaves the group as it is.
            let group: Arg = match self.ways.is_runc() {
                true => u32::MAX.into(),
                false => (*gid).into(),
            };
            sheet.call(libc::SYS_fchown, &[fd.into(), (*uid).into(), group]);
        }
        sheet.step("user");
        let list: Vec<u8> = groups
            .iter()
            .flat_map(|group| group.to_ne_bytes())
            .collect();
        let list = sheet.bytes(&list);
        sheet.call(libc::SYS_setgroups, &[groups.len().into(), list.into()]);
        let gid = Arg::from(*gid);
        sheet.call(libc::SYS_setresgid, &[gid, gid, gid]);
        let uid = Arg::from(*uid);
        sheet.call(libc::SYS_setresuid, &[uid, uid, uid]);
        prctl(sheet, libc::PR_SET_KEEPCAPS, 0);
        sheet.step("capabilities");
        let header = [CAPABILITY_VERSION.to_ne_bytes(), 0_u32.to_ne_bytes()].concat();
        let header = sheet.bytes(&header);
        let sets = [
            capabilities.effective,
            capabilities.permitted,
            capabilities.inheritable,
        ];
        // By halves: all sets' lower ones, then all upper ones.
        let half = |shift: u32| sets.map(|set| ((set.0 >> shift) & u64::from(u32::MAX)) as u32);
        let data: Vec<u8> = [half(0), half(32)]
            .concat()
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        let data = sheet.bytes(&data);
        sheet.call(libc::SYS_capset, &[header.into(), data.into()]);
        let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
        let ambient = libc::PR_CAP_AMBIENT;
        sheet.call(libc::SYS_prctl, &[ambient.into(), clear.into()]);
        for number in capabilities.ambient.numbers() {
            let raise = libc::PR_CAP_AMBIENT_RAISE;
            sheet.call(
                libc::SYS_prctl,
                &[ambient.into(), raise.into(), number.into()],
            );
        }
    }

    /// Looks for the program, and runs the first that there is. Answers the order that loads the filter.
    fn program(&self, sheet: &mut Sheet, home: Option<Place>) -> Option<usize> {
        sheet.step("program");
        let args: Vec<Place> = self.wanted.args.iter().map(|arg| sheet.text(arg)).collect();
        let args = sheet.texts(&args);
        let env = self.wanted.env.iter().map(|variable| sheet.text(variable));
        let env: Vec<Place> = env.collect::<Vec<_>>().into_iter().chain(home).collect();
        let env = sheet.texts(&env);
        let stat = sheet.room(size_of::<libc::stat>());
        let mut sets = Vec::new();
        let mut before: Option<usize> = None;
        for candidate in &self.wanted.candidates {
            let here = sheet.here();
            if let Some(before) = before {
                sheet.may_fail(before, libc::ENOENT, here);
            }
            let path = sheet.text(candidate);
            let args = [libc::AT_FDCWD.into(), path.into(), stat.into(), 0.into()];
            before = Some(sheet.call(libc::SYS_newfstatat, &args));
            mode_is_file(sheet, stat);
            // By /proc/self/exe the stub would be the program.
            let at = [
                offset_of!(libc::stat, st_dev),
                offset_of!(libc::stat, st_ino),
            ];
            sheet.differ(at.map(|at| Sheet::behind(stat, at)), self.stub);
            // Of the order that runs it, see below.
            sets.push(sheet.set(path));
        }
        let found = sheet.here();
        let loads = self.filter(sheet, self.wanted.no_new_privileges);
        if !self.ways.is_runc() {
            self.umask(sheet);
        }
        sheet.step("program");
        let ready = sheet.bytes(&[READY]);
        tell(sheet, ready, 1);
        let run = sheet.call(libc::SYS_execve, &[0.into(), args.into(), env.into()]);
        for set in sets {
            sheet.aim(set, run);
            sheet.then(set, found);
        }
        loads
    }
}

#[cfg(test)]
mod tests;
