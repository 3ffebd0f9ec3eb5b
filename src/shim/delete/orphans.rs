//! Calls of the runtime that outlive the shim that made them.
//!
//! Invariant: what is ended here is a call of a dead shim for this very bundle, or descends from one, or is
//! in the process group that one leads; the caller knows that no shim lives. A call is known by the record
//! that its shim kept of it, pid and time of its fork ([`crate::runtime::record`]), or by having the log
//! open for writing that only this call was given, which a runtime opens first of all. Without such a
//! log, which a shim removes with the end of its call, nobody is looked at. Arguments prove nothing,
//! and a stranger can have whoever reads them wait ([`crate::kin`]): nothing is asked here that can hang.
//! Pinned by `tests/faults/gone.rs` and `tests/faults/locked.rs`.
//!
//! A call goes on when its shim is killed, and so may create a container after everything of it has
//! been cleared away. It may come to its end first: then the runtime knows what it made, and can
//! delete it. The Go shim has its calls killed with itself (`PR_SET_PDEATHSIG`), which reaches the
//! runtime alone and not what it has started; and without it a call is started without a fork.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::cgroup;
use crate::error::{Error, Result};
use crate::kin::{Held, Stat, descendants};
use crate::monitor::Pid;
use crate::pidfd;
use crate::runtime::record;

/// How long calls may go on; far longer than a create or a start takes.
const GRACE: Duration = Duration::from_millis(400);
/// How long nothing must be seen of any: one that has just been started is not recorded yet, and has not
/// opened its log.
const QUIET: Duration = Duration::from_millis(50);
/// How long killed calls may take to be gone.
const LIMIT: Duration = Duration::from_millis(200);

/// So many of the files that a process has open are looked at, those it opened first: a runtime opens its
/// log before nearly all else, and others may have any number.
const FILES: usize = 64;

/// The logs of calls that were interrupted with their shim.
pub(super) fn logs(bundle: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(bundle).into_iter().flatten().flatten();
    let files = files.map(|file| file.path());
    files.filter(|path| is_log(path)).collect()
}

/// Waits for the calls of these logs to end, no longer than `limit`, and ends those that do not, with what
/// they have started.
///
/// # Errors
/// When one cannot be killed or is still there in the end.
pub(super) fn end(logs: &[PathBuf], limit: Duration) -> Result<()> {
    let open = Open::new(logs);
    let grace = Instant::now() + GRACE.min(limit);
    let deadline = grace + LIMIT;
    let mut quiet = None;
    // Again until there are none: one may have started another in between.
    loop {
        let calls = hold(logs, &open);
        let Some((first, _)) = calls.first() else {
            if quiet.get_or_insert_with(Instant::now).elapsed() >= QUIET {
                return Ok(());
            }
            thread::sleep(QUIET / 5);
            continue;
        };
        quiet = None;
        if Instant::now() >= deadline {
            return Err(Error::deadline_exceeded(format_args!(
                "process {first} of a runtime call is still there {LIMIT:?} after SIGKILL"
            )));
        }
        if calls.iter().all(|(_, held)| gone(held, grace)) {
            continue;
        }
        for (pid, held) in &calls {
            let what = || format!("kill process {pid} of a runtime call");
            pidfd::kill(held).map_err(|e| Error::io(what(), &e))?;
        }
        for (_, held) in &calls {
            gone(held, deadline);
        }
    }
}

/// Once the container is cleared away: takes away the cgroup that a call was making of which the
/// runtime does not know, and the logs.
pub(super) fn clear(cgroups_path: &str, logs: &[PathBuf]) {
    cgroup::remove(cgroups_path);
    for log in logs {
        record::forget(log);
        // It stays until its bundle goes, which is as good.
        let _ = fs::remove_file(log);
    }
}

