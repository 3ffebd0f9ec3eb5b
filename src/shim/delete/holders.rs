//! Who has the log of a call open.
//!
//! Invariant: no file system is asked, and of each process only so much.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::doubt::Doubt;
use crate::monitor::Pid;

/// So many of the files that a process has open are looked at, those it opened first: a runtime opens its
/// log before nearly all else, and others may have any number.
const FILES: usize = 64;

/// Who has one of some logs open.
pub(super) struct Open {
    /// As the kernel names them.
    logs: Vec<PathBuf>,
    /// Where these names mean these files.
    mounts: Option<PathBuf>,
}

impl Open {
    /// Of these logs.
    pub(super) fn new(logs: &[PathBuf], doubt: &Doubt) -> Self {
        let logs = logs.iter().filter_map(|log| {
            let bundle = log.parent()?;
            let what = || format!("look for {}", bundle.display());
            let bundle = doubt.of(what, fs::canonicalize(bundle))?;
            Some(bundle.join(log.file_name()?))
        });
        let what = || "read this process's mount namespace".to_owned();
        Self {
            logs: logs.collect(),
            mounts: doubt.of(what, mounts("self")),
        }
    }

    /// Whether a process has one open for writing, as only its call has. Somebody may be reading it. Links
    /// of `/proc` are read, not followed: no file system is asked.
    pub(super) fn by(&self, pid: Pid, doubt: &Doubt) -> bool {
        // Of a process that may not be looked at, as of one in another mount namespace, nothing is known but
        // by its record.
        let theirs = mounts(&pid.to_string()).ok();
        if self.mounts.is_none() || theirs != self.mounts {
            return false;
        }
        let files = || format!("read the open files of process {pid}");
        let Some(first) = doubt.of(files, first_files(pid)) else {
            return false;
        };
        first.iter().any(|fd| {
            let to = doubt.of(files, fs::read_link(fd.path()));
            let info = || {
                let name = fd.file_name();
                let info = format!("/proc/{pid}/fdinfo/{}", name.to_string_lossy());
                doubt.of(files, fs::read_to_string(info))
            };
            to.is_some_and(|to| self.logs.contains(&to)) && info().is_some_and(|info| writes(&info))
        })
    }
}

/// The open files of a process with the lowest numbers.
fn first_files(pid: Pid) -> io::Result<Vec<fs::DirEntry>> {
    fs::read_dir(format!("/proc/{pid}/fd"))?
        .take(FILES)
        .collect()
}

/// The mount namespace of a process, named as in `/proc`.
fn mounts(process: &str) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/mnt"))
}

/// Whether this tells of a file that is open for writing.
fn writes(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            .unwrap()
            .into_iter()
            .map(|fd| fd.file_name().into_string().unwrap())
            .collect();
        drop(files);
        assert_eq!(looked.len(), FILES);
        assert!(looked.contains(&"2".to_owned()), "{looked:?}");
    }
}
