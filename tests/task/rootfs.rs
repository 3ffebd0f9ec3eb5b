//! Root file systems that Create mounts: what is in them, where they go, what a failure leaves.

use std::fs;
use std::path::Path;

use cotter::error::Code::Unknown;
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::proto::task::CreateTaskRequest;
use cotter::proto::types::Mount;

use crate::client::{SLEEP, contents, create, mounts, refused, until, with_each_runtime, works};
use crate::common::shim::Shim;
use crate::common::{TempDir, tool};

with_each_runtime! {
    bind_read_only, overlay, tmpfs_below_a_target, a_failing_third_mount, a_failing_runtime,
    mounted_over_meanwhile, in_a_mount_namespace_of_the_shims, an_image, by_a_program, a_program_without_end,
}

fn mount(kind: &str, source: impl AsRef<Path>, target: &str, options: &[&str]) -> Mount {
    Mount {
        type_: kind.into(),
        source: source.as_ref().to_string_lossy().into_owned(),
        target: target.into(),
        options: options.iter().map(|option| (*option).into()).collect(),
        ..Default::default()
    }
}

fn image() -> Mount {
    mount("bind", tool("ROOTFS"), "", &["rbind", "rw"])
}

/// A shim for a container whose rootfs is the shim's to make.
async fn shim(runtime: &str) -> Shim {
    let spec = Spec {
        rootfs: "./rootfs".into(),
        ..Spec::new("c", SLEEP)
    };
    Shim::start_as(Dialect::Proto23, runtime, spec, "c").await
}

async fn start(shim: &Shim, rootfs: Vec<Mount>) {
    let request = CreateTaskRequest {
        rootfs,
        ..shim.create_request("c")
    };
    create(shim, &request).await.unwrap();
    shim.start_process("c", "").await.unwrap();
}

/// The status of a command in the container.
async fn sh(shim: &Shim, script: &str) -> u32 {
    shim.exec("c", "sh", &["sh", "-c", script]).await.unwrap();
    let status = shim.wait("c", "sh").await.unwrap().exit_status;
    shim.delete("c", "sh").await.unwrap();
    status
}

/// Deletes the container, and checks that its mounts go with it.
async fn end(shim: Shim) {
    works(&shim, "c").await;
    shim.remove("c").await;
    assert_eq!(mounts(shim.dir()), [""; 0]);
    shim.end().await;
}

async fn bind_read_only(runtime: &'static str) {
    let shim = shim(runtime).await;
    start(
        &shim,
        vec![mount("bind", tool("ROOTFS"), "", &["rbind", "ro"])],
    )
    .await;
    // Asked of the mount itself: a runtime may have its own idea of what the container may write.
    let rootfs = shim.bundle_path("c").join("rootfs");
    let flags = nix::sys::statvfs::statvfs(&rootfs).unwrap().flags();
    assert!(
        flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY),
        "{flags:?}"
    );
    assert_eq!(sh(&shim, "test -x /bin/busybox").await, 0);
    end(shim).await;
}