/// The processes of calls. Those that have ended are none, also while nobody reaps them.
fn hold(logs: &[PathBuf], open: &Open) -> Vec<Held> {
    let mut held = calls(logs, open);
    let leaders = held.len();
    for leader in 0..leaders {
        let members = members(&held[leader]);
        held.extend(members);
    }
    for process in 0..held.len() {
        let theirs = descendants(&held[process]);
        held.extend(theirs.held);
    }
    held.sort_by_key(|(pid, _)| *pid);
    held.dedup_by_key(|(pid, _)| *pid);
    held.retain(|(_, process)| !pidfd::has_ended(process));
    held
}

/// The calls themselves.
fn calls(logs: &[PathBuf], open: &Open) -> Vec<Held> {
    let recorded = logs.iter().filter_map(|log| {
        let (pid, since) = record::read(log)?;
        hold_if(pid, |stat| stat.since == since)
    });
    let found = processes().filter(|pid| open.by(*pid));
    // Asked again: this time about the process that is held.
    let found = found.filter_map(|pid| hold_if(pid, |_| open.by(pid)));
    recorded.chain(found).collect()
}

/// Who is in the group that a call leads.
fn members((leader, held): &Held) -> Vec<Held> {
    let leads = |stat: Stat| stat.group == *leader;
    if !Stat::of(*leader).is_some_and(leads) {
        return Vec::new();
    }
    let member = |pid: &Pid| Stat::of(*pid).is_some_and(leads);
    let all = processes().filter(member);
    let all = all.filter_map(|pid| hold_if(pid, |stat| leads(*stat)));
    let all: Vec<Held> = all.collect();
    // Until its leader has ended, the group's number is its own.
    match pidfd::has_ended(held) {
        true => Vec::new(),
        false => all,
    }
}

/// The process of this pid, if it lives and what is asked of it is so once it is held.
fn hold_if(pid: Pid, so: impl FnOnce(&Stat) -> bool) -> Option<Held> {
    let held = pidfd::open(pid.cast_unsigned()).ok()?;
    let stat = Stat::of(pid)?;
    (!stat.has_ended() && so(&stat)).then_some((pid, held))
}

/// All processes of the machine.
fn processes() -> impl Iterator<Item = Pid> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Who has one of some logs open.
struct Open {
    /// As the kernel names them.
    logs: Vec<PathBuf>,
    /// Where these names mean these files.
    mounts: Option<PathBuf>,
}

impl Open {
    fn new(logs: &[PathBuf]) -> Self {
        let logs = logs.iter().filter_map(|log| {
            let bundle = fs::canonicalize(log.parent()?).ok()?;
            Some(bundle.join(log.file_name()?))
        });
        Self {
            logs: logs.collect(),
            mounts: mounts("self"),
        }
    }

    /// Whether a process has one open for writing, as only its call has. Somebody may be reading it. Links
    /// of `/proc` are read, not followed: no file system is asked.
    fn by(&self, pid: Pid) -> bool {
        if self.mounts.is_none() || mounts(&pid.to_string()) != self.mounts {
            return false;
        }
        first_files(pid).any(|fd| {
            let to = fs::read_link(fd.path()).unwrap_or_default();
            let info = || {
                let name = fd.file_name();
                let info = format!("/proc/{pid}/fdinfo/{}", name.to_string_lossy());
                fs::read_to_string(info).unwrap_or_default()
            };
            self.logs.contains(&to) && writes(&info())
        })
    }
}

/// The open files of a process with the lowest numbers.
fn first_files(pid: Pid) -> impl Iterator<Item = fs::DirEntry> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter();
    fds.flatten().flatten().take(FILES)
}

/// The mount namespace of a process, named as in `/proc`.
fn mounts(process: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/mnt")).ok()
}

