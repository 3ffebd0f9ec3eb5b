//! Targets below the root file system: whatever links an image brings along, none leads out.

use std::os::unix::fs::symlink;
use std::path::Path;

use cotter::mount::unmount_all;

use crate::space::{Space, mount_all, tmpfs};

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
    assert!(err.message.contains("no such file or directory"), "{err}");
    assert_eq!(space.mounts().len(), 0);
}
