//! Arguments and environments of processes that are not the test's own, read so that no process can hold
//! the reader up.
//!
//! To read them the kernel takes locks that a process can keep for as long as it likes (its memory map's:
//! one thread waits for a dead disk in mmap). So they are read on a thread of its own, which is left
//! to it when that takes too long; it ends with the test at the latest, as that wait can be killed. Until
//! it has ended, that process is not looked at again. Nobody else reads such files
//! (`tests/docs.rs::nobody_reads_what_can_hold_up_the_reader`).
//!
//! Each test file takes what it needs.

#![allow(dead_code)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cotter::kin::Stat;

/// How long one process may take to be read: far longer than any that lets itself be read.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub pid: u32,
    /// Its arguments.
    pub argv: Vec<String>,
    /// Its environment.
    pub environ: Vec<String>,
}

/// A pid and when it was forked.
type Name = (u32, u64);

/// The readers that were left to their process.
static LEFT: Mutex<Option<HashMap<Name, Arc<AtomicBool>>>> = Mutex::new(None);

/// All live processes but those that do not let themselves be read. A zombie is its parent's business.
pub fn all() -> Vec<Seen> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    see(pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// The arguments of one process, if it is there and lets itself be read.
pub fn argv(pid: u32) -> Option<Vec<String>> {
    see([pid].into_iter()).pop().map(|seen| seen.argv)
}

fn see(pids: impl Iterator<Item = u32>) -> Vec<Seen> {
    let live = pids.filter_map(|pid| {
        let stat = Stat::of(pid.cast_signed()).filter(|stat| !stat.has_ended())?;
        Some((pid, stat.since))
    });
    let mut names: Vec<Name> = live.filter(|name| !is_left(*name)).collect();
    let mut all = Vec::new();
    while !names.is_empty() {
        let (tell, told) = mpsc::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let (rest, flag) = (names.clone(), Arc::clone(&ended));
        std::thread::spawn(move || {
            read(&rest, &tell);
            flag.store(true, Ordering::Release);
        });
        let mut done = 0;
        while done < names.len() {
            match told.recv_timeout(PATIENCE) {
                Ok(seen) => all.extend(seen),
                Err(_) => {
                    leave(names[done], ended);
                    done += 1;
                    break;
                }
            }
            done += 1;
        }
        names.drain(..done);
    }
    all
}

/// One answer for each, until nobody wants any.
fn read(names: &[Name], tell: &Sender<Option<Seen>>) {
    for (pid, _) in names {
        let dir = Path::new("/proc").join(pid.to_string());
        let seen = fs::read(dir.join("cmdline")).ok().map(|argv| Seen {
            pid: *pid,
            argv: words(&argv),
            environ: words(&fs::read(dir.join("environ")).unwrap_or_default()),
        });
        if tell.send(seen).is_err() {
            return;
        }
    }
}

fn is_left(name: Name) -> bool {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    let left = left.get_or_insert_default();
    left.retain(|_, ended| !ended.load(Ordering::Acquire));
    left.contains_key(&name)
}

fn leave(name: Name, ended: Arc<AtomicBool>) {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.get_or_insert_default().insert(name, ended);
}

/// Splits a NUL-separated list from /proc.
fn words(raw: &[u8]) -> Vec<String> {
    raw.split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(|w| String::from_utf8_lossy(w).into_owned())
        .collect()
}