/// Whether this tells of a file that is open for writing.
fn writes(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

fn gone(held: &pidfd::Process, deadline: Instant) -> bool {
    pidfd::wait(held, deadline.saturating_duration_since(Instant::now()))
}

/// Whether a file is called as the log of a single call is.
fn is_log(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("log-") && name.ends_with(".json"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn a_log_is_known_by_its_name() {
        for (name, expected) in [
            ("/b/log-12-0.json", true),
            ("/b/log.json", false),
            ("/b/log-12-0.call", false),
            ("/b/process-12-0.json", false),
        ] {
            assert_eq!(is_log(name.as_ref()), expected, "{name}");
        }
    }

    #[test]
    fn who_writes_is_known_by_the_flags() {
        for (info, expected) in [
            ("pos:\t0\nflags:\t02102001\nmnt_id:\t29\n", true),
            ("pos:\t0\nflags:\t0102002\n", true),
            ("pos:\t0\nflags:\t0100000\n", false),
            ("pos:\t1\n", false),
            ("", false),
        ] {
            assert_eq!(writes(info), expected, "{info}");
        }
    }

    /// A proxy with a million connections must not cost a `delete` its time.
    #[test]
    fn of_a_process_with_many_files_the_first_are_looked_at() {
        let file = || fs::File::open("/dev/null").unwrap();
        let files: Vec<fs::File> = (0..2 * FILES).map(|_| file()).collect();
        let looked: Vec<String> = first_files(std::process::id().cast_signed())
            .map(|fd| fd.file_name().into_string().unwrap())
            .collect();
        drop(files);
        assert_eq!(looked.len(), FILES);
        assert!(looked.contains(&"2".to_owned()), "{looked:?}");
    }

    fn shell(script: &str, stdin: Stdio) -> Child {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(stdin).process_group(0);
        shell.spawn().unwrap()
    }

    /// Ends a group that this process has started.
    fn end(mut leader: Child) {
        let _ = nix::sys::signal::killpg(
            nix::unistd::Pid::from_raw(leader.id().cast_signed()),
            nix::sys::signal::Signal::SIGKILL,
        );
        leader.wait().unwrap();
    }

    /// One that is recorded, one that has its log open; with their groups and descendants. Not one that
    /// reads the log, whose arguments name it, or whose recorded pid is another's.
    #[test]
    fn calls_are_known_by_what_proves_them() {
        let dir = std::env::temp_dir().join(format!("cotter-orphans-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let logs: Vec<PathBuf> = (0..3)
            .map(|n| dir.join(format!("log-1-{n}.json")))
            .collect();
        let file = |log: &PathBuf| {
            let mut options = fs::OpenOptions::new();
            options.append(true).create(true).open(log).unwrap()
        };
        logs.iter().map(file).for_each(drop);
        let tree = "sleep 1000 & setsid sleep 1000 & wait";
        let recorded = shell(tree, Stdio::null());
        let opened = shell(tree, file(&logs[1]).into());
        let reader = shell("sleep 1000", fs::File::open(&logs[1]).unwrap().into());
        let naming = shell(
            &format!("sleep 1000; : --log {}", logs[1].display()),
            Stdio::null(),
        );
        let recycled = shell("sleep 1000", Stdio::null());
        let record = |log: &PathBuf, child: &Child, older: u64| {
            let pid = child.id().cast_signed();
            record::write_as(log, pid, Stat::of(pid).unwrap().since - older);
        };
        record(&logs[0], &recorded, 0);
        record(&logs[2], &recycled, 1);
        let open = Open::new(&logs);
        let calls: Vec<Pid> = calls(&logs, &open)
            .into_iter()
            .map(|(pid, _)| pid)
            .collect();
        let expected = [&recorded, &opened].map(|child| child.id().cast_signed());
        let mut found = Vec::new();
        for _ in 0..1000 {
            found = hold(&logs, &open);
            if found.len() >= 6 {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        for (_, held) in &found {
            pidfd::kill(held).unwrap();
        }
        let spared = [reader, naming, recycled].map(|mut child| {
            let lives = child.try_wait().unwrap().is_none();
            end(child);
            lives
        });
        for call in [recorded, opened] {
            end(call);
        }
        fs::remove_dir_all(&dir).unwrap();
        for call in expected {
            assert!(calls.contains(&call), "{call} in {calls:?}");
        }
        assert_eq!(found.len(), 6, "{found:?}");
        assert_eq!(spared, [true; 3]);
    }
}
