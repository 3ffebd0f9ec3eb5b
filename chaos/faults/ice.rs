//! A process that nothing can kill for a while.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Scale;
use crate::scene::Scene;
use crate::verdict::Outcome;

/// A frozen cgroup around one process, below that of its container, where no runtime looks when it
/// thaws what it is to kill. Thawed when dropped.
struct Ice {
    dir: PathBuf,
    unified: bool,
}

impl Ice {
    fn over(pid: u32) -> Self {
        let told = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let of = |controller: &str| {
            let mut lines = told.lines().map(|line| line.splitn(3, ':').skip(1));
            lines.find_map(|mut line| (line.next()? == controller).then(|| line.next())?)
        };
        let root = Path::new("/sys/fs/cgroup");
        let unified = of("freezer").is_none();
        let (root, path) = match of("freezer") {
            Some(path) => (root.join("freezer"), path),
            None => (root.to_owned(), of("").unwrap()),
        };
        let dir = root.join(path.trim_start_matches('/')).join("ice");
        fs::create_dir(&dir).unwrap();
        let ice = Self { dir, unified };
        fs::write(ice.dir.join("cgroup.procs"), pid.to_string()).unwrap();
        ice.set("FROZEN", "1");
        ice
    }

    fn set(&self, state: &str, freeze: &str) {
        let _ = match self.unified {
            true => fs::write(self.dir.join("cgroup.freeze"), freeze),
            false => fs::write(self.dir.join("freezer.state"), state),
        };
    }

    /// Whether what is in it survives SIGKILL: not under cgroup v2.
    fn holds(&self) -> bool {
        !self.unified
    }
}

impl Drop for Ice {
    fn drop(&mut self) {
        self.set("THAWED", "0");
    }
}

/// An exec that cannot die, and so an init that cannot end, for it has to wait for the exec: nobody
/// else is held up, everything that is asked about the two is answered in time, and in the end both
/// are told and can be deleted.
pub async fn frozen(_: Scale) -> Outcome {
    let mut scene = Scene::new().await;
    scene.run("c", &["sleep", "100000"]).await;
    let pid = scene.exec("c", "x", &["sleep", "100000"]).await.unwrap();
    let ice = Ice::over(pid);
    let probe = scene.probe();
    for (n, exec) in ["x", "x", "", ""].into_iter().enumerate() {
        // What Kill answers is the shim's business.
        let _ = scene.kill("c", exec, 9).await;
        if ice.holds() && scene.delete("c", exec).await.is_ok() {
            scene.fail(format!("Delete of \"{exec}\", which lives"));
        }
        scene.good_works(&format!("meanwhile{n}")).await;
    }
    scene.run("d", &["sleep", "100000"]).await;
    scene.remove("d").await;
    drop(ice);
    scene.probed(probe).await;
    for exec in ["x", ""] {
        let ended = scene.wait("c", exec).await;
        if !matches!(ended, Ok(137)) {
            scene.fail(format!("the end of \"{exec}\", thawed: {ended:?}"));
        }
        if let Err(why) = scene.delete("c", exec).await {
            scene.fail(format!("Delete of \"{exec}\", thawed: {why}"));
        }
    }
    scene.good_works("after").await;
    scene.end().await
}
