//! A runtime that does what a test says before or after one of its commands.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::{TempDir, eventually, tool};

/// A script in front of a real runtime.
pub struct Gated {
    dir: TempDir,
}

impl Gated {
    /// For calls of `command` the shell text `what` is run instead. In it `real` calls the
    /// runtime, and `gate` says that it was reached and waits to be opened.
    pub fn new(runtime: &str, command: &str, what: &str) -> Self {
        let dir = TempDir::new("cotter-g");
        let here = dir.path().display();
        let real = tool(runtime);
        let real = real.display();
        // The FIFOs block until both sides are there.
        let script = format!(
            "#!/bin/sh\n\
             real() {{ {real} \"$@\"; }}\n\
             gate() {{ : >{here}/reached; read _ <{here}/open; }}\n\
             dir={here}\n\
             case \" $* \" in\n\
             *' {command} '*)\n{what}\n;;\n\
             *) exec {real} \"$@\";;\n\
             esac\n"
        );
        let path = dir.path().join("runtime");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        nix::unistd::mkfifo(&dir.path().join("open"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self { dir }
    }

    /// Its path.
    pub fn path(&self) -> String {
        self.file("runtime").to_string_lossy().into_owned()
    }

    /// A file in the script's `$dir`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits, without holding up the tasks of the test, until the gate is reached.
    pub async fn reached(&self) {
        let file = self.file("reached");
        tokio::task::spawn_blocking(move || exists(&file))
            .await
            .unwrap();
    }

    /// Opens the gate once.
    pub async fn open(&self) {
        let fifo = self.file("open");
        tokio::task::spawn_blocking(move || fs::write(fifo, "\n").unwrap())
            .await
            .unwrap();
    }
}

fn exists(file: &Path) {
    eventually("the runtime is at the gate", || file.exists());
}
