//! Everything on the machine that belongs to one test: processes, mounts, sockets, directories and
//! cgroups. Taken before and after, compared, printed as the lines that came and went.
//!
//! What belongs to a test is known by marks that survive re-parenting and a changed argv: the
//! environment variable [`MARK`], inherited by every descendant, the test's namespace in cgroup
//! paths and arguments, and its directory in paths.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::peek::{self, Seen};

/// The environment variable that marks a test's processes; its value is the namespace.
pub const MARK: &str = "COTTER_TEST";

/// Where shims put their sockets, by contract (containerd up to 2.2 cannot change it).
const SHIM_SOCKETS: &str = "/run/containerd/s";

/// Where shims keep the runtime's state, by contract.
const RUNTIME_STATE: &str = "/run/containerd/runc";

/// The namespace of every container of containerd's CRI plugin. It has no other, so what is found by it
/// is the test's only where the test's directory or address tells.
pub const CRI_NAMESPACE: &str = "k8s.io";

/// Whose belongings to look for.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The containerd namespace, unique on the machine.
    pub namespace: String,
    /// The directory that holds the test's files.
    pub dir: PathBuf,
    /// The managers' gRPC addresses: with namespace and id they make a shim's socket name.
    pub address: PathBuf,
}

/// A process, as found in /proc.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its arguments, joined with spaces.
    pub argv: String,
}

/// The test's belongings at one moment, one readable line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);

impl Census {
    /// Counts what belongs to `owner` now, the daemon aside. `ids` are the containers whose shim sockets to look for.
    pub fn take<S: AsRef<str>>(owner: &Owner, ids: &[S]) -> Self {
        let mut lines = BTreeSet::new();
        let daemon = |p: &Process| {
            p.argv
                .split(' ')
                .next()
                .is_some_and(|a| a.ends_with("/containerd"))
        };
        for p in owner.processes().into_iter().filter(|p| !daemon(p)) {
            lines.insert(format!("process {} {}", p.pid, p.argv));
        }
        for m in owner.mounts() {
            lines.insert(format!("mount {}", m.display()));
        }
        for id in ids {
            for socket in owner.shim_sockets(id.as_ref()) {
                if socket.exists() {
                    lines.insert(format!("socket of {}: {}", id.as_ref(), socket.display()));
                }
            }
            let state = Path::new(RUNTIME_STATE).join(CRI_NAMESPACE);
            let state = state.join(id.as_ref());
            if state.exists() {
                lines.insert(format!("entry {}", state.display()));
            }
        }
        for dir in owner.task_dirs() {
            for entry in entries(&dir) {
                lines.insert(format!("entry {}", entry.display()));
            }
        }
        for dir in owner.cgroups() {
            for entry in entries(&dir).into_iter().filter(|e| e.is_dir()) {
                lines.insert(format!("cgroup {}", entry.display()));
            }
        }
        Self(lines)
    }

    /// What `after` has more (+) and less (-) than `self`, one line each; empty when alike.
    pub fn diff(&self, after: &Self) -> String {
        let gone = self.0.difference(&after.0).map(|l| format!("- {l}\n"));
        let new = after.0.difference(&self.0).map(|l| format!("+ {l}\n"));
        gone.chain(new).collect()
    }
}

impl Owner {
    /// Live processes of this test. A zombie is its parent's business and holds nothing.
    pub fn processes(&self) -> Vec<Process> {
        let mark = format!("{MARK}={}", self.namespace);
        peek::all()
            .into_iter()
            .filter_map(|Seen { pid, argv, environ }| {
                let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                let ours = environ.contains(&mark)
                    || argv.contains(&self.namespace)
                    // By whole names: `t-1` is no part of `t-10`.
                    || cgroup.split(['/', '\n']).any(|name| name == self.namespace);
                (ours && pid != std::process::id()).then(|| Process {
                    pid,
                    argv: argv.join(" "),
                })
            })
            .collect()
    }

