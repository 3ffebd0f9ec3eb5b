//! What can be seen of a shim without asking it: by its socket, and in /proc.
//!
//! Invariant: nothing is asked of the process itself, so a stopped or stuck one is shown like any other.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use cotter::dump::{Dump, kernel};
use cotter::monitor::Pid;

/// Of a listening socket (`__SO_ACCEPTCON`, include/linux/net.h).
const LISTENS: u32 = 1 << 16;

/// A process that has a listening socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) pid: u32,
    inode: u64,
}

impl Listener {
    /// Whether the process of this pid still has the socket.
    pub(super) fn is_held(self) -> bool {
        holds(self.pid, self.inode)
    }
}

/// Who listens at a path, without connecting to it.
pub(super) fn listener(path: &Path) -> Option<Listener> {
    let table = fs::read("/proc/net/unix").ok()?;
    let inode = inode_of(&table, path.as_os_str().as_bytes())?;
    let pids = kernel::numbers(Path::new("/proc")).into_iter();
    let mut pids = pids.map(Pid::cast_unsigned);
    pids.find(|pid| holds(*pid, inode))
        .map(|pid| Listener { pid, inode })
}

/// The inode of the socket that listens at a path. A new shim of the same name comes after one whose
/// file is gone. The names are what programs have given them: any bytes.
fn inode_of(table: &[u8], path: &[u8]) -> Option<u64> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(|line| parse(line, path)).next_back()
}

fn parse(line: &[u8], path: &[u8]) -> Option<u64> {
    // Num: RefCount Protocol Flags Type St Inode Path; only the inode is padded.
    let head = line.strip_suffix(path)?.strip_suffix(b" ")?;
    let head = std::str::from_utf8(head).ok()?;
    let fields: Vec<&str> = head.split_ascii_whitespace().collect();
    let [_, _, _, flags, _, _, inode] = fields[..] else {
        return None;
    };
    let flags = u32::from_str_radix(flags, 16).ok()?;
    (flags & LISTENS != 0).then(|| inode.parse().ok())?
}

fn holds(pid: u32, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let fds = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    fds.flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .any(|link| link.as_os_str() == wanted.as_str())
}

/// A thread with what takes the exec lock to read.
#[derive(Serialize)]
struct Thread {
    #[serde(flatten)]
    thread: kernel::Thread,
    syscall: Option<String>,
    stack: Vec<String>,
}

/// The process, its threads, its children and theirs, and its descriptors. `deep` reads system calls
/// and stacks too, which may wait for a process that is stuck in execve.
pub(super) fn view(pid: u32, deep: bool) -> Dump {
    let process = pid.to_string();
    let mut view = Dump::default();
    let Some(seen) = kernel::look(&process) else {
        view.add("process", json!("gone"));
        return view;
    };
    let memory = kernel::memory(&process);
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    view.add(
        "process",
        json!({
            "pid": pid,
            "name": seen.name,
            "state": seen.state,
            "executable": exe.ok().map(|path| path.to_string_lossy().into_owned()),
            "rss_bytes": memory.rss_bytes,
            "anonymous_bytes": memory.anonymous_bytes,
            "uid": fs::metadata(format!("/proc/{pid}")).map(|meta| meta.uid()).ok(),
        }),
    );
    let threads = kernel::threads(&process).into_iter().map(|thread| {
        let file = |name| {
            let path = format!("/proc/{pid}/task/{}/{name}", thread.tid);
            deep.then(|| fs::read_to_string(path).ok()).flatten()
        };
        let stack = file("stack").unwrap_or_default();
        Thread {
            syscall: file("syscall").map(|text| call(&text)),
            stack: stack.lines().map(function).collect(),
            thread,
        }
    });
    view.add("threads", value(threads.collect::<Vec<_>>()));
    view.add("children", value(family(&process)));
    view.add("descriptors", value(descriptors(pid)));
    view
}

fn value(section: impl Serialize) -> Value {
    serde_json::to_value(section).unwrap_or_default()
}

/// The number of a system call; `running` and `-1` (in no call) as they are.
fn call(text: &str) -> String {
    let mut words = text.split_whitespace();
    words.next().unwrap_or_default().to_owned()
}

