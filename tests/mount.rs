//! Rootfs mounts on the real kernel. Needs root.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;

use cotter::error::Code;
use cotter::mount::{Mount, mount_all, mounted_below, unmount_all};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};

/// A tmpfs of the test's own, taken away with all that is mounted in it.
struct Space(PathBuf);

impl Space {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("cotter-mount-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let dir = dir.canonicalize().unwrap();
        mount(
            Some("cotter-test"),
            &dir,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        // What the tests do about propagation is their own, whatever the machine does.
        mount(
            None::<&str>,
            &dir,
            None::<&str>,
            MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        let space = Self(dir);
        space.dir("rootfs");
        space
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.0.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    /// Mount points inside, without the space itself.
    fn mounts(&self) -> Vec<PathBuf> {
        let mut below = mounted_below(&self.0).unwrap();
        assert_eq!(below.remove(0), self.0);
        below
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for place in mounted_below(&self.0).unwrap_or_default().iter().rev() {
            let _ = umount2(place, MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

fn request(kind: &str, source: impl AsRef<Path>, target: &str, options: &[&str]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.as_ref().to_str().unwrap().into(),
        target: target.into(),
        options: options.iter().map(|&word| word.into()).collect(),
    }
}

fn tmpfs(target: &str) -> Mount {
    request("tmpfs", "tmpfs", target, &["size=64k"])
}

#[test]
fn flags_and_data_reach_the_kernel() {
    let space = Space::new("tmpfs");
    let options = ["ro", "nosuid", "size=64k", "mode=711"];
    mount_all(&[request("tmpfs", "t", "", &options)], &space.rootfs()).unwrap();
    let stat = statvfs(&space.rootfs()).unwrap();
    assert!(
        stat.flags()
            .contains(FsFlags::ST_RDONLY | FsFlags::ST_NOSUID)
    );
    assert_eq!(stat.blocks() * stat.fragment_size(), 64 << 10);
    unmount_all(&space.rootfs()).unwrap();
    assert_eq!(space.mounts(), [""; 0].map(PathBuf::from));
}

#[test]
fn a_read_only_bind_keeps_the_flags_of_its_source() {
    let space = Space::new("bind");
    let source = space.dir("source");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("t"), &source, Some("tmpfs"), flags, None::<&str>).unwrap();
    fs::write(source.join("file"), "x").unwrap();

    let bind = request("bind", &source, "", &["rbind", "ro"]);
    mount_all(&[bind], &space.rootfs()).unwrap();
    assert_eq!(fs::read(space.rootfs().join("file")).unwrap(), b"x");
    let write = fs::write(space.rootfs().join("new"), "x").unwrap_err();
    assert_eq!(write.raw_os_error(), Some(libc::EROFS));
    let has = statvfs(&space.rootfs()).unwrap().flags();
    assert!(has.contains(FsFlags::ST_NOSUID | FsFlags::ST_NOEXEC));
    fs::write(source.join("new"), "the source stays writable").unwrap();
}

#[test]
fn a_file_is_bound_onto_a_file() {
    let space = Space::new("file");
    let source = space.0.join("source");
    fs::write(&source, "source").unwrap();
    fs::write(space.rootfs().join("target"), "target").unwrap();
    let bind = request("", &source, "target", &["bind"]);
    mount_all(&[bind], &space.rootfs()).unwrap();
    let target = space.rootfs().join("target");
    assert_eq!(fs::read(&target).unwrap(), b"source");
    unmount_all(&target).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"target");
}

#[test]
fn propagation_is_set() {
    let space = Space::new("propagation");
    let source = space.dir("source");
    let bind = request("", &source, "", &["bind", "rshared"]);
    mount_all(&[bind], &space.rootfs()).unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let rootfs = format!(" {} ", space.rootfs().display());
    let line = table.lines().find(|line| line.contains(&rootfs)).unwrap();
    assert!(line.contains(" shared:"), "{line}");
}

#[test]
fn an_overlay_is_mounted() {
    let space = Space::new("overlay");
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| space.dir(name));
    fs::write(lower.join("file"), "lower").unwrap();
    let options = [
        format!("lowerdir={}", lower.display()),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ];
    let options = options.each_ref().map(String::as_str);
    mount_all(
        &[request("overlay", "overlay", "", &options)],
        &space.rootfs(),
    )
    .unwrap();
    fs::write(space.rootfs().join("file"), "changed").unwrap();
    assert_eq!(fs::read(lower.join("file")).unwrap(), b"lower");
    assert_eq!(fs::read(upper.join("file")).unwrap(), b"changed");
}

/// Layers with one file each, as the lowerdir option names them.
fn layers(space: &Space, count: usize, name: impl Fn(usize) -> String) -> String {
    let layer = |n| {
        let dir = space.dir(&name(n));
        fs::write(dir.join(n.to_string()), "").unwrap();
        dir.to_str().unwrap().to_owned()
    };
    (0..count).map(layer).collect::<Vec<_>>().join(":")
}

#[test]
fn an_overlay_with_more_layers_than_fit_in_a_page() {
    let space = Space::new("layers");
    let options = format!(
        "lowerdir={}",
        layers(&space, 200, |n| format!("snapshots/{n}/fs"))
    );
    assert!(options.len() > 8000, "{}", options.len());
    let (cwd, overlay) = (
        std::env::current_dir().unwrap(),
        request("overlay", "overlay", "", &[&options]),
    );
    mount_all(&[overlay], &space.rootfs()).unwrap();
    assert_eq!(fs::read_dir(space.rootfs()).unwrap().count(), 200);
    assert_eq!(std::env::current_dir().unwrap(), cwd);
    unmount_all(&space.rootfs()).unwrap();
    // Nothing is left that pins the file system the layers are on.
    umount2(&space.0, MntFlags::empty()).unwrap();
}

#[test]
fn options_that_do_not_fit_are_refused_not_cut_off() {
    let space = Space::new("long");
    let lower = layers(&space, 100, |n| format!("l{n}{}", "x".repeat(60)));
    for (kind, option) in [
        ("overlay", format!("lowerdir={lower}")),
        ("tmpfs", "size=64k,".repeat(600)),
    ] {
        let err = mount_all(&[request(kind, kind, "", &[&option])], &space.rootfs()).unwrap_err();
        assert!(err.message.contains("mount options are too long"), "{err}");
        assert!(err.message.len() < 2000, "{err}");
    }
    assert_eq!(space.mounts().len(), 0);
}

#[test]
fn a_target_cannot_leave_the_rootfs() {
    let space = Space::new("target");
    let outside = space.dir("outside");
    let inside = space.dir("rootfs/outside");
    for (name, link) in [
        ("absolute", Path::new("/outside")),
        ("climbing", Path::new("../../../../outside")),
        ("real", outside.as_path()),
    ] {
        symlink(link, space.rootfs().join(name)).unwrap();
    }
    for target in [
        "outside",
        "/outside",
        "absolute",
        "climbing",
        "../outside",
        "a/../outside",
    ] {
        space.dir("rootfs/a");
        mount_all(&[tmpfs(target)], &space.rootfs()).unwrap();
        assert_eq!(space.mounts(), std::slice::from_ref(&inside), "{target}");
        unmount_all(&space.rootfs()).unwrap();
    }
    // A link to a directory of the host leads to that path below the rootfs, which is not there.
    let err = mount_all(&[tmpfs("real")], &space.rootfs()).unwrap_err();
    assert!(err.message.contains("No such file or directory"), "{err}");
    assert_eq!(space.mounts().len(), 0);
}

#[test]
fn a_later_target_is_looked_up_in_the_earlier_mount() {
    let space = Space::new("order");
    let source = space.dir("source");
    fs::create_dir(source.join("sub")).unwrap();
    let mounts = [request("", &source, "", &["bind"]), tmpfs("sub")];
    mount_all(&mounts, &space.rootfs()).unwrap();
    assert_eq!(space.mounts(), [space.rootfs(), space.rootfs().join("sub")]);
    unmount_all(&space.rootfs()).unwrap();
    assert_eq!(space.mounts().len(), 0);
}

#[test]
fn a_failure_takes_back_what_was_mounted() {
    let space = Space::new("rollback");
    // What was there before stays.
    mount_all(&[tmpfs("")], &space.rootfs()).unwrap();
    fs::write(space.rootfs().join("mark"), "").unwrap();
    let before = space.mounts();

    let fail = request("no-such-fs", "thing", "", &["a=b"]);
    let err = mount_all(&[tmpfs(""), tmpfs(""), fail], &space.rootfs()).unwrap_err();
    assert_eq!(err.code, Code::Unknown);
    let rootfs = space.rootfs();
    let start = format!(
        "failed to mount rootfs component: mount source: \"thing\", target: {rootfs:?}, \
         fstype: no-such-fs, flags: 0, data: \"a=b\", err: "
    );
    assert!(err.message.starts_with(&start), "{err}");
    assert_eq!(space.mounts(), before);
    assert!(rootfs.join("mark").exists());
}

#[test]
fn what_is_not_done_yet_is_refused_before_anything_is_mounted() {
    let space = Space::new("refused");
    for (mount, code) in [
        (request("ext4", "image", "", &["loop"]), Code::Unimplemented),
        (
            request("", "/", "", &["bind", "uidmap=0:1:1"]),
            Code::Unimplemented,
        ),
        (request("fuse.sshfs", "x", "", &[]), Code::Unimplemented),
        (request("fuse3.x", "x", "", &[]), Code::Unimplemented),
        (
            request("", "/", "", &["X-containerd.x"]),
            Code::InvalidArgument,
        ),
    ] {
        let err = mount_all(&[tmpfs(""), mount], &space.rootfs()).unwrap_err();
        assert_eq!(err.code, code, "{err}");
        let start = "failed to mount rootfs component: mount source: ";
        assert!(err.message.starts_with(start), "{err}");
        assert_eq!(space.mounts().len(), 0);
    }
}

#[test]
fn stacked_hidden_and_oddly_named_mounts_are_unmounted() {
    let space = Space::new("stacked");
    let sibling = space.dir("rootfs2");
    mount_all(&[tmpfs("")], &sibling).unwrap();
    mount_all(&[tmpfs("")], &space.rootfs()).unwrap();
    let odd = space.dir("rootfs/a b\n\\é");
    mount_all(&[tmpfs(""), tmpfs("")], &odd).unwrap();
    // Stacked on top: hides the odd one.
    mount_all(&[tmpfs(""), tmpfs("")], &space.rootfs()).unwrap();
    assert_eq!(space.mounts().len(), 6);

    // The way there does not matter.
    let link = space.0.join("link");
    symlink("rootfs", &link).unwrap();
    unmount_all(&link).unwrap();
    assert_eq!(space.mounts(), [sibling]);
}

#[test]
fn nothing_to_unmount_is_fine() {
    let space = Space::new("nothing");
    unmount_all(&space.rootfs()).unwrap();
    unmount_all(&space.0.join("missing/rootfs")).unwrap();
    let all = unmount_all(Path::new("/")).unwrap_err();
    assert_eq!(all.code, Code::InvalidArgument);
}

#[test]
fn a_busy_mount_is_an_error_that_can_be_retried() {
    let space = Space::new("busy");
    mount_all(&[tmpfs("")], &space.rootfs()).unwrap();
    let user = File::create(space.rootfs().join("file")).unwrap();
    let err = unmount_all(&space.rootfs()).unwrap_err();
    let rootfs = space.rootfs();
    assert_eq!(
        err.message,
        format!("unmount {}: Device or resource busy", rootfs.display())
    );
    // Still there, not detached behind everybody's back.
    assert_eq!(space.mounts(), std::slice::from_ref(&rootfs));

    let unmount = thread::spawn(move || unmount_all(&rootfs));
    drop(user);
    unmount.join().unwrap().unwrap();
    assert_eq!(space.mounts().len(), 0);
}
