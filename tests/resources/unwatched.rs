//! What cannot be watched: it is logged once with its path, the container runs on, and the dump says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cotter::cgroup::Version;
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use serde_json::Value;

use crate::cgroup;
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{eventually, unique};

/// Set in a test that runs once more in a mount namespace of its own.
const ALONE: &str = "COTTER_TEST_ALONE";

/// A file of a cgroup that is there before the container, and says nothing.
struct Blind {
    path: String,
    files: Vec<PathBuf>,
}

impl Blind {
    fn new() -> Self {
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
            mount.args(["--bind", "/dev/null"]).arg(dir.join(name));
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

/// A section of the shim's dump.
fn dumped(shim: &Shim, section: &str) -> Value {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_cotter"));
    tool.env("COTTER_HOME", "/nonexistent");
    tool.args(["dump", "-q", "--json"]);
    let said = crate::common::run(tool.arg(shim.bundle_path("c"))).ok();
    let read: Value = serde_json::from_str(&said).unwrap();
    read[0]["dump"][section][0].clone()
}

/// Both are said once, in the log and in the dump, in these words; and the container works.
async fn runs_on_unwatched(shim: &mut Shim, pids: &str, memory: &str) {
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    shim.exec("c", "x", &["true"]).await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 0);
    shim.delete("c", "x").await.unwrap();
    let log = shim.log();
    for (what, why) in [
        ("its limit of processes is not watched: ", pids),
        ("its OOM kills: they are not seen: ", memory),
    ] {
        let about: Vec<&String> = log.iter().filter(|line| line.contains(what)).collect();
        assert_eq!(about.len(), 1, "{what}: {log:#?}");
        assert!(about[0].contains(why), "{}", about[0]);
    }
    for (section, why) in [
        ("limits of processes", pids),
        ("killed for want of memory", memory),
    ] {
        let row = dumped(shim, section);
        assert_eq!(row["container"], "c", "{row}");
        let said = row["unwatched"].as_str().unwrap();
        assert!(said.contains(why), "{said}");
    }
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

/// On v1 a hierarchy need not be mounted. On v2 a cgroup has the controllers that the one above it hands on.
#[test]
fn controllers_that_are_missing() {
    if std::env::var_os(ALONE).is_none() {
        return alone();
    }
    run(async {
        let spec = Spec::new("c", ["sleep", "1000"]);
        let mut shim = Shim::start_as(Dialect::Proto23, "CRUN", spec, "c").await;
        let (pids, memory) = match cgroup(std::process::id()).version() {
            Version::V1 => (
                "a cgroup of its own with the pids controller",
                "a memory cgroup of its own",
            ),
            Version::V2 => ("pids.events", "memory.events"),
        };
        runs_on_unwatched(&mut shim, pids, memory).await;
        shim.remove("c").await;
        shim.end().await;
    });
}

/// Runs the test once more where the controllers are missing.
fn alone() {
    let bare = Path::new("/sys/fs/cgroup").join(unique("cotter-bare"));
    let (prepare, namespaces, hide) = match cgroup(std::process::id()).version() {
        Version::V1 => (
            "true",
            "-m",
            "umount /sys/fs/cgroup/pids /sys/fs/cgroup/memory",
        ),
        Version::V2 => {
            fs::create_dir_all(bare.join("leaf")).unwrap();
            (
                "echo $$ >\"$BARE/leaf/cgroup.procs\"",
                "-mC",
                "umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup",
            )
        }
    };
    let script = format!(
        "{prepare} && exec unshare {namespaces} sh -c '{hide} && exec \"$0\" \"$@\"' \"$@\""
    );
    let mut again = Command::new("sh");
    again.args(["-c", &script, "sh"]);
    again.arg(std::env::current_exe().unwrap());
    again.env(ALONE, "1").env("BARE", &bare);
    again.args([
        "--exact",
        "unwatched::controllers_that_are_missing",
        "--nocapture",
    ]);
    let said = crate::common::run(&mut again).ok();
    assert!(said.contains("1 passed"), "{said}");
    if bare.exists() {
        for dir in [bare.join("leaf/cotter"), bare.join("leaf"), bare] {
            eventually("the cgroup can go", || {
                fs::remove_dir(&dir).is_ok() || !dir.exists()
            });
        }
    }
}
