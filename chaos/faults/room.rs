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

/// What happens to a shim that has reached a limit: a crowd of execs that may fail, an exec and an
/// init that end, and the same as ever once there is room.
async fn no_room(scene: Scene, room: impl FnOnce()) -> Outcome {
    let one = &scene;
    each(CROWD, 0..CROWD, |n| async move {
        let _ = one.exec_to_end(GOOD, &format!("x{n}"), &["true"]).await;
    })
    .await;
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
async fn crowded() -> Scene {
    let mut scene = Scene::new().await;
    scene.run("c", &["sleep", "100000"]).await;
    scene
        .exec(GOOD, "runs", &["sleep", "100000"])
        .await
        .unwrap();
    scene
}

/// No more descriptors.
pub async fn descriptors(_: Scale) -> Outcome {
    let scene = crowded().await;
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

/// Too little memory for what the shim and its runtime need together.
pub async fn memory(_: Scale) -> Outcome {
    let scene = crowded().await;
    let limited = Limited::new(&scene, "memory");
    let file = limited.memory_file();
    limited.set(file, "6M");
    no_room(scene, || {
        for name in ["memory.failcnt", "memory.events", "memory.oom_control"] {
            let told = fs::read_to_string(limited.0.join(name)).unwrap_or_default();
            eprintln!("{name}: {told}");
        }
        limited.set(file, "1G");
    })
    .await
}

/// No more processes or threads.
pub async fn processes(_: Scale) -> Outcome {
    let scene = crowded().await;
    let limited = Limited::new(&scene, "pids");
    let now = fs::read_to_string(limited.0.join("pids.current")).unwrap();
    limited.set("pids.max", now.trim());
    no_room(scene, || limited.set("pids.max", "max")).await
}
