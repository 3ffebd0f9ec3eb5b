//! Calls of the runtime that outlive the shim that made them.
//!
//! Invariant: what is ended here is a call of a dead shim for this very bundle, or descends from one, or is
//! in the process group that one leads; the caller knows that no shim lives. A call is known by the record
//! that its shim kept of it, pid and time of its fork ([`crate::runtime::record`]), or by having the log
//! open for writing that only this call was given, which a runtime opens first of all. Without such a
//! log, which a shim removes with the end of its call, nobody is looked at. Arguments prove nothing,
//! and a stranger can have whoever reads them wait ([`crate::kin`]): nothing is asked here that can hang.
//! What cannot be read proves nobody's end: it is told of, and the logs stay for the next to look.
//! Pinned by `tests/faults/gone.rs` and `tests/faults/locked.rs`.
//!
//! A call goes on when its shim is killed, and so may create a container after everything of it has
//! been cleared away. It may come to its end first: then the runtime knows what it made, and can
//! delete it. The Go shim has its calls killed with itself (`PR_SET_PDEATHSIG`), which reaches the
//! runtime alone and not what it has started; and without it a call is started without a fork.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::doubt::Doubt;
use super::holders::Open;
use crate::cgroup;
use crate::errno::is_absent;
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

/// The logs of calls that were interrupted with their shim. Why they may not be all goes to `warnings`.
pub(super) fn logs(bundle: &Path, warnings: &mut Vec<Error>) -> Vec<PathBuf> {
    let what = || format!("look for runtime calls in {}", bundle.display());
    let failed = |why: io::Error| (!is_absent(&why)).then(|| Error::io(what(), &why));
    let mut logs = Vec::new();
    match fs::read_dir(bundle) {
        Ok(files) => {
            for file in files {
                match file {
                    Ok(file) => logs.push(file.path()),
                    Err(why) => warnings.extend(failed(why)),
                }
            }
        }
        Err(why) => warnings.extend(failed(why)),
    }
    logs.retain(|path| is_log(path));
    logs
}

/// Waits for the calls of these logs to end, no longer than `limit`, and ends those that do not, with what
/// they have started.
///
/// # Errors
/// When one cannot be killed or is still there in the end, or it cannot be told whether one is.
pub(super) fn end(logs: &[PathBuf], limit: Duration) -> Result<()> {
    let doubt = Doubt::default();
    let open = Open::new(logs, &doubt);
    let unknown = doubt.take();
    let grace = Instant::now() + GRACE.min(limit);
    let deadline = grace + LIMIT;
    let mut quiet = None;
    // Again until there are none: one may have started another in between.
    loop {
        doubt.take();
        let calls = hold(logs, &open, &doubt);
        let Some((first, _)) = calls.first() else {
            if quiet.get_or_insert_with(Instant::now).elapsed() >= QUIET {
                let why = unknown.or(doubt.take());
                return why.map_or(Ok(()), |why| Err(why.context("look for runtime calls")));
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
fn hold(logs: &[PathBuf], open: &Open, doubt: &Doubt) -> Vec<Held> {
    let mut held = calls(logs, open, doubt);
    let leaders = held.len();
    for leader in 0..leaders {
        let members = members(&held[leader], doubt);
        held.extend(members);
    }
    for process in 0..held.len() {
        let theirs = descendants(&held[process]);
        held.extend(theirs.held);
        if let Err(why) = theirs.whole {
            doubt.because(why);
        }
    }
    held.sort_by_key(|(pid, _)| *pid);
    held.dedup_by_key(|(pid, _)| *pid);
    held.retain(|(_, process)| !pidfd::has_ended(process));
    held
}

/// The calls themselves.
fn calls(logs: &[PathBuf], open: &Open, doubt: &Doubt) -> Vec<Held> {
    let recorded = logs.iter().filter_map(|log| {
        let what = || format!("read the record beside {}", log.display());
        let (pid, since) = doubt.of(what, record::read(log))??;
        hold_if(pid, doubt, |stat| stat.since == since)
    });
    let found = processes(doubt).filter(|pid| open.by(*pid, doubt));
    // Asked again: this time about the process that is held.
    let found = found.filter_map(|pid| hold_if(pid, doubt, |_| open.by(pid, doubt)));
    recorded.chain(found).collect()
}

/// Who is in the group that a call leads.
fn members((leader, held): &Held, doubt: &Doubt) -> Vec<Held> {
    let leads = |stat: Stat| stat.group == *leader;
    if !Stat::of(*leader).is_some_and(leads) {
        return Vec::new();
    }
    let member = |pid: &Pid| Stat::of(*pid).is_some_and(leads);
    let all = processes(doubt).filter(member);
    let all = all.filter_map(|pid| hold_if(pid, doubt, |stat| leads(*stat)));
    let all: Vec<Held> = all.collect();
    // Until its leader has ended, the group's number is its own.
    match pidfd::has_ended(held) {
        true => Vec::new(),
        false => all,
    }
}

/// The process of this pid, if it lives and what is asked of it is so once it is held.
fn hold_if(pid: Pid, doubt: &Doubt, so: impl FnOnce(&Stat) -> bool) -> Option<Held> {
    let what = || format!("hold process {pid}");
    let held = doubt.of(what, pidfd::open(pid.cast_unsigned()))?;
    let stat = Stat::of(pid)?;
    (!stat.has_ended() && so(&stat)).then_some((pid, held))
}

/// All processes of the machine.
fn processes(doubt: &Doubt) -> impl Iterator<Item = Pid> {
    let what = || "read /proc".to_owned();
    let all = fs::read_dir("/proc").and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let all = doubt.of(what, all).unwrap_or_default().into_iter();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
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
        let doubt = Doubt::default();
        let open = Open::new(&logs, &doubt);
        let calls: Vec<Pid> = calls(&logs, &open, &doubt)
            .into_iter()
            .map(|(pid, _)| pid)
            .collect();
        let expected = [&recorded, &opened].map(|child| child.id().cast_signed());
        let mut found = Vec::new();
        for _ in 0..1000 {
            found = hold(&logs, &open, &doubt);
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
        assert_eq!(doubt.take(), None);
    }

    #[test]
    fn logs_that_cannot_be_listed_are_told_of() {
        let file = std::env::temp_dir().join(format!("cotter-no-bundle-{}", std::process::id()));
        let told = |bundle: &Path| {
            let mut warnings = Vec::new();
            assert!(logs(bundle, &mut warnings).is_empty());
            warnings.pop().map(|why| why.message)
        };
        assert_eq!(told(&file), None);
        fs::write(&file, "").unwrap();
        let expected = format!(
            "look for runtime calls in {}: not a directory",
            file.display()
        );
        assert_eq!(told(&file), Some(expected));
        fs::remove_file(&file).unwrap();
    }
    /// A bundle that is a file: nothing says whose log it would be.
    #[test]
    fn who_cannot_be_looked_for_may_be_there() {
        let file = std::env::temp_dir().join(format!("cotter-no-logs-{}", std::process::id()));
        fs::write(&file, "").unwrap();
        let log = file.join("log-1-0.json");
        let ended = super::end(std::slice::from_ref(&log), Duration::from_secs(1));
        fs::remove_file(&file).unwrap();
        let record = log.display();
        let expected =
            format!("look for runtime calls: read the record beside {record}: not a directory");
        assert_eq!(ended.unwrap_err().message, expected);
        assert_eq!(super::end(&[log], Duration::from_secs(1)), Ok(()));
    }
}
