//! A bundle directory: config.json, a place for the rootfs, and the log FIFO.
//!
//! Invariant: while a [`Bundle`] lives, a shim that writes to its log neither blocks for want of a
//! reader nor fails; when it is dropped, nothing of the directory is left, and nothing that is
//! mounted in it is deleted.

use std::collections::VecDeque;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::mount::mountinfo::{self, Entry};

/// How many lines of a log are kept.
const LOG_LINES: usize = 1000;

/// A bundle, removed when dropped.
pub struct Bundle {
    path: PathBuf,
    log: Arc<Mutex<VecDeque<String>>>,
    reader: JoinHandle<()>,
    keep: bool,
}

impl Bundle {
    /// Makes the directory `path`, whose parent must exist, and begins to read its log.
    ///
    /// # Errors
    /// When it exists or cannot be made.
    pub fn create(path: &Path, config: &Value) -> Result<Self> {
        let failed = |what: &str, why: &std::io::Error| {
            Error::io(
                format_args!("make {what} of bundle {}", path.display()),
                why,
            )
        };
        let mut directory = fs::DirBuilder::new();
        directory
            .mode(0o700)
            .create(path)
            .map_err(|why| match why.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    Error::already_exists(format_args!("bundle {}", path.display()))
                }
                _ => failed("the directory", &why),
            })?;
        // From here on a failure removes what there is.
        let mut bundle = Self {
            path: path.to_owned(),
            log: Arc::default(),
            reader: tokio::spawn(async {}),
            keep: false,
        };
        directory
            .mode(0o711)
            .create(path.join("rootfs"))
            .map_err(|why| failed("rootfs", &why))?;
        fs::write(path.join("config.json"), config.to_string())
            .map_err(|why| failed("config.json", &why))?;
        let fifo = path.join("log");
        mkfifo(&fifo, Mode::S_IRWXU).map_err(|why| failed("log", &why.into()))?;
        bundle.reader = read_log(&fifo, Arc::clone(&bundle.log))?;
        Ok(bundle)
    }

    /// Takes over a bundle that another manager made.
    ///
    /// # Errors
    /// When its log cannot be opened.
    pub fn adopt(path: &Path) -> Result<Self> {
        let log = Arc::default();
        let reader = read_log(&path.join("log"), Arc::clone(&log))?;
        Ok(Self {
            path: path.to_owned(),
            log,
            reader,
            keep: false,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory for the rootfs.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// The last lines that the shim logged.
    pub fn log(&self) -> Vec<String> {
        let lines = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    /// Lets go of the directory without removing it.
    pub fn keep(mut self) {
        self.keep = true;
    }

    /// Removes the directory.
    ///
    /// # Errors
    /// When something is mounted in it that cannot be unmounted, or it cannot be removed.
    pub fn remove(mut self) -> Result<()> {
        self.keep = true;
        remove(&self.path)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.reader.abort();
        if !self.keep
            && let Err(why) = remove(&self.path)
        {
            log::warn!("{why}");
        }
    }
}

/// Reading and writing, so that there is always a reader and a writer: shims come and go without
/// an end of file, and a shim that is left behind does not block on its log.
fn read_log(fifo: &Path, log: Arc<Mutex<VecDeque<String>>>) -> Result<JoinHandle<()>> {
    let receiver = pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(fifo)
        .map_err(|why| Error::io(format_args!("open {}", fifo.display()), &why))?;
    Ok(tokio::spawn(async move {
        let mut lines = BufReader::new(receiver).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() == LOG_LINES {
                log.pop_front();
            }
            log.push_back(line);
        }
    }))
}

/// How often what is mounted is looked for: while others mount and unmount, the kernel's table may leave some out.
const LOOKS: usize = 5;

/// Unmounts whatever is mounted below `path`, innermost first, and removes it.
fn remove(path: &Path) -> Result<()> {
    for look in 1.. {
        for mount in mounts_below(path)?.iter().rev() {
            umount2(mount, MntFlags::MNT_DETACH).map_err(|why| {
                Error::io(format_args!("unmount {}", mount.display()), &why.into())
            })?;
        }
        match fs::remove_dir_all(path) {
            Err(why) if why.kind() == ErrorKind::ResourceBusy && look < LOOKS => {}
            Err(why) if why.kind() != ErrorKind::NotFound => {
                return Err(Error::io(format_args!("remove {}", path.display()), &why));
            }
            _ => break,
        }
    }
    Ok(())
}

fn mounts_below(path: &Path) -> Result<Vec<PathBuf>> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let below = |entry: Entry| {
        entry
            .mount_point
            .starts_with(&path)
            .then_some(entry.mount_point)
    };
    mountinfo::read(below).map_err(|why| Error::io("read /proc/self/mountinfo", &why))
}
