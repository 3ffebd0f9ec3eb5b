//! Every runtime under the shim alone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use cotter::error::Code;
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::mount::mounted_below;
use cotter::proto::task::{CreateTaskRequest, ExecProcessRequest};
use cotter::proto::types::Mount;
use nix::mount::{MsFlags, umount};
use serde_json::{Value, json};

use crate::client::{Reader, Writer};
use crate::common::shim::Shim;
use crate::common::{run, tool};

const UID: u32 = 100_000;
const GID: u32 = 200_000;
const MAP: [&str; 2] = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"];

/// Makes a `#[test]` per runtime of each `async fn name(runtime: &'static str)`.
macro_rules! with_each_runtime {
    ($($name:ident,)*) => {
        $(mod $name {
            with_each_runtime!(@ $name runc "RUNC");
            with_each_runtime!(@ $name runc_1_3 "RUNC_1_3");
            with_each_runtime!(@ $name crun "CRUN");
            with_each_runtime!(@ $name crun_1_21 "CRUN_1_21");
        })*
    };
    (@ $name:ident $runtime:ident $tool:literal) => {
        #[test]
        fn $runtime() {
            crate::common::shim::run(super::$name($tool));
        }
    };
}

with_each_runtime! {
    mapped_layers, a_mapped_bind_mount, a_rootfs_of_its_own, on_a_terminal, a_rootfs_that_cannot_be_mapped,
}

/// What a process in the container sees of itself, the image and its streams.
const LOOKS: &str = "id -u; cat /proc/self/uid_map; stat -c %u:%g / /bin/busybox; \
    for fd in 0 1 2; do stat -Lc %u:%g /proc/self/fd/$fd; done; \
    echo again >/dev/stdout; cat </dev/stdin >/dev/stderr; touch /tmp/made";

