//! A shim that runs out of something: disk, descriptors, memory, processes.
//!
//! What cannot be done is refused; what runs goes on, and its end is told; with room again all works.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cotter::manager::spec::Spec;

use crate::Scale;
use crate::common::shim::each;
use crate::common::signal;
use crate::scene::{GOOD, Scene};
use crate::verdict::Outcome;

/// How many execs try at once where there is no room for all.
const CROWD: usize = 16;

fn command(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output();
    let done = done.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(done.status.success(), "{program} {args:?}: {done:?}");
}

/// A small file system, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn over(path: &Path) -> Self {
        let at = path.to_string_lossy();
        command("mount", &["-t", "tmpfs", "-o", "size=256k", "tmpfs", &at]);
        Self(path.to_owned())
    }

    fn fill(&self) {
        // Fails at the end, which is meant.
        let _ = fs::write(self.0.join("filler"), vec![0; 1 << 20]);
        let last = fs::write(self.0.join("more"), "x".repeat(8192));
        assert!(last.is_err(), "{} is full", self.0.display());
    }

    fn free(&self) {
        for name in ["filler", "more"] {
            let _ = fs::remove_file(self.0.join(name));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// The bundle is on a disk that is full, at Create and then while the container runs.
pub async fn disk_of_bundle(_: Scale) -> Outcome {
    let mut scene = Scene::new().await;
    let bundle = scene.shim.bundle("c", Spec::new("c", ["sleep", "100000"]));
    let config = fs::read(bundle.join("config.json")).unwrap();
    let disk = Disk::over(&bundle);
    fs::create_dir(bundle.join("rootfs")).unwrap();
    fs::write(bundle.join("config.json"), config).unwrap();
    let request = scene.shim.create_request("c");

    disk.fill();
    if scene.create(&request).await.is_ok() {
        scene.remove("c").await;
    }
    scene.good_works("first").await;
    disk.free();
    scene.create(&request).await.unwrap();
    scene.start("c", "").await.unwrap();
    let exec = scene.exec("c", "runs", &["sleep", "100000"]).await.unwrap();
    disk.fill();
    for n in 0..CROWD {
        // Refused or not.
        let _ = scene.exec_to_end("c", &format!("x{n}"), &["true"]).await;
    }
    signal(exec, "KILL");
    if !matches!(scene.wait("c", "runs").await, Ok(137)) {
        scene.fail("the end of an exec on a full disk");
    }
    scene.good_works("second").await;
    scene.remove("c").await;
    drop(disk);
    scene.end().await
}

/// The log file of a container is on a disk that is full: the container goes on, unaware.
pub async fn disk_of_log(_: Scale) -> Outcome {
    let mut scene = Scene::new().await;
    let mount = scene.shim.dir().join("disk");
    fs::create_dir(&mount).unwrap();
    let disk = Disk::over(&mount);
    let words = ["sh", "-c", "head -c 2000000 /dev/zero; exit 7"];
    scene.shim.bundle("c", Spec::new("c", words));
    let mut request = scene.shim.create_request("c");
    request.stdout = format!("file://{}/log", mount.display());
    request.stderr.clone_from(&request.stdout);
    scene.create(&request).await.unwrap();
    scene.start("c", "").await.unwrap();
    let status = scene.wait("c", "").await;
    if !matches!(status, Ok(7)) {
        scene.fail(format!("the container felt the full disk: {status:?}"));
    }
    scene.remove("c").await;
    drop(disk);
    scene.end().await
}

/// Execs that may fail.
async fn crowd(scene: &Scene, prefix: &str) {
    each(CROWD, 0..CROWD, |n| async move {
        let exec = format!("{prefix}{n}");
        if scene.exec_to_end(GOOD, &exec, &["true"]).await.is_err() {
            let _ = scene.delete(GOOD, &exec).await;
        }
    })
    .await;
}

/// What happens to a shim that has reached a limit: a crowd of execs that may fail, an exec and an
/// init that end, and the same as ever once there is room.
async fn no_room(scene: Scene, room: impl FnOnce()) -> Outcome {
    crowd(&scene, "x").await;
    for (id, exec) in [(GOOD, "runs"), ("c", "")] {
        signal(scene.pid(id, exec), "KILL");
        let status = scene.wait(id, exec).await;
        if !matches!(status, Ok(137)) {
            scene.fail(format!("the end of {id} {exec}: {status:?}"));
        }
    }
    room();
    scene.remove("c").await;
    scene.good_works("after").await;
    scene.end().await
}

/// A scene with what is to end while there is no room.
async fn crowded(mut scene: Scene) -> Scene {
    scene.run("c", &["sleep", "100000"]).await;
    scene
        .exec(GOOD, "runs", &["sleep", "100000"])
        .await
        .unwrap();
    scene
}

/// No more descriptors.
pub async fn descriptors(_: Scale) -> Outcome {
    let scene = crowded(Scene::new().await).await;
    let pid = scene.shim_pid().to_string();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = |soft: &str| command("prlimit", &["--pid", &pid, &format!("--nofile={soft}:")]);
    let before = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = before.lines().find(|l| l.starts_with("Max open files"));
    let soft = line.unwrap().split_whitespace().nth(3).unwrap().to_owned();
    limit(&(open + 4).to_string());
    no_room(scene, || limit(&soft)).await
}

/// A cgroup for the shim, removed when dropped, once the shim is gone.
struct Limited(PathBuf);

impl Limited {
    fn new(scene: &Scene, controller: &str) -> Self {
        let v1 = Path::new("/sys/fs/cgroup").join(controller);
        let unified = !v1.exists();
        let root = if unified { "/sys/fs/cgroup".into() } else { v1 };
        let dir = root.join(format!("chaos-{}", scene.shim.namespace));
        if unified {
            let _ = fs::write(
                root.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("cgroup.procs"), scene.shim_pid().to_string()).unwrap();
        Self(dir)
    }

    fn set(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap();
    }

    /// What a file says; nothing where this kind of cgroups does not have it.
    fn get(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }

    /// The file that this kind of cgroups has.
    fn memory_file(&self) -> &'static str {
        match self.0.join("memory.max").exists() {
            true => "memory.max",
            false => "memory.limit_in_bytes",
        }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let parent = self.0.parent().map(|dir| dir.join("cgroup.procs"));
        let left = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in left.lines() {
            let _ = fs::write(parent.as_deref().unwrap_or(Path::new("")), pid);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// What a runtime may do that takes more memory than there is, where the file of that name is.
const HUNGRY: &str = "if [ -e \"$0.hungry\" ]; then
    echo 1000 >/proc/self/oom_score_adj
    much=$(head -c 100000000 /dev/zero | tr '\\0' x)
fi
exec \"$real\" \"$@\"";
/// Less than that, and enough for all else.
const MEMORY: u64 = 40_000_000;

/// A memory cgroup for the shim and its runtimes.
fn limited(scene: &Scene, bytes: u64) -> Limited {
    let limited = Limited::new(scene, "memory");
    limited.set(limited.memory_file(), &bytes.to_string());
    limited
}

/// Has the crowd come to the limit.
async fn squeezed(scene: &Scene, limited: &Limited, victim: &str) {
    crowd(scene, "hungry").await;
    let [hits, kills] = limit_reached(|name| limited.get(name));
    eprintln!("limit hit {hits} times, {kills} killed, the {victim} first");
    assert!(hits > 0 && kills > 0, "the limit is no limit");
}

/// Too little memory for a runtime, in the cgroup of the shim: the runtimes are killed.
pub async fn memory(_: Scale) -> Outcome {
    let scene = crowded(Scene::with_runtime(HUNGRY).await).await;
    let limited = limited(&scene, MEMORY);
    let hungry = format!("{}.hungry", scene.shim.options.binary_name);
    fs::write(&hungry, "").unwrap();
    squeezed(&scene, &limited, "runtimes").await;
    no_room(scene, || fs::remove_file(hungry).unwrap()).await
}

/// Too little memory for the shim and its runtimes: the shim is killed.
pub async fn memory_of_shim(_: Scale) -> Outcome {
    let scene = crowded(Scene::new().await).await;
    let score = format!("/proc/{}/oom_score_adj", scene.shim_pid());
    fs::write(score, "1000").unwrap();
    // Of what it has, nothing counts that it had before.
    let limited = limited(&scene, 512 * 1024);
    squeezed(&scene, &limited, "shim").await;
    assert!(!scene.lives(), "it was not killed");
    drop(limited);
    scene.unsure();
    scene.deleted(|| {}).await
}

/// How often a cgroup has come to its memory limit, and how many processes that has killed.
fn limit_reached(told: impl Fn(&str) -> String) -> [u64; 2] {
    let field = |text: &str, name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find_map(|(key, value)| (key == name).then(|| value.trim().parse().ok())?)
    };
    let v1 = told("memory.failcnt").trim().parse().ok();
    let (events, control) = (told("memory.events"), told("memory.oom_control"));
    let hits = v1.or_else(|| field(&events, "max"));
    let kills = field(&events, "oom_kill").or_else(|| field(&control, "oom_kill"));
    [hits.unwrap_or(0), kills.unwrap_or(0)]
}

/// No more processes or threads.
pub async fn processes(_: Scale) -> Outcome {
    let scene = crowded(Scene::new().await).await;
    let limited = Limited::new(&scene, "pids");
    let now = fs::read_to_string(limited.0.join("pids.current")).unwrap();
    limited.set("pids.max", now.trim());
    no_room(scene, || limited.set("pids.max", "max")).await
}