    /// The serving shim of container `id`.
    pub fn shim(&self, id: &str) -> Option<Process> {
        self.processes().into_iter().find(|p| {
            let words: Vec<&str> = p.argv.split(' ').collect();
            let flag = |name: &str, value: &str| words.windows(2).any(|w| w == [name, value]);
            words[0].contains("containerd-shim-")
                && self.namespaces().iter().any(|n| flag("-namespace", n))
                && flag("-id", id)
                && !words.contains(&"start")
                && !words.contains(&"delete")
        })
    }

    /// Mount points below the test's directory, deepest first.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let mut found: Vec<PathBuf> = text
            .lines()
            .filter_map(|l| l.split(' ').nth(4))
            .map(PathBuf::from)
            .filter(|m| m.starts_with(&self.dir))
            .collect();
        found.sort_by_key(|m| std::cmp::Reverse(m.as_os_str().len()));
        found
    }

    /// The task and the debug socket of container `id`, by the contract's naming (section 1.6).
    pub fn shim_sockets(&self, id: &str) -> Vec<PathBuf> {
        let sockets = self.namespaces().into_iter().flat_map(|namespace| {
            let task = format!("{}/{namespace}/{id}", self.address.display());
            [format!("{task}/debug"), task]
        });
        let path = |name: String| {
            let hash = Sha256::digest(name.as_bytes());
            let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
            Path::new(SHIM_SOCKETS).join(hex)
        };
        sockets.map(path).collect()
    }

    /// The containerd namespaces that the test's containers are in.
    fn namespaces(&self) -> [&str; 2] {
        [&self.namespace, CRI_NAMESPACE]
    }

    /// Where something may stay behind per container: bundles, work directories, FIFOs, runtime state.
    fn task_dirs(&self) -> Vec<PathBuf> {
        let mut dirs = vec![
            self.dir.join("fifo"),
            self.dir.join("runtime").join(CRI_NAMESPACE),
            self.runtime_state(),
        ];
        for part in ["state", "root"].map(|part| self.dir.join(part)) {
            let bundles = part.join("io.containerd.runtime.v2.task");
            dirs.extend(self.namespaces().map(|namespace| bundles.join(namespace)));
            let cri = part.join("io.containerd.grpc.v1.cri");
            dirs.extend(["sandboxes", "containers"].map(|kind| cri.join(kind)));
        }
        dirs
    }

    /// The runtime's state directory of this namespace.
    pub fn runtime_state(&self) -> PathBuf {
        Path::new(RUNTIME_STATE).join(&self.namespace)
    }

    /// The namespace's directory in every cgroup hierarchy that has one.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        text.lines()
            .filter(|l| l.contains(" - cgroup"))
            .filter_map(|l| l.split(' ').nth(4))
            .map(|m| Path::new(m).join(&self.namespace))
            .filter(|d| d.is_dir())
            .collect()
    }

    /// Removes everything that is left, whoever left it. For the end of a test, good or bad.
    pub fn clear<S: AsRef<str>>(&self, ids: &[S]) {
        // A frozen process of cgroup v1 does not die.
        for dir in self.cgroups().iter().flat_map(|dir| entries(dir)) {
            let _ = fs::write(dir.join("freezer.state"), "THAWED");
        }
        // Bounded and silent: this also runs while a failed test unwinds.
        for _ in 0..500 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            left.iter().for_each(|p| super::signal(p.pid, "KILL"));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        for m in self.mounts() {
            let _ = nix::mount::umount2(&m, nix::mount::MntFlags::MNT_DETACH);
        }
        for id in ids {
            for socket in self.shim_sockets(id.as_ref()) {
                let _ = fs::remove_file(socket);
            }
        }
        for dir in self.cgroups() {
            for entry in entries(&dir) {
                let _ = fs::remove_dir(entry);
            }
            let _ = fs::remove_dir(dir);
        }
        let _ = fs::remove_dir_all(self.runtime_state());
    }
}

/// The entries of a directory; none when it does not exist.
/// What is in a directory, but for what crun 1.28 keeps beside its containers, for all of them and
/// for good.
pub fn entries(dir: &Path) -> Vec<PathBuf> {
    let kept = |path: &PathBuf| path.ends_with(".empty-directory");
    fs::read_dir(dir)
        .map(|d| d.flatten().map(|e| e.path()).filter(|e| !kept(e)).collect())
        .unwrap_or_default()
}