/// The function of a line of a stack: `[<0>] do_epoll_wait+0x2f0/0x3a0`.
fn function(line: &str) -> String {
    let name = line.split_once("] ").map_or(line, |(_, name)| name);
    name.split('+').next().unwrap_or_default().to_owned()
}

/// A process below another, by its depth.
#[derive(Serialize)]
struct Relative {
    parent: Pid,
    #[serde(flatten)]
    process: kernel::Thread,
}

/// Runtime calls are children, what they started grandchildren: two generations, bounded.
fn family(process: &str) -> Vec<Relative> {
    const MOST: usize = 500;
    let mut all = Vec::new();
    let mut parents = vec![process.to_owned()];
    for _ in 0..2 {
        let mut next = Vec::new();
        for parent in parents {
            for child in kernel::offspring(&parent).into_iter().take(MOST) {
                next.push(child.tid.to_string());
                all.push(Relative {
                    parent: parent.parse().unwrap_or(0),
                    process: child,
                });
            }
        }
        parents = next;
    }
    all.truncate(MOST);
    all
}

/// A kind of descriptor and how many there are.
#[derive(Serialize)]
struct Kind {
    count: usize,
    of: String,
}

fn descriptors(pid: u32) -> Vec<Kind> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let fds = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    for link in fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()) {
        let link = link.to_string_lossy();
        let kind = link.split(":[").next().unwrap_or_default();
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    let kinds = kinds.into_iter();
    kinds.map(|(of, count)| Kind { count, of }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn the_table_of_sockets() {
        let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 27012 /run/s/one
0000000000000000: 00000003 00000000 00000000 0001 03 27013 /run/s/one
0000000000000000: 00000003 00000000 00000000 0001 03 27014
0000000000000000: 00000002 00000000 00010000 0001 01   315 /run/a name
0000000000000000: 00000002 00000000 00010000 0001 01 27020 /run/s/one
";
        assert_eq!(
            inode_of(table.as_bytes(), b"/run/s/one"),
            Some(27020),
            "the latest"
        );
        assert_eq!(inode_of(table.as_bytes(), b"/run/a name"), Some(315));
        assert_eq!(inode_of(table.as_bytes(), b"/run/s/on"), None);
        assert_eq!(inode_of(table.as_bytes(), b"name"), None);
        assert_eq!(inode_of(b"", b"/run/s/one"), None);
        // Somebody else's, which is no text.
        let odd = b"0: 00000002 00000000 00010000 0001 01 77 /run/\xff\n";
        let both = [odd, table.as_bytes()].concat();
        assert_eq!(inode_of(&both, b"/run/s/one"), Some(27020));
        assert_eq!(inode_of(&both, b"/run/\xff"), Some(77));
    }

    #[test]
    fn lines_of_the_kernel() {
        assert_eq!(call("232 0x4 0x7f 0x400 0x7ffe"), "232");
        assert_eq!(call("running\n"), "running");
        assert_eq!(function("[<0>] do_epoll_wait+0x2f0/0x3a0"), "do_epoll_wait");
        assert_eq!(function("what"), "what");
    }

    #[test]
    fn the_listener_is_found_and_not_its_clients() {
        let path = std::env::temp_dir().join(format!("cotter-listener-{}", std::process::id()));
        let socket = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let served = socket.accept().unwrap();
        let found = listener(&path).unwrap();
        assert_eq!(found.pid, std::process::id());
        assert!(found.is_held());
        drop(socket);
        assert!(!found.is_held());
        assert_eq!(listener(&path), None);
        drop((client, served));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn this_process_from_outside() {
        let view = view(std::process::id(), true);
        let threads = view.section("threads").unwrap().as_array().unwrap();
        assert!(!threads.is_empty());
        assert_eq!(view.section("process").unwrap()["pid"], std::process::id());
        let fds = view.section("descriptors").unwrap().as_array().unwrap();
        assert!(!fds.is_empty());
        assert_eq!(
            super::view(0, true).section("process"),
            Some(&json!("gone"))
        );
    }
}
