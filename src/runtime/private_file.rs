//! A file that only this process's user can read and that is gone when its owner is.
//!
//! Invariant: nobody else's file has such a name, so that what a killed process has left is known by it
//! ([`remove_left`]). Pinned by `tests/faults/told.rs::what_a_killed_shim_leaves_goes`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct PrivateFile {
    path: PathBuf,
    file: File,
}

/// Removes the files of this name that a process has left in `dir` which is dead; nothing if there are none.
pub fn remove_left(dir: &Path, name: &str) {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    for file in files {
        let is = file
            .file_name()
            .to_str()
            .is_some_and(|it| is_private(it, name));
        if is {
            // Gone meanwhile, or no file: nothing of ours.
            let _ = fs::remove_file(file.path());
        }
    }
}

/// Whether a file is called as [`PrivateFile::beside`] calls it.
fn is_private(file: &str, name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let numbers = file.strip_prefix(name).and_then(|rest| {
        rest.strip_prefix('-')?
            .strip_suffix(".json")?
            .split_once('-')
    });
    numbers.is_some_and(|(pid, count)| number(pid) && number(count))
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl PrivateFile {
    /// A new, empty file `<name>-<pid>-<number>.json` in the directory of `neighbour`.
    pub(super) fn beside(neighbour: &Path, name: &str) -> io::Result<Self> {
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let file_name = format!("{name}-{}-{number}.json", process::id());
            let path = neighbour.with_file_name(file_name);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            match options.open(&path) {
                Ok(file) => return Ok(Self { path, file }),
                // Left by a killed shim that had this pid.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Write for PrivateFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        // Gone already: somebody removed the bundle.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_known_by_its_name_and_nothing_else_is() {
        let dir = std::env::temp_dir().join(format!("cotter-private-{}", process::id()));
        fs::create_dir(&dir).unwrap();
        let made = PrivateFile::beside(&dir.join("x"), "process").unwrap();
        let name = made
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        assert!(is_private(&name, "process") && !is_private(&name, "log"));
        for other in [
            "process-1.json",
            "process--1.json",
            "process-1-x.json",
            "process-1-1",
        ] {
            assert!(!is_private(other, "process"), "{other}");
            fs::write(dir.join(other), "").unwrap();
        }
        std::mem::forget(made);
        remove_left(&dir, "process");
        assert!(!dir.join(&name).exists());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 4);
        fs::remove_dir_all(&dir).unwrap();
    }
}
