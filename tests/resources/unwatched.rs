//! What cannot be watched: it is logged once with its path, the container runs on, and the dump says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cotter::cgroup::Version;
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use serde_json::Value;

use crate::cgroup;
use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::common::{limit_descriptors, unique};

/// A file of a cgroup that is there before the container, and says nothing.
struct Blind {
    path: String,
    files: Vec<PathBuf>,
}

impl Blind {
    fn new() -> Self {
        Self::behind(Path::new("/dev/null"))
    }

    /// What the files say is what `source` says.
    fn behind(source: &Path) -> Self {
        let path = format!("/{}", unique("cotter-blind"));
        let root = Path::new("/sys/fs/cgroup");
        let files = match cgroup(1).version() {
            Version::V1 => ["pids", "memory"].map(|name| root.join(name)),
            Version::V2 => {
                fs::write(root.join("cgroup.subtree_control"), "+pids +memory").unwrap();
                [root, root].map(Path::to_owned)
            }
        };
        let names = match cgroup(1).version() {
            Version::V1 => ["pids.events", "memory.oom_control"],
            Version::V2 if root.join("init.scope/pids.events.local").exists() => {
                ["pids.events.local", "memory.events"]
            }
            Version::V2 => ["pids.events", "memory.events"],
        };
        let file = |(root, name): (PathBuf, &str)| {
            let dir = root.join(&path[1..]);
            fs::create_dir_all(&dir).unwrap();
            let mut mount = Command::new("mount");
            mount.arg("--bind").arg(source).arg(dir.join(name));
            crate::common::run(&mut mount).ok();
            dir.join(name)
        };
        let files = files.into_iter().zip(names).map(file).collect();
        Self { path, files }
    }

    fn lift(&self) {
        for file in &self.files {
            let _ = nix::mount::umount(file);
        }
    }
}

impl Drop for Blind {
    fn drop(&mut self) {
        self.lift();
        for file in &self.files {
            let _ = fs::remove_dir(file.parent().unwrap());
        }
    }
}

/// What the shim's dump has in a section of the container; the shim was started for `first`.
fn dumped(shim: &Shim, first: &str, section: &str) -> Value {
    let mut tool = Command::new(crate::common::cotter::cotter());
    tool.env("COTTER_HOME", "/nonexistent");
    tool.args(["dump", "-q", "--json"]);
    let said = crate::common::run(tool.arg(shim.bundle_path(first))).ok();
    let read: Value = serde_json::from_str(&said).unwrap();
    let rows = read[0]["dump"][section].as_array();
    let mut rows = rows.into_iter().flatten();
    let row = rows.find(|row| row["container"] == "c");
    row.cloned().unwrap_or_default()
}

/// An exec of the container runs.
pub async fn works(shim: &Shim) {
    shim.exec("c", "x", &["true"]).await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 0);
    shim.delete("c", "x").await.unwrap();
}

/// What is not watched is said once, in the log and in the dump, with these words; and of what is watched
/// nothing is said.
pub fn names(shim: &Shim, pids: Option<&str>, memory: Option<&str>) {
    names_in(shim, "c", pids, memory);
}

fn names_in(shim: &Shim, first: &str, pids: Option<&str>, memory: Option<&str>) {
    let log = shim.log();
    for (what, section, why) in [
        ("its limit of processes", "limits of processes", pids),
        ("its OOM kills", "killed for want of memory", memory),
    ] {
        let about: Vec<&String> = log.iter().filter(|line| line.contains(what)).collect();
        let row = dumped(shim, first, section);
        let said = row["unwatched"].as_str();
        let Some(why) = why else {
            assert!(about.is_empty() && said.is_none(), "{about:#?} {row}");
            continue;
        };
        assert_eq!(about.len(), 1, "{what}: {log:#?}");
        assert!(about[0].contains(why), "{}", about[0]);
        assert!(said.unwrap().contains(why), "{row}");
    }
}

async fn runs_on_unwatched(shim: &mut Shim, pids: &str, memory: &str) {
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    works(shim).await;
    names(shim, Some(pids), Some(memory));
}

#[test]
fn files_that_say_nothing() {
    for runtime in RUNTIMES {
        run(async {
            let blind = Blind::new();
            let mut spec = Spec::new("c", ["sleep", "1000"]);
            spec.cgroups_path.clone_from(&blind.path);
            let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            let [pids, memory] = [0, 1].map(|n| blind.files[n].display().to_string());
            runs_on_unwatched(&mut shim, &pids, &memory).await;
            blind.lift();
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// The containers of one shim from which on it has word from inotify.
async fn until_inotify(shim: &mut Shim) {
    let has = |shim: &Shim| {
        let fds = fs::read_dir(format!("/proc/{}/fd", shim.pid())).unwrap();
        let mut links = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        links.any(|to| to == Path::new("anon_inode:inotify"))
    };
    for n in 0.. {
        if has(shim) {
            return;
        }
        assert!(n < 10, "no inotify for {n} containers");
        let id = format!("other-{n}");
        shim.run(&id, &["sleep", "1000"]).await;
    }
}

/// The file is gone for inotify, and cannot be opened to be polled: there is nobody left to tell of it.
#[test]
#[ignore = "only with cgroup v2, or before Linux 6.11, are there files to be watched: make test-vm"]
fn a_file_that_is_lost() {
    run(async {
        let file = unique("cotter-lost");
        let file = std::env::temp_dir().join(file);
        fs::write(&file, "max 0\noom_kill 0\n").unwrap();
        let lost = Blind::behind(&file);
        let [pids, memory] = [0, 1].map(|n| lost.files[n].display().to_string());
        let mut shim = Shim::start("RUNC", "first", &["sleep", "1000"]).await;
        shim.create("first").await.unwrap();
        until_inotify(&mut shim).await;
        let mut spec = Spec::new("c", ["sleep", "1000"]);
        spec.cgroups_path.clone_from(&lost.path);
        shim.bundle("c", spec);
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        works(&shim).await;
        names_in(&shim, "first", None, None);

        let pid = shim.pid();
        let before = limit_descriptors(pid, 4);
        lost.lift();
        fs::remove_file(&file).unwrap();
        let told = |shim: &Shim, word: &str| shim.log().iter().any(|line| line.contains(word));
        until("it is said", || {
            told(&shim, "its limit of processes") && told(&shim, "its OOM kills")
        })
        .await;
        limit_descriptors(pid, before);
        let why = |path: &str| format!("watch {path} any longer: too many open files");
        names_in(&shim, "first", Some(&why(&pids)), Some(&why(&memory)));
        works(&shim).await;
        for id in shim.ids() {
            shim.remove(&id).await;
        }
        shim.end().await;
    });
}
