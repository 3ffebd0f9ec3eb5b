//! Id-mapped mounts: the same files with other owners, for bind mounts, file systems and the layers
//! of an overlay.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use cotter::error::Code;
use cotter::mount::{mounted_below, unmount_all};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::overlay::layers;
use crate::space::{Space, mount_all, refused, request, tmpfs};

const MAP: [&str; 2] = ["uidmap=0:100000:1000", "gidmap=0:200000:1000"];
/// Who a file belongs to whose owner has no name in the map.
const NOBODY: u32 = 65534;

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

/// A file with an owner.
fn file(path: impl AsRef<Path>, uid: u32, gid: u32) {
    fs::write(&path, "x").unwrap();
    chown(path, Some(uid), Some(gid)).unwrap();
}

fn with_map<'a>(words: &[&'a str]) -> Vec<&'a str> {
    words.iter().copied().chain(MAP).collect()
}

#[test]
fn a_bind_mount_shows_other_owners() {
    let space = Space::new("id-bind");
    let source = space.dir("source");
    file(source.join("root"), 0, 0);
    file(source.join("user"), 7, 8);
    file(source.join("stranger"), 1000, 2000);
    let bind = request("bind", &source, "", &with_map(&["bind"]));
    mount_all(&[bind], &space.rootfs()).unwrap();
    assert_eq!(space.mounts(), [space.rootfs()]);

    let rootfs = space.rootfs();
    assert_eq!(owner(&rootfs), (100_000, 200_000));
    assert_eq!(owner(rootfs.join("root")), (100_000, 200_000));
    assert_eq!(owner(rootfs.join("user")), (100_007, 200_008));
    assert_eq!(owner(rootfs.join("stranger")), (NOBODY, NOBODY));
    // And back: what the container's root owns is root's on disk.
    chown(rootfs.join("user"), Some(100_000), Some(200_001)).unwrap();
    assert_eq!(owner(source.join("user")), (0, 1));
    unmount_all(&rootfs).unwrap();
    assert_eq!(space.mounts().len(), 0);
}

#[test]
fn several_ranges() {
    let space = Space::new("id-ranges");
    let source = space.dir("source");
    for id in [0, 1, 10, 19] {
        file(source.join(id.to_string()), id, id);
    }
    let map = [
        "bind",
        "uidmap=0:5000:1,10:6000:10",
        "gidmap=10:8000:10,0:7000:2",
    ];
    mount_all(&[request("", &source, "", &map)], &space.rootfs()).unwrap();
    for (id, expected) in [
        (0, (5000, 7000)),
        (1, (NOBODY, 7001)),
        (10, (6000, 8000)),
        (19, (6009, 8009)),
    ] {
        let path = space.rootfs().join(id.to_string());
        assert_eq!(owner(path), expected, "{id}");
    }
}

#[test]
fn a_recursive_bind_maps_what_is_below_too() {
    let space = Space::new("id-rbind");
    let below = space.dir("source/below");
    mount_all(&[tmpfs("")], &below).unwrap();
    file(below.join("file"), 1, 1);
    let source = space.0.join("source");
    let bind = request("", &source, "", &with_map(&["rbind", "ro", "nosuid"]));
    mount_all(&[bind], &space.rootfs()).unwrap();
    let rootfs = space.rootfs();
    assert_eq!(owner(rootfs.join("below/file")), (100_001, 200_001));
    let has = statvfs(&rootfs).unwrap().flags();
    assert!(has.contains(FsFlags::ST_RDONLY | FsFlags::ST_NOSUID));
    assert_eq!(owner(source.join("below/file")), (1, 1));
    unmount_all(&rootfs).unwrap();
    assert_eq!(space.mounts(), [below]);
}

#[test]
fn a_file_system_of_its_own() {
    let space = Space::new("id-fs");
    let options = with_map(&["size=64k", "mode=750", "uid=3", "gid=4", "nodev"]);
    let sub = space.dir("rootfs/sub");
    let mount = request("tmpfs", "t", "sub", &options);
    mount_all(&[mount], &space.rootfs()).unwrap();
    assert_eq!(space.mounts(), std::slice::from_ref(&sub));
    assert_eq!(owner(&sub), (100_003, 200_004));
    assert!(statvfs(&sub).unwrap().flags().contains(FsFlags::ST_NODEV));
    unmount_all(&space.rootfs()).unwrap();
    // Nobody holds it.
    space.is_free();
}

#[test]
fn a_file_onto_a_file() {
    let space = Space::new("id-file");
    file(space.0.join("source"), 1, 2);
    file(space.rootfs().join("target"), 0, 0);
    let bind = request("", space.0.join("source"), "target", &with_map(&["bind"]));
    mount_all(&[bind], &space.rootfs()).unwrap();
    assert_eq!(owner(space.rootfs().join("target")), (100_001, 200_002));
}

