//! What a shim has at one moment, counted; what of it may add up and what may not; pure but for
//! [`Counts::take`].

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a shim has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Kinds of open files, sorted.
    pub open: Vec<String>,
    /// Threads.
    pub threads: usize,
    /// Programs of the processes whose parent it is, zombies too, sorted.
    pub children: Vec<String>,
    /// Mount points below the scene's directory, sorted.
    pub mounts: Vec<String>,
    /// Private memory that is not a file's, in KiB.
    pub memory: u64,
}

/// What may be more than before.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Open files that are closed when garbage is collected, by kind.
    pub open: &'static [&'static str],
    /// Threads that are kept for the next who needs one.
    pub threads: usize,
    /// In KiB; none where it is not judged.
    pub memory: Option<u64>,
}

impl Counts {
    /// Of the process `pid`, with these `mounts`.
    pub fn take(pid: u32, mounts: Vec<PathBuf>) -> Self {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let links = fs::read_dir(proc.join("fd")).into_iter().flatten();
        let links = links
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok());
        let mut open: Vec<String> = links.map(|to| kind(&to.to_string_lossy())).collect();
        // The kernel's log is open from when it is first asked to when there is no container.
        open.retain(|to| to != "/dev/kmsg");
        open.sort();
        let mut children: Vec<String> = processes()
            .filter_map(|stat| child_of(pid, &stat))
            .collect();
        children.sort();
        let mounts = mounts.iter().map(|at| at.display().to_string());
        let mut mounts: Vec<String> = mounts.collect();
        mounts.sort();
        let rollup = fs::read_to_string(proc.join("smaps_rollup")).unwrap_or_default();
        Self {
            open,
            threads: fs::read_dir(proc.join("task")).map_or(0, Iterator::count),
            children,
            mounts,
            memory: anonymous(&rollup).unwrap_or(0),
        }
    }

    /// What `after` has more than this, a line each.
    pub fn more(&self, after: &Self, allowed: Allowance) -> Vec<String> {
        let open = surplus(&self.open, &after.open);
        let open = open
            .filter(|to| !allowed.open.contains(to))
            .map(|to| format!("open: {to}"));
        let children = surplus(&self.children, &after.children);
        let children = children.map(|name| format!("child: {name}"));
        let mounts = surplus(&self.mounts, &after.mounts).map(|at| format!("mount: {at}"));
        let threads = (after.threads > self.threads + allowed.threads)
            .then(|| format!("threads: {} to {}", self.threads, after.threads));
        let memory = allowed
            .memory
            .filter(|most| after.memory > self.memory + most);
        let memory = memory.map(|_| format!("memory: {} to {} KiB", self.memory, after.memory));
        open.chain(children)
            .chain(mounts)
            .chain(threads)
            .chain(memory)
            .collect()
    }
}

/// The elements of the sorted `after` that the sorted `before` has not, or not as often.
fn surplus<'a>(before: &'a [String], after: &'a [String]) -> impl Iterator<Item = &'a str> {
    let mut before = before.iter().peekable();
    after.iter().map(String::as_str).filter(move |one| {
        while before.next_if(|b| b.as_str() < *one).is_some() {}
        before.next_if(|b| b.as_str() == *one).is_none()
    })
}

/// Without the number that makes a pipe or a socket another one.
pub fn kind(to: &str) -> String {
    match to.split_once(":[") {
        Some(("anon_inode", _)) | None => to.to_owned(),
        Some((kind, _)) => kind.to_owned(),
    }
}

/// The program of a process by its line of /proc/PID/stat, if `parent` is its parent.
pub fn child_of(parent: u32, stat: &str) -> Option<String> {
    let (head, tail) = stat.rsplit_once(')')?;
    let mut fields = tail.split_whitespace();
    let (_state, of) = (fields.next()?, fields.next()?);
    (of.parse() == Ok(parent)).then(|| head.split_once('(').map_or("", |(_, name)| name).to_owned())
}

/// The private memory in KiB by /proc/PID/smaps_rollup.
pub fn anonymous(rollup: &str) -> Option<u64> {
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    line?.split_whitespace().next()?.parse().ok()
}

fn processes() -> impl Iterator<Item = String> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok())
}
