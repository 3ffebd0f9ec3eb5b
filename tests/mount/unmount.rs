//! Unmounting: all or an error, never detached.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;

use cotter::error::Code;
use cotter::mount::{nothing_mounted, unmount_all};

use crate::space::{Space, mount_all, tmpfs};

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

    // Not by a link in its place; the way there does not matter.
    let link = space.0.join("link");
    symlink("rootfs", &link).unwrap();
    unmount_all(&link).unwrap();
    assert_eq!(space.mounts().len(), 6);
    let way = space.0.join("way");
    symlink(".", &way).unwrap();
    unmount_all(&way.join("rootfs")).unwrap();
    assert_eq!(space.mounts(), [sibling]);
}

/// Where there may be something it says no: at the place, or below it. A link is no such place.
#[test]
fn nothing_mounted_is_certain() {
    let space = Space::new("certain");
    let rootfs = space.rootfs();
    for missing in ["rootfs/missing", "missing/rootfs"] {
        assert!(nothing_mounted(&space.0.join(missing)), "{missing}");
    }
    assert!(nothing_mounted(&rootfs));
    let link = space.0.join("link");
    symlink("rootfs", &link).unwrap();
    let below = space.dir("rootfs/below");
    for place in [&below, &rootfs] {
        mount_all(&[tmpfs("")], place).unwrap();
        assert!(!nothing_mounted(&rootfs), "{}", place.display());
        assert!(nothing_mounted(&link));
        unmount_all(place).unwrap();
        assert!(nothing_mounted(&rootfs), "{}", place.display());
    }
    mount_all(&[tmpfs("")], &space.dir("rootfs2")).unwrap();
    assert!(nothing_mounted(&rootfs), "its neighbour is another");
    assert!(!nothing_mounted(Path::new("/")));
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
        format!("unmount {}: device or resource busy", rootfs.display())
    );
    // Still there, not detached behind everybody's back.
    assert_eq!(space.mounts(), std::slice::from_ref(&rootfs));

    let unmount = thread::spawn(move || unmount_all(&rootfs));
    drop(user);
    unmount.join().unwrap().unwrap();
    assert_eq!(space.mounts().len(), 0);
}