/// An overlay's layers are mapped and the upper directory is not: its owner is the manager's affair.
#[test]
fn an_overlay_has_mapped_layers() {
    let space = Space::new("id-overlay");
    let [one, two, upper, work] = ["one", "two", "upper", "work"].map(|name| space.dir(name));
    chown(&upper, Some(100_000), Some(200_000)).unwrap();
    file(one.join("one"), 0, 0);
    file(two.join("two"), 5, 6);
    let options = [
        format!("lowerdir={}:{}", one.display(), two.display()),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ];
    let options = with_map(&options.each_ref().map(String::as_str));
    let overlay = request("overlay", "overlay", "", &options);
    mount_all(&[overlay], &space.rootfs()).unwrap();
    let rootfs = space.rootfs();
    assert_eq!(space.mounts(), std::slice::from_ref(&rootfs));
    assert_eq!(owner(&rootfs), (100_000, 200_000));
    assert_eq!(owner(rootfs.join("one")), (100_000, 200_000));
    assert_eq!(owner(rootfs.join("two")), (100_005, 200_006));
    fs::write(rootfs.join("two"), "changed").unwrap();
    assert_eq!(owner(upper.join("two")), (100_005, 200_006));
    assert_eq!(owner(two.join("two")), (5, 6));
    assert_eq!(fs::read(two.join("two")).unwrap(), b"x");

    // Whoever looks at the table finds the layers by their names.
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lower = format!("lowerdir={}:{}", one.display(), two.display());
    assert!(table.contains(&lower), "{table}");
    unmount_all(&rootfs).unwrap();
    space.is_free();
}

#[test]
fn many_layers_with_long_names() {
    let space = Space::new("id-layers");
    let parent = "p".repeat(100);
    let lower = layers(&space, 130, |n| format!("{parent}/snapshots/{n}/fs"));
    assert!(lower.len() > 4 * 4096, "{}", lower.len());
    let option = format!("lowerdir={lower}");
    let overlay = request("overlay", "overlay", "", &with_map(&[&option]));
    mount_all(&[overlay], &space.rootfs()).unwrap();
    assert_eq!(space.mounts(), [space.rootfs()]);
    assert_eq!(fs::read_dir(space.rootfs()).unwrap().count(), 130);
    for n in [0, 64, 129] {
        let path = space.rootfs().join(n.to_string());
        assert_eq!(owner(path), (100_000, 200_000));
    }
    unmount_all(&space.rootfs()).unwrap();
    space.is_free();
}

#[test]
fn layers_with_odd_names() {
    let space = Space::new("id-odd");
    for name in ["a", "b:c", "d\\e", "link-to"] {
        let dir = space.dir(name);
        file(dir.join(name), 1, 1);
    }
    std::os::unix::fs::symlink("link-to", space.0.join("link")).unwrap();
    for (lower, expected) in [
        ("b\\:c:a", &["a", "b:c"][..]),
        ("d\\\\e:link", &["d\\e", "link-to"]),
        // Layers that only hold data are not seen themselves.
        ("a::b\\:c", &["a"]),
    ] {
        let base = format!("{}/", space.0.display());
        let absolute = |layer: &str| match layer {
            "" => String::new(),
            layer => format!("{base}{layer}"),
        };
        let marked = lower.replace("\\:", "\0");
        let layers: Vec<_> = marked.split(':').map(absolute).collect();
        let option = format!("lowerdir={}", layers.join(":").replace('\0', "\\:"));
        let mut words = with_map(&[&option]);
        if option.contains("::") {
            words.push("metacopy=on");
        }
        let made = mount_all(&[request("overlay", "o", "", &words)], &space.rootfs());
        made.unwrap_or_else(|why| panic!("{option}: {why}"));
        let entries = fs::read_dir(space.rootfs()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, expected, "{option}");
        for name in names {
            let owner = owner(space.rootfs().join(name));
            assert_eq!(owner, (100_001, 200_001), "{option}");
        }
        unmount_all(&space.rootfs()).unwrap();
    }
    // The kernel refuses layers within layers, mapped or not.
    space.dir("a/in");
    let base = space.0.display();
    let option = format!("lowerdir={base}/a:{base}/a/in");
    refused(
        &space,
        &[request("overlay", "o", "", &with_map(&[&option]))],
    );
    space.is_free();
}

#[test]
fn what_cannot_be_mapped_is_an_error_and_leaves_nothing() {
    let space = Space::new("id-cannot");
    let upper = [space.dir("upper"), space.dir("work")];
    let proc = space.dir("proc");
    let none = None::<&str>;
    mount(Some("proc"), &proc, Some("proc"), MsFlags::empty(), none).unwrap();
    let lower = format!("lowerdir={}:{}", upper[0].display(), proc.display());
    let gone = format!("lowerdir={}", space.0.join("gone").display());
    let unable = "cannot be id-mapped";
    for (request, words) in [
        (request("", &proc, "", &with_map(&["bind"])), unable),
        (request("proc", "proc", "", &with_map(&[])), unable),
        (request("overlay", "o", "", &with_map(&[&lower])), unable),
        (
            request("overlay", "o", "", &with_map(&[&gone])),
            "no such file",
        ),
        (request("tmpfs", "t", "", &with_map(&["size=x"])), "invalid"),
        (
            request("nosuchfs", "t", "", &with_map(&[])),
            "no such device",
        ),
        (
            request("", "/nonexistent", "", &with_map(&["bind"])),
            "no such file",
        ),
    ] {
        let error = refused(&space, &[tmpfs(""), request]);
        assert_eq!(error.code, Code::Unknown);
        assert!(error.message.contains(words), "{error}");
    }
    umount2(&proc, MntFlags::empty()).unwrap();
    space.is_free();
    assert_eq!(mounted_below(&space.0).unwrap().len(), 0);
}
