//! A script that stands in for a runtime, and the gates in it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{TempDir, eventually};

/// An executable script in a directory of its own.
pub struct Script {
    dir: TempDir,
}

impl Script {
    /// The script that `text` makes of its directory. A gate in it makes the file `reached` there
    /// and reads a line of the FIFO `open`.
    pub fn new(text: impl FnOnce(&Path) -> String) -> Self {
        let dir = TempDir::new("cotter-g");
        let path = dir.path().join("runtime");
        super::write_program(&path, text(dir.path()));
        nix::unistd::mkfifo(&dir.path().join("open"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self { dir }
    }

    /// Its path.
    pub fn path(&self) -> String {
        self.file("runtime").to_string_lossy().into_owned()
    }

    /// A file beside it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits, without holding up the tasks of the test, until the gate is reached.
    pub async fn reached(&self) {
        let file = self.file("reached");
        let wait = move || eventually("the runtime is at the gate", || file.exists());
        tokio::task::spawn_blocking(wait).await.unwrap();
    }

    /// Opens the gate once.
    pub async fn open(&self) {
        let fifo = self.file("open");
        let open = move || fs::write(fifo, "\n").unwrap();
        tokio::task::spawn_blocking(open).await.unwrap();
    }
}
