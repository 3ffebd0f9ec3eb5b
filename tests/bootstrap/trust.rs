//! What is in a bundle leads nowhere else, and a group is of its own namespace: links, and names
//! with dots and slashes.

use std::fs;
use std::os::unix::fs::symlink;

use nix::mount::{MsFlags, mount};
use serde_json::json;

use crate::common::TempDir;
use crate::harness::*;

/// Names with which one could get at what is another namespace's.
const EVIL: [&str; 8] = [
    "../{}/victim",
    "a/../../{}/victim",
    "/abs",
    "a/b",
    "..",
    ".",
    "a\nb",
    "a\u{9b}b",
];

fn annotate(bundle: &Bundle, key: &str, group: &str) {
    let config = json!({ "annotations": { key: group } });
    fs::write(bundle.path.join("config.json"), config.to_string()).unwrap();
}

/// A shim of another namespace, and whatever is no plain name, is out of reach.
#[test]
fn a_group_reaches_no_other_namespace() {
    let victim = Manager::new("group-victim");
    let theirs = victim.bundle("victim", Some("victim"));
    let socket = theirs.start(Dialect::Json);
    let mut manager = Manager::new("group-evil");
    // Of one containerd.
    let other = victim.namespace.clone();
    manager.grpc_of = Some(victim.grpc());
    let healthy = manager.bundle("good", Some("good..1"));
    let good = healthy.start(Dialect::Json);
    for key in [
        "io.containerd.runc.v2.group",
        "io.kubernetes.cri.sandbox-id",
    ] {
        for (n, name) in EVIL.iter().enumerate() {
            let name = name.replace("{}", &other);
            let bundle = manager.bundle(&format!("c{n}"), None);
            annotate(&bundle, key, &name);
            for dialect in [Dialect::Json, Dialect::Proto] {
                let output = bundle.start_with(dialect, &Default::default());
                let said = String::from_utf8(output.stderr).unwrap();
                assert!(!output.status.success(), "{name:?}: joined a shim");
                assert_eq!(output.stdout, b"", "{name:?}");
                assert!(said.contains("group"), "{name:?}: {said}");
                assert!(said.contains("invalid argument"), "{name:?}: {said}");
                assert_eq!(said.trim_end().lines().count(), 1, "{said:?}");
            }
            assert!(!bundle.path.join("address").exists());
            // Nor does the other action find it; it does not fail.
            assert!(run(bundle.command("delete"), b"").status.success());
            fs::remove_dir_all(&bundle.path).unwrap();
        }
    }
    assert!(answers(&socket) && answers(&good));
    assert_eq!(manager.servers().len(), 1);
}

/// `start` writes what is its own, and nothing through a link that is in its place.
#[test]
fn start_follows_no_link_in_the_bundle() {
    let manager = Manager::new("start-links");
    let elsewhere = TempDir::new("cotter-links");
    let precious = elsewhere.path().join("precious");
    for name in [".address", "address"] {
        fs::write(&precious, "precious").unwrap();
        let bundle = manager.bundle(name.trim_start_matches('.'), None);
        symlink(&precious, bundle.path.join(name)).unwrap();
        // The bundle is healthy otherwise, and the shim's own name is free to be taken.
        let socket = bundle.start(Dialect::Json);
        assert!(answers(&socket));
        let file = bundle.path.join("address");
        assert!(file.symlink_metadata().unwrap().is_file(), "{name}");
        assert_eq!(path_of(&fs::read_to_string(&file).unwrap()), socket);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious", "{name}");
        assert!(!bundle.path.join(".address").exists());
        manager.end(nix::sys::signal::Signal::SIGTERM);
        fs::remove_dir_all(&bundle.path).unwrap();
    }
}

/// A log is not written through one either, nor to a file.
#[test]
fn the_log_is_a_fifo_or_none() {
    let manager = Manager::new("log-link");
    let elsewhere = TempDir::new("cotter-log");
    let precious = elsewhere.path().join("precious");
    for kind in ["a link", "a file"] {
        fs::write(&precious, "precious").unwrap();
        let bundle = manager.bundle(&kind.replace(' ', "-"), None);
        let log = bundle.path.join("log");
        fs::remove_file(&log).unwrap();
        match kind {
            "a link" => symlink(&precious, &log).unwrap(),
            _ => fs::write(&log, "precious").unwrap(),
        }
        // The shim serves all the same.
        let output = bundle.start_with(Dialect::Json, &Default::default());
        succeeded(&output);
        let socket = path_of(&address(Dialect::Json, &output.stdout));
        assert!(answers(&socket), "{kind}");
        manager.end(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(fs::read_to_string(&log).unwrap(), "precious", "{kind}");
    }
}

/// Takes a mount away, whatever has become of the test.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// `delete` unmounts what is mounted in the bundle and nothing that a link leads to, nor what is in
/// the place of a bundle's parent's link.
#[test]
fn delete_unmounts_nothing_outside_the_bundle() {
    let manager = Manager::new("delete-link");
    let elsewhere = TempDir::new("cotter-mount");
    let tmpfs = |at: &std::path::Path| {
        fs::create_dir_all(at).unwrap();
        mount(Some("t"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        Mounted(at.to_owned())
    };
    let is_mounted = |at: &std::path::Path| !cotter::mount::nothing_mounted(at);
    let outside = elsewhere.path().join("data");
    let _outside = tmpfs(&outside);

    let bundle = manager.bundle("c1", None);
    let rootfs = bundle.path.join("rootfs");
    for target in [outside.clone(), elsewhere.path().to_owned()] {
        symlink(&target, &rootfs).unwrap();
        let output = run(bundle.command("delete"), b"");
        assert!(output.status.success());
        assert!(is_mounted(&outside), "rootfs -> {}", target.display());
        fs::remove_file(&rootfs).unwrap();
    }
    // Healthy work: its own mounts go, also where the way to the bundle is a link, as /var/run is.
    let way = elsewhere.path().join("run");
    symlink(manager.dir.join("bundles"), &way).unwrap();
    for path in [bundle.path.clone(), way.join("c1")] {
        let _own = tmpfs(&rootfs);
        let mut command = bundle.command("delete");
        command.current_dir(&path);
        let output = run(command, b"");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        assert!(!is_mounted(&rootfs), "{}", path.display());
    }
    assert!(is_mounted(&outside));
}