/// A shim for a container in a user namespace, in a bundle as containerd makes it for one.
async fn shim(runtime: &str, args: &[&str], terminal: bool) -> Shim {
    let spec = Spec {
        rootfs: "./rootfs".into(),
        terminal,
        ..Spec::new("c", args.iter().copied())
    };
    let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
    let bundle = shim.bundle_path("c");
    let config = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    let linux = &mut spec["linux"];
    let namespaces = linux["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
    for (name, first) in [("uidMappings", UID), ("gidMappings", GID)] {
        linux[name] = json!([{"containerID": 0, "hostID": first, "size": 65536}]);
    }
    fs::write(&config, spec.to_string()).unwrap();
    chown(&bundle, None, Some(GID)).unwrap();
    fs::set_permissions(&bundle, fs::Permissions::from_mode(0o710)).unwrap();
    (shim.options.io_uid, shim.options.io_gid) = (UID, GID);
    shim
}

fn mount(kind: &str, source: impl AsRef<Path>, options: &[&str]) -> Mount {
    Mount {
        type_: kind.into(),
        source: source.as_ref().to_string_lossy().into_owned(),
        options: options.iter().map(|&option| option.into()).collect(),
        ..Default::default()
    }
}

/// A file system of the test's own with an upper directory that the container's root owns.
struct Disk(PathBuf);

impl Disk {
    fn new(shim: &Shim) -> Self {
        let disk = shim.dir().join("disk");
        fs::create_dir(&disk).unwrap();
        let (none, data) = (MsFlags::empty(), None::<&str>);
        nix::mount::mount(Some("disk"), &disk, Some("tmpfs"), none, data).unwrap();
        for name in ["upper", "work"] {
            fs::create_dir(disk.join(name)).unwrap();
        }
        chown(disk.join("upper"), Some(UID), Some(GID)).unwrap();
        Self(disk)
    }

    fn overlay(&self, lower: &Path) -> Mount {
        let options = [
            format!("lowerdir={}", lower.display()),
            format!("upperdir={}/upper,workdir={0}/work", self.0.display()),
        ];
        let words: Vec<&str> = options.iter().map(String::as_str).chain(MAP).collect();
        mount("overlay", "overlay", &words)
    }

    fn end(self) {
        umount(&self.0).unwrap();
    }
}

/// Creates `c` with streams, and checks that the shim has no child but the container's init: what
/// made the map is gone.
async fn create(shim: &Shim, request: CreateTaskRequest) {
    let pid = shim.tasks.create(&request).await.unwrap().pid;
    let children: Vec<u32> = fs::read_dir(format!("/proc/{}/task", shim.pid()))
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default())
        .flat_map(|list| {
            let pids = list.split_whitespace().map(|pid| pid.parse().unwrap());
            pids.collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(children, [pid]);
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert_eq!(
        map.split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
}

/// Runs [`LOOKS`] as the init and as an exec.
async fn looks(runtime: &str, rootfs: impl Fn(&Shim) -> Vec<Mount>) -> Shim {
    let script = format!("{LOOKS}; exec sleep 1000");
    let shim = shim(runtime, &["sh", "-c", &script], false).await;
    let rootfs = rootfs(&shim);
    for exec in ["", "x"] {
        let fifos = shim.fifos(&format!("f{exec}"), true);
        let (mut out, err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
        if exec.is_empty() {
            let request = CreateTaskRequest {
                stdin: fifos.stdin.clone(),
                stdout: fifos.stdout.clone(),
                stderr: fifos.stderr.clone(),
                rootfs: rootfs.clone(),
                ..shim.create_request("c")
            };
            create(&shim, request).await;
            shim.start_process("c", "").await.unwrap();
        } else {
            let args = ["sh", "-c", LOOKS];
            shim.exec_with("c", exec, &args, &fifos).await.unwrap();
        }
        let mut lines = Vec::new();
        while lines.last() != Some(&b'\n') || !lines.ends_with(b"again\n") {
            let more = out.some(4096).await;
            assert!(!more.is_empty(), "{}", String::from_utf8_lossy(&lines));
            lines.extend(more);
        }
        let lines = String::from_utf8(lines).unwrap();
        let lines: Vec<String> = lines
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let root = "0:0";
        let expected = ["0", "0 100000 65536", root, root, root, root, root, "again"];
        assert_eq!(lines, expected, "{runtime} {exec:?}");
        let mut writer = Writer::open(&fifos.stdin);
        writer.write(b"words").await;
        drop(writer);
        shim.close_io("c", exec, true).await.unwrap();
        if exec.is_empty() {
            let mut err = err;
            err.expect("words").await;
        } else {
            assert_eq!(err.text().await, "words");
            assert_eq!(shim.wait("c", exec).await.unwrap().exit_status, 0);
            shim.delete("c", exec).await.unwrap();
        }
    }
    shim
}

async fn mapped_layers(runtime: &'static str) {
    let disk = std::cell::OnceCell::new();
    let shim = looks(runtime, |shim| {
        let disk = disk.get_or_init(|| Disk::new(shim));
        vec![disk.overlay(&tool("ROOTFS"))]
    })
    .await;
    let disk = disk.into_inner().unwrap();
    shim.remove("c").await;
    assert_eq!(
        mounted_below(shim.dir()).unwrap(),
        std::slice::from_ref(&disk.0)
    );
    // What the container's root has made belongs to nobody's root.
    let made = fs::metadata(disk.0.join("upper/tmp/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (UID, GID));
    assert!(!tool("ROOTFS").join("tmp/made").exists());
    disk.end();
    shim.end().await;
}

async fn a_mapped_bind_mount(runtime: &'static str) {
    let shim = looks(runtime, |shim| {
        let copy = copied(shim, 0, 0);
        let words: Vec<&str> = ["rbind", "rw"].into_iter().chain(MAP).collect();
        vec![mount("bind", &copy, &words)]
    })
    .await;
    end_of_copy(shim, (0, 0)).await;
}

/// As a snapshotter gives it that changes the owners itself.
async fn a_rootfs_of_its_own(runtime: &'static str) {
    let shim = looks(runtime, |shim| {
        let copy = copied(shim, UID, GID);
        vec![mount("bind", &copy, &["rbind", "rw"])]
    })
    .await;
    end_of_copy(shim, (UID, GID)).await;
}

/// The image, with all its files owned so.
fn copied(shim: &Shim, uid: u32, gid: u32) -> PathBuf {
    let copy = shim.dir().join("copy");
    run(Command::new("cp").arg("-a").arg(tool("ROOTFS")).arg(&copy)).ok();
    let mut chown = Command::new("chown");
    run(chown.args(["-hR", &format!("{uid}:{gid}")]).arg(&copy)).ok();
    copy
}

async fn end_of_copy(shim: Shim, owner: (u32, u32)) {
    shim.remove("c").await;
    assert_eq!(mounted_below(shim.dir()).unwrap().len(), 0);
    let made = fs::metadata(shim.dir().join("copy/tmp/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), owner);
    end_checked(shim).await;
}

async fn end_checked(shim: Shim) {
    let bundle = fs::metadata(shim.bundle_path("c")).unwrap();
    assert_eq!((bundle.mode() & 0o7777, bundle.gid()), (0o710, GID));
    shim.end().await;
}

/// The terminal belongs to the container's root, which can open it again by its name.
async fn on_a_terminal(runtime: &'static str) {
    let script = "tty; stat -c %u $(tty); echo again >$(tty); test -O /dev/console && echo own; read line; echo $line";
    let shim = shim(runtime, &["sh", "-c", script], true).await;
    let disk = Disk::new(&shim);
    let fifos = shim.fifos("init", true);
    let out = Reader::open(&fifos.stdout);
    let request = CreateTaskRequest {
        terminal: true,
        stdin: fifos.stdin.clone(),
        stdout: fifos.stdout.clone(),
        rootfs: vec![disk.overlay(&tool("ROOTFS"))],
        ..shim.create_request("c")
    };
    create(&shim, request).await;
    shim.start_process("c", "").await.unwrap();

    // Of an exec too, while the init waits for a line.
    let others = shim.fifos("x", true);
    let screen = Reader::open(&others.stdout);
    let script = "stat -Lc %u /proc/self/fd/0; echo again >/proc/self/fd/1";
    let request = ExecProcessRequest {
        terminal: true,
        stdin: others.stdin.clone(),
        stdout: others.stdout.clone(),
        ..shim.exec_request("c", "x", &["sh", "-c", script])
    };
    shim.tasks.exec(&request).await.unwrap();
    shim.start_process("c", "x").await.unwrap();
    assert_eq!(screen.text().await, "0\r\nagain\r\n");
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 0);
    shim.delete("c", "x").await.unwrap();

    Writer::open(&fifos.stdin).write(b"typed\n").await;
    let text = out.text().await;
    let expected = ["/dev/pts/0", "0", "again", "own", "typed"];
    let missing = expected
        .iter()
        .find(|line| !text.lines().any(|seen| seen.trim() == **line));
    assert_eq!(missing, None, "{runtime}: {text:?}");
    shim.remove("c").await;
    assert_eq!(
        mounted_below(shim.dir()).unwrap(),
        std::slice::from_ref(&disk.0)
    );
    disk.end();
    end_checked(shim).await;
}

/// The refusal leaves nothing behind, and nothing in the way of the next attempt.
async fn a_rootfs_that_cannot_be_mapped(runtime: &'static str) {
    let shim = shim(runtime, &["sleep", "1000"], false).await;
    let disk = Disk::new(&shim);
    let request = |rootfs| CreateTaskRequest {
        rootfs,
        ..shim.create_request("c")
    };
    let bad = "uidmap=0:0";
    for (rootfs, code, words) in [
        (
            disk.overlay(Path::new("/proc")),
            Code::Unknown,
            "cannot be id-mapped",
        ),
        (
            mount("bind", "/proc", &["bind", MAP[0], MAP[1]]),
            Code::Unknown,
            "cannot be id-mapped",
        ),
        (
            mount("bind", "/", &["bind", MAP[0]]),
            Code::InvalidArgument,
            "without \"gidmap\"",
        ),
        (
            mount("bind", "/", &["bind", bad, MAP[1]]),
            Code::InvalidArgument,
            "containerID:hostID:size",
        ),
    ] {
        let error = shim.tasks.create(&request(vec![rootfs])).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(words), "{error}");
        assert_eq!(
            mounted_below(shim.dir()).unwrap(),
            std::slice::from_ref(&disk.0)
        );
    }
    create(&shim, request(vec![disk.overlay(&tool("ROOTFS"))])).await;
    shim.start_process("c", "").await.unwrap();
    shim.remove("c").await;
    disk.end();
    end_checked(shim).await;
}
