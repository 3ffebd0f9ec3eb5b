//! Where a dump is kept: the log, and a file in the bundle.
//!
//! Invariant: whoever has one kept waits for nothing. The file is written by a thread of its own, one
//! at a time, in one step, and the latest dump wins; a disk that hangs holds that thread and nothing
//! else.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{fs, sync::Arc};

use tokio::sync::watch;

use super::{Dump, FILE, text};
use crate::blocking::blocking;
use crate::errno::Words;

/// The most lines that go to the log, which is a pipe of 64 KiB and has other things to hold; the file
/// has them all.
const LOG_LINES: usize = 120;

/// A dump and the directories it may be kept in, best first.
type Work = Option<Arc<(Dump, Vec<PathBuf>)>>;

/// Keeps dumps; its task ends with it.
#[derive(Debug)]
pub struct Keeper(watch::Sender<Work>);

impl Keeper {
    /// Starts its task.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start() -> Self {
        let (sender, work) = watch::channel(None);
        tokio::spawn(write_all(work));
        Self(sender)
    }

    /// Logs a dump, and writes it to the first of `bundles` that takes it.
    pub fn keep(&self, dump: Dump, bundles: Vec<PathBuf>) {
        log_it(&dump);
        self.0.send_replace(Some(Arc::new((dump, bundles))));
    }
}

fn log_it(dump: &Dump) {
    let text = text::text(dump);
    let lines = text.lines().filter(|line| !line.is_empty());
    for line in lines.clone().take(LOG_LINES) {
        log::info!("dump: {line}");
    }
    let left = lines.count().saturating_sub(LOG_LINES);
    if left > 0 {
        log::info!("dump: {left} more lines; the file in the bundle has them");
    }
}

async fn write_all(mut work: watch::Receiver<Work>) {
    while work.changed().await.is_ok() {
        let Some(latest) = work.borrow_and_update().clone() else {
            continue;
        };
        let written = blocking("write-dump", move || write(&latest.0, &latest.1)).await;
        match written {
            Ok(Ok(path)) => log::info!("dump: written to {}", path.display()),
            Ok(Err(why)) => log::warn!("dump: not written to any bundle: {why}", why = why.words()),
            Err(why) => log::warn!("dump: {why}"),
        }
    }
}

/// Writes to the first directory that is there and takes it.
fn write(dump: &Dump, bundles: &[PathBuf]) -> io::Result<PathBuf> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "there is none");
    for bundle in bundles {
        match replace(bundle, dump.to_json().as_bytes()) {
            Ok(path) => return Ok(path),
            Err(why) => {
                let why = format!("{}: {why}", bundle.display(), why = why.words());
                failed = io::Error::other(why);
            }
        }
    }
    Err(failed)
}

/// In one step, so that nobody reads half of it; the one before is gone only when this one is whole.
fn replace(bundle: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let (path, new) = (bundle.join(FILE), bundle.join(format!("{FILE}.new")));
    // Left by a shim that was killed meanwhile.
    let _ = fs::remove_file(&new);
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new);
    let written = file
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&new, &path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.map(|()| path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn dump(n: u32) -> Dump {
        let mut dump = Dump::default();
        dump.add("n", json!(n));
        dump
    }

    #[test]
    fn the_first_directory_that_takes_it() {
        let dir = std::env::temp_dir().join(format!("cotter-keep-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let gone = dir.join("gone");
        for n in 0..2 {
            let path = write(&dump(n), &[gone.clone(), dir.clone()]).unwrap();
            assert_eq!(path, dir.join(FILE));
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(Dump::from_json(&text).unwrap(), dump(n));
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing beside it");

        // A link that somebody put there is replaced, not followed.
        let victim = dir.join("victim");
        fs::write(&victim, "mine").unwrap();
        fs::remove_file(dir.join(FILE)).unwrap();
        std::os::unix::fs::symlink(&victim, dir.join(FILE)).unwrap();
        std::os::unix::fs::symlink(&victim, dir.join(format!("{FILE}.new"))).unwrap();
        write(&dump(7), std::slice::from_ref(&dir)).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        fs::remove_dir_all(&dir).unwrap();

        let why = write(&dump(8), &[gone]).unwrap_err().to_string();
        assert!(why.contains("gone: no such file"), "{why}");
        assert!(write(&dump(8), &[]).is_err());
    }
}
