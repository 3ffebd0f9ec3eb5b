//! A file that only this process's user can read and that is gone when its owner is.

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
