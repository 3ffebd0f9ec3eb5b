//! What mount(2) does: flags, data, bind mounts, propagation; all or nothing.

use std::fs;

use cotter::error::Code;
use cotter::mount::unmount_all;
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::space::{Space, mount_all, refused, request, tmpfs};

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
    assert_eq!(space.mounts(), [""; 0].map(std::path::PathBuf::from));
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
    // The optional fields of a mount: between its options and a dash.
    let told = |dir: &std::path::Path| {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let place = format!(" {} ", dir.display());
        let line = table.lines().find(|line| line.contains(&place)).unwrap();
        let fields = line.split_once(" - ").unwrap().0.split(' ').skip(6);
        let fields = fields.map(|field| field.split(':').next().unwrap().to_owned());
        fields.collect::<Vec<_>>().join(" ")
    };
    for (option, top, below) in [
        ("shared", "shared", "shared"),
        ("private", "", "shared"),
        ("slave", "master", "shared"),
        ("unbindable", "unbindable", "shared"),
        ("rshared", "shared", "shared"),
        ("rprivate", "", ""),
        ("rslave", "master", "master"),
        ("runbindable", "unbindable", "unbindable"),
    ] {
        // What is bound: a mount that is shared, with another below it that is, too.
        let source = space.dir("source");
        for dir in [source.clone(), source.join("below")] {
            fs::create_dir_all(&dir).unwrap();
            let (none, flags) = (None::<&str>, MsFlags::empty());
            mount(Some("t"), &dir, Some("tmpfs"), flags, none).unwrap();
            mount(none, &dir, none, MsFlags::MS_SHARED, none).unwrap();
        }
        let bind = request("", &source, "", &["rbind", option]);
        mount_all(&[bind], &space.rootfs()).unwrap();
        let rootfs = space.rootfs();
        let seen = (told(&rootfs), told(&rootfs.join("below")));
        assert_eq!(seen, (top.into(), below.into()), "{option}");
        unmount_all(&rootfs).unwrap();
        unmount_all(&source).unwrap();
    }
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

/// Whatever stands before a bad one is not even tried.
#[test]
fn bad_options_are_refused_before_anything_is_mounted() {
    let space = Space::new("refused");
    let map = ["bind", "uidmap=0:1:1", "gidmap=0:1:1"];
    for bad in [
        request("", "/", "", &["X-containerd.x"]),
        request("fuse.x", "x", "", &["X-containerd.x=y"]),
        request("fuse.", "x", "", &[]),
        request("ext4", "image", "", &["loop", "bind"]),
        request("ext4", "image", "", &["loop", "remount"]),
        request("", "/", "", &map[..2]),
        request("", "/", "", &[map[0], map[2]]),
        request("", "/", "", &["bind", "uidmap=0:1:0", "gidmap=0:1:1"]),
        request("", "/", "", &["bind", "uidmap=0:1:1", "gidmap=nobody"]),
        request("", "/", "", &["remount", map[1], map[2]]),
        request("overlay", "overlay", "", &map[1..]),
    ] {
        let error = refused(&space, &[tmpfs(""), bad]);
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
    }
    assert_eq!(space.mounts().len(), 0);
}
