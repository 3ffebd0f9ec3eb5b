//! A runtime that checkpoints and restores without CRIU; real ones are in `tests/vm_checkpoint.rs`.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use super::script::Script;
use super::tool;

const SCRIPT: &str = include_str!("dumper.sh");

/// A script in front of a real runtime.
pub struct Dumper(Script);

impl Dumper {
    /// In front of a runtime of the tools' list.
    pub fn new(runtime: &str) -> Self {
        let script = Script::new(|_| SCRIPT.into());
        let real = format!("{}\n", tool(runtime).display());
        fs::write(script.file("real"), real).unwrap();
        Self(script)
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

    /// A directory with an image that can be restored.
    pub fn image(&self, name: &str) -> PathBuf {
        let image = self.file(name);
        fs::create_dir(&image).unwrap();
        fs::write(image.join("inventory.img"), "").unwrap();
        image
    }
}

impl Deref for Dumper {
    type Target = Script;

    fn deref(&self) -> &Script {
        &self.0
    }
}

/// The bundle's work directory, which containerd makes.
pub fn work_dir(bundle: &Path) -> PathBuf {
    let work = bundle.join("work");
    fs::create_dir_all(&work).unwrap();
    work
}
