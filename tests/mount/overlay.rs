//! Overlays, with more layers than fit in a page of options.

use std::fs;

use cotter::mount::unmount_all;

use crate::space::{Space, mount_all, request};

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
pub fn layers(space: &Space, count: usize, name: impl Fn(usize) -> String) -> String {
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
    space.is_free();
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
