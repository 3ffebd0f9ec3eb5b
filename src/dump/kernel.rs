//! What the kernel tells of a process without asking the process.
//!
//! Invariant: only files of /proc are read that take neither the process's memory map lock nor its
//! exec lock (`status`, `wchan`, `comm`, links of `fd`): reading `cmdline` or `stack` of a process that
//! is stuck in the kernel may get stuck likewise. What cannot be read is absent.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::kernel_file;
use crate::monitor::{Pid, children};

/// A thread, or a process by its first one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Thread {
    /// Its id.
    pub tid: Pid,
    /// Its name.
    pub name: String,
    /// As the kernel says it: `S (sleeping)`, `D (disk sleep)`, `T (stopped)`, …
    pub state: String,
    /// The function of the kernel that it waits in.
    pub wchan: Option<String>,
}

/// Sizes of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// In memory, shared pages included.
    pub rss_bytes: u64,
    /// Of these, no file's: heap and stacks.
    pub anonymous_bytes: u64,
}

/// What a process or a thread (`<pid>/task/<tid>`) is at; `None` if it is gone.
pub fn look(process: &str) -> Option<Thread> {
    let dir = Path::new("/proc").join(process);
    let status = kernel_file::text(dir.join("status")).ok()?;
    let field = |name: &str| field(&status, name).unwrap_or_default().to_owned();
    Some(Thread {
        tid: field("Pid").parse().unwrap_or(0),
        name: field("Name"),
        state: field("State"),
        wchan: wchan(&dir),
    })
}

/// `0` is a task that does not wait or may not be looked at.
fn wchan(dir: &Path) -> Option<String> {
    let name = fs::read_to_string(dir.join("wchan")).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty() && name != "0")
}

/// All threads of a process (a pid or `self`).
pub fn threads(process: &str) -> Vec<Thread> {
    let names = numbers(&Path::new("/proc").join(process).join("task"));
    let thread = |tid: &Pid| look(&format!("{process}/task/{tid}"));
    names.iter().filter_map(thread).collect()
}

/// The children of a process, those that are not reaped included.
pub fn offspring(process: &str) -> Vec<Thread> {
    let pids = children(process).unwrap_or_default();
    pids.iter()
        .filter_map(|pid| look(&pid.to_string()))
        .collect()
}

/// How much memory a process uses.
pub fn memory(process: &str) -> Memory {
    let status = kernel_file::text(Path::new("/proc").join(process).join("status"));
    parse_memory(&status.unwrap_or_default())
}

/// How many descriptors a process has open; `None` if it may not be looked at.
pub fn descriptors(process: &str) -> Option<usize> {
    let fds = fs::read_dir(Path::new("/proc").join(process).join("fd")).ok()?;
    Some(fds.count())
}

/// Whether a process has a handler for a signal, so that sending it does not end it.
pub fn catches(process: &str, signal: i32) -> bool {
    let status = kernel_file::text(Path::new("/proc").join(process).join("status"));
    parse_catches(&status.unwrap_or_default(), signal)
}

/// The entries of a directory whose names are numbers, sorted.
pub fn numbers(dir: &Path) -> Vec<Pid> {
    let mut all: Vec<Pid> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    all.sort_unstable();
    all
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

fn parse_memory(status: &str) -> Memory {
    let size = |name| {
        let kib = field(status, name).and_then(|value| value.strip_suffix("kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok())
            .map_or(0, |kib| kib * 1024)
    };
    Memory {
        rss_bytes: size("VmRSS"),
        anonymous_bytes: size("RssAnon"),
    }
}

fn parse_catches(status: &str, signal: i32) -> bool {
    let mask = field(status, "SigCgt").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    // Signal 1 is bit 0.
    mask.is_some_and(|mask| (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tcat\nUmask:\t0022\nState:\tD (disk sleep)\nPid:\t42\n\
        VmRSS:\t    1844 kB\nRssAnon:\t      92 kB\nSigCgt:\t0000000000014600\n";

    #[test]
    fn whatever_a_process_calls_itself() {
        let odd = kernel_file::OddlyNamed::new();
        let seen = look(&odd.pid().to_string()).unwrap();
        assert_eq!(
            (seen.tid, seen.name.as_str()),
            (odd.pid(), "\u{fc}berwachung\u{fffd}")
        );
        assert!(memory(&odd.pid().to_string()).rss_bytes > 0);
    }

    #[test]
    fn the_fields_of_a_status() {
        assert_eq!(field(STATUS, "State"), Some("D (disk sleep)"));
        assert_eq!(field(STATUS, "Stat"), None);
        let memory = Memory {
            rss_bytes: 1844 * 1024,
            anonymous_bytes: 92 * 1024,
        };
        assert_eq!(parse_memory(STATUS), memory);
        assert_eq!(parse_memory("VmRSS: much\n"), Memory::default());
    }

    #[test]
    fn caught_signals() {
        // 0x14600: 10 (USR1), 11, 15 and 17 (CHLD).
        for (signal, caught) in [
            (10, true),
            (15, true),
            (17, true),
            (9, false),
            (12, false),
            (0, false),
            (65, false),
            (-1, false),
        ] {
            assert_eq!(parse_catches(STATUS, signal), caught, "{signal}");
        }
        assert!(!parse_catches("SigCgt: x\n", 10));
    }

    #[test]
    fn this_process() {
        let me = std::process::id().to_string();
        let first = look(&me).unwrap();
        assert_eq!(first.tid.to_string(), me);
        let threads = threads("self");
        assert!(
            threads.iter().any(|t| t.state.starts_with('R')),
            "{threads:?}"
        );
        assert!(descriptors("self").unwrap() > 2);
        assert!(memory("self").rss_bytes > memory("self").anonymous_bytes);
        assert!(look("0").is_none());
    }
}
