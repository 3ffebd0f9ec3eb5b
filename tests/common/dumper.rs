//! A runtime that checkpoints and restores without CRIU; real ones are in `tests/vm_checkpoint.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{TempDir, eventually, tool};

const SCRIPT: &str = include_str!("dumper.sh");

/// A script in front of a real runtime.
pub struct Dumper {
    dir: TempDir,
}

impl Dumper {
    /// In front of a runtime of the tools' list.
    pub fn new(runtime: &str) -> Self {
        let dir = TempDir::new("cotter-d");
        fs::write(
            dir.path().join("real"),
            format!("{}\n", tool(runtime).display()),
        )
        .unwrap();
        let path = dir.path().join("runtime");
        fs::write(&path, SCRIPT).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        nix::unistd::mkfifo(&dir.path().join("open"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self { dir }
    }

    /// Its path.
    pub fn path(&self) -> String {
        self.file("runtime").to_string_lossy().into_owned()
    }

    /// A file beside the script, which is its `$me`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// In the middle of `operation` this shell text is run, with `real`, `gate` and `$id`.
    pub fn during(&self, operation: &str, what: &str) {
        fs::write(self.file(&format!("during-{operation}")), what).unwrap();
    }

    /// No more.
    pub fn nothing_during(&self, operation: &str) {
        fs::remove_file(self.file(&format!("during-{operation}"))).unwrap();
    }

    /// What it was called for so far, without the global options; its own ends of checkpoint and
    /// restore in between as `done …`.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file("calls")).unwrap_or_default();
        let globals = "--log-format json ";
        let call = |line: &str| match line.split_once(globals) {
            Some((_, call)) => call.to_owned(),
            None => line.to_owned(),
        };
        text.lines().map(call).collect()
    }

    /// The calls of one operation.
    pub fn calls_of(&self, operation: &str) -> Vec<String> {
        let is = |call: &String| call.split(' ').next() == Some(operation);
        self.calls().into_iter().filter(is).collect()
    }

    /// Waits, without holding up the tasks of the test, until a `gate` is reached.
    pub async fn reached(&self) {
        let file = self.file("reached");
        let wait = move || eventually("the runtime is at the gate", || file.exists());
        tokio::task::spawn_blocking(wait).await.unwrap();
        fs::remove_file(self.file("reached")).unwrap();
    }

    /// Opens the gate once.
    pub async fn open(&self) {
        let fifo = self.file("open");
        let open = move || fs::write(fifo, "\n").unwrap();
        tokio::task::spawn_blocking(open).await.unwrap();
    }

    /// A directory with an image that can be restored.
    pub fn image(&self, name: &str) -> PathBuf {
        let image = self.file(name);
        fs::create_dir(&image).unwrap();
        fs::write(image.join("inventory.img"), "").unwrap();
        image
    }
}

/// The bundle's work directory, which containerd makes.
pub fn work_dir(bundle: &Path) -> PathBuf {
    let work = bundle.join("work");
    fs::create_dir_all(&work).unwrap();
    work
}
