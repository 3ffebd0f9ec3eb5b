//! Whether a program can be run at all, asked where the answer may take for ever.
//!
//! The caller of execve(2) is told of its success only when the kernel has read the program's
//! beginning, and whoever starts a process here holds the reaper up that long
//! ([`Monitor::spawn`](crate::monitor::Monitor::spawn)). So that beginning is read before, on a
//! thread of its own; then it is in memory, and a dead disk under the program is an error and no
//! more.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::blocking::{Job, within};
use crate::error::Result;

/// Reads the beginning of a program, as exec would find it. One that is missing is no error: its
/// start will say so.
///
/// # Errors
/// `DeadlineExceeded` naming the program, when that takes longer than `limit`.
pub(crate) async fn reach(program: &Path, limit: Duration) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = candidates(program, &path);
    let job = Job {
        name: "read-program",
        what: format!("read program {}", program.display()),
        limit,
    };
    within(job, move || candidates.iter().any(|path| touch(path))).await?;
    Ok(())
}

/// Where execvp(3) looks, in its order.
fn candidates(program: &Path, path: &OsStr) -> Vec<PathBuf> {
    if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    std::env::split_paths(path)
        .map(|dir| dir.join(program))
        .collect()
}

/// Whether it is there.
fn touch(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    // A FIFO in its place must not hang.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    // As much as the kernel looks at first; of a directory or a FIFO there is nothing to read.
    let mut beginning = [0; 256];
    options
        .open(path)
        .and_then(|mut file| file.read(&mut beginning))
        .is_ok_and(|read| read > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_program_may_be() {
        let paths = |program: &str, path: &str| candidates(program.as_ref(), path.as_ref());
        assert_eq!(paths("/x/runc", "/a:/b"), [Path::new("/x/runc")]);
        assert_eq!(paths("./runc", "/a:/b"), [Path::new("./runc")]);
        assert_eq!(
            paths("runc", "/a:/b"),
            [Path::new("/a/runc"), Path::new("/b/runc")]
        );
    }

    #[test]
    fn what_is_there() {
        assert!(touch("/proc/self/exe".as_ref()));
        for path in ["/proc", "/nonexistent", "/dev/null"] {
            assert!(!touch(path.as_ref()), "{path}");
        }
    }
}