async fn overlay(runtime: &'static str) {
    let shim = shim(runtime).await;
    // An overlay cannot lie on another, which the machine's root may be.
    let disk = shim.dir().join("disk");
    fs::create_dir(&disk).unwrap();
    nix::mount::mount(
        Some("disk"),
        &disk,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    for dir in ["upper", "work"] {
        fs::create_dir(disk.join(dir)).unwrap();
    }
    let options = [
        format!("lowerdir={}", tool("ROOTFS").display()),
        format!("upperdir={}", disk.join("upper").display()),
        format!("workdir={}", disk.join("work").display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    start(&shim, vec![mount("overlay", "overlay", "", &options)]).await;
    assert_eq!(
        sh(&shim, "echo hello >/made && test -x /bin/busybox").await,
        0
    );
    works(&shim, "c").await;
    shim.remove("c").await;
    assert_eq!(
        fs::read_to_string(disk.join("upper/made")).unwrap(),
        "hello\n"
    );
    assert!(!tool("ROOTFS").join("made").exists());
    assert_eq!(mounts(shim.dir()), [disk.to_str().unwrap()]);
    nix::mount::umount(&disk).unwrap();
    shim.end().await;
}

async fn tmpfs_below_a_target(runtime: &'static str) {
    let shim = shim(runtime).await;
    let inner = mount("tmpfs", "inner", "/tmp", &["size=64k", "mode=0700"]);
    start(&shim, vec![image(), inner]).await;
    let rootfs = shim.bundle_path("c").join("rootfs");
    let expected =
        [rootfs.clone(), rootfs.join("tmp")].map(|path| path.to_string_lossy().into_owned());
    assert_eq!(mounts(shim.dir()), expected);
    assert_eq!(
        sh(
            &shim,
            "grep -q '^inner /tmp tmpfs .*size=64k' /proc/mounts && touch /tmp/made"
        )
        .await,
        0
    );
    assert!(!tool("ROOTFS").join("tmp/made").exists());
    end(shim).await;
}

async fn a_failing_third_mount(runtime: &'static str) {
    let shim = shim(runtime).await;
    let bundle = shim.bundle_path("c");
    let before = contents(&bundle);
    let tmp = || mount("tmpfs", "inner", "tmp", &[]);
    let failing = [
        mount("nosuchfs", "none", "", &[]),
        mount("bind", "/nonexistent", "run", &["rbind"]),
        mount("tmpfs", "t", "/nonexistent", &[]),
        mount("tmpfs", "t", "", &["size=x"]),
    ];
    for third in failing {
        let rootfs = vec![image(), tmp(), third];
        let request = CreateTaskRequest {
            rootfs,
            ..shim.create_request("c")
        };
        let answer = create(&shim, &request).await;
        refused(
            answer,
            Unknown,
            "failed to mount rootfs component: mount source: ",
        );
        assert_eq!(mounts(shim.dir()), [""; 0]);
        assert_eq!(contents(&bundle), before);
    }
    start(&shim, vec![image(), tmp()]).await;
    end(shim).await;
}

async fn a_failing_runtime(runtime: &'static str) {
    let shim = shim(runtime).await;
    let bundle = shim.bundle_path("c");
    let config = fs::read_to_string(bundle.join("config.json")).unwrap();
    fs::write(
        bundle.join("config.json"),
        config.replace("\"sleep\"", "\"/no/such\""),
    )
    .unwrap();
    let rootfs = vec![image(), mount("tmpfs", "inner", "tmp", &[])];
    let request = CreateTaskRequest {
        rootfs,
        ..shim.create_request("c")
    };
    refused(
        create(&shim, &request).await,
        Unknown,
        "OCI runtime create failed: ",
    );
    assert_eq!(mounts(shim.dir()), [""; 0]);
    fs::write(bundle.join("config.json"), config).unwrap();
    start(&shim, request.rootfs).await;
    end(shim).await;
}

/// Whatever else was mounted below the rootfs goes too, or the directory could not be removed.
async fn mounted_over_meanwhile(runtime: &'static str) {
    let shim = shim(runtime).await;
    start(&shim, vec![image()]).await;
    let rootfs = shim.bundle_path("c").join("rootfs");
    for below in ["tmp", "run", ""] {
        let (flags, data) = (nix::mount::MsFlags::empty(), None::<&str>);
        nix::mount::mount(
            Some("more"),
            &rootfs.join(below),
            Some("tmpfs"),
            flags,
            data,
        )
        .unwrap();
    }
    end(shim).await;
}

/// All is mounted and unmounted by the shim's process, where it is: clients start shims in mount namespaces
/// of their own, which see layers that nobody else does, and count on it that nobody else sees the rootfs.
async fn in_a_mount_namespace_of_the_shims(runtime: &'static str) {
    use nix::mount::MsFlags;
    use nix::sched::{CloneFlags, setns, unshare};

    // This thread's, and that of what it starts: the shim.
    let home = fs::File::open("/proc/thread-self/ns/mnt").unwrap();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    nix::mount::mount(none, "/", none, private, none).unwrap();
    let layers = TempDir::new("layers");
    let (some, flags) = (Some("layers"), MsFlags::empty());
    nix::mount::mount(some, layers.path(), Some("tmpfs"), flags, none).unwrap();
    for n in 0..80 {
        fs::create_dir(layers.path().join(format!("layer-{n:040}"))).unwrap();
    }
    fs::write(layers.path().join(format!("layer-{:040}/only-here", 7)), "").unwrap();
    let shim = shim(runtime).await;
    setns(&home, CloneFlags::CLONE_NEWNS).unwrap();

    let lower: Vec<String> = (0..80)
        .map(|n| format!("{}/layer-{n:040}", layers.path().display()))
        .collect();
    let lower = format!("lowerdir={}", lower.join(":"));
    let mapped = ["rbind", "uidmap=0:100000:65536", "gidmap=0:100000:65536"];
    let rootfs = vec![
        image(),
        mount("overlay", "overlay", "/tmp", &[&lower]),
        mount("bind", layers.path(), "/root", &mapped),
    ];
    start(&shim, rootfs).await;
    let path = shim.bundle_path("c").join("rootfs");
    let places = [path.clone(), path.join("tmp"), path.join("root")];
    let places = places.map(|place| place.to_string_lossy().into_owned());
    let pid = shim.pid();
    let in_the_shim = || {
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let below = points.filter(|point| Path::new(point).starts_with(shim.dir()));
        below.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(in_the_shim(), places);
    let here = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!here.contains(path.to_str().unwrap()), "{here}");
    assert!(!fs::exists(path.join("bin/busybox")).unwrap());
    let script = format!("test -e /tmp/only-here && test -e /root/layer-{:040}", 79);
    assert_eq!(sh(&shim, &script).await, 0);
    works(&shim, "c").await;
    shim.remove("c").await;
    assert_eq!(in_the_shim(), [""; 0]);
    shim.end().await;
}

async fn an_image(runtime: &'static str) {
    let shim = shim(runtime).await;
    let image = shim.dir().join("image");
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let mut mkfs = std::process::Command::new("mkfs.ext4");
    let mkfs = mkfs.args(["-q", "-F", "-d"]).arg(tool("ROOTFS"));
    crate::common::run(mkfs.arg(&image)).ok();
    start(&shim, vec![mount("ext4", &image, "", &["loop"])]).await;
    assert_eq!(
        sh(&shim, "grep -q '^/dev/loop.* / ext4 rw' /proc/mounts").await,
        0
    );
    assert_eq!(
        sh(&shim, "test -x /bin/busybox && echo hello >/made").await,
        0
    );
    end(shim).await;
}

/// The program's file system is mounted, serves the container, and ends with it.
async fn by_a_program(runtime: &'static str) {
    let shim = shim(runtime).await;
    let [upper, work] = ["upper", "work"].map(|name| {
        let dir = shim.dir().join(name);
        fs::create_dir(&dir).unwrap();
        dir
    });
    let options = [
        format!("lowerdir={}", tool("ROOTFS").display()),
        format!("upperdir={},workdir={}", upper.display(), work.display()),
    ];
    let options = options.each_ref().map(String::as_str);
    let rootfs = mount("fuse3.fuse-overlayfs", "overlay", "", &options);
    start(&shim, vec![rootfs]).await;
    let upper_name = upper.to_str().unwrap();
    assert_eq!(running_with(upper_name).len(), 1);
    assert_eq!(
        sh(&shim, "echo hello >/made && test -x /bin/busybox").await,
        0
    );
    works(&shim, "c").await;
    shim.remove("c").await;
    assert_eq!(fs::read_to_string(upper.join("made")).unwrap(), "hello\n");
    assert_eq!(mounts(shim.dir()), [""; 0]);
    until("the file system's program has ended", async || {
        running_with(upper_name).is_empty()
    })
    .await;
    shim.end().await;
}

/// What it has mounted and started by then goes too.
async fn a_program_without_end(runtime: &'static str) {
    let bin = TempDir::new("bin");
    let program = bin.path().join("mount.fuse3");
    let fifo = bin.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = fifo.to_str().unwrap();
    let script = format!(
        "#!/bin/sh\necho said >&2\nmount -t tmpfs t \"$2\"\ntail -f {fifo} & tail -f {fifo}\n"
    );
    crate::common::write_program(&program, script);
    let path = format!(
        "{}:{}",
        bin.path().display(),
        std::env::var("PATH").unwrap()
    );
    let environment = [
        ("PATH", path.as_str()),
        ("COTTER_LIMIT_MOUNT_PROGRAM", "700ms"),
    ];
    let (dialect, spec) = (Dialect::Proto23, Spec::new("c", SLEEP));
    let shim = Shim::start_with(dialect, runtime, spec, "c", &environment).await;
    let request = CreateTaskRequest {
        rootfs: vec![mount("fuse3.x", "x", "", &[])],
        ..shim.create_request("c")
    };
    let words = "mount.fuse3 for x: it did not end in time and was killed: said";
    refused(create(&shim, &request).await, Unknown, words);
    assert_eq!(mounts(shim.dir()), [""; 0]);
    until("what the program has started is gone", async || {
        running_with(fifo).is_empty()
    })
    .await;
    shim.end().await;
}

/// The live processes with such an argument. By their arguments, since what belongs to tests in the
/// environment is not handed on to programs.
fn running_with(argument: &str) -> Vec<String> {
    let all = crate::common::peek::all().into_iter();
    all.map(|seen| seen.argv.join(" "))
        .filter(|line| line.contains(argument))
        .collect()
}
