//! `ctr run --uidmap --gidmap` under real containerds: with a snapshot whose files they give other
//! owners themselves, and with one that the shim is to map.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::common::containerd::{Containerd, Form, Version};
use crate::common::{TempDir, eventually, run, run_with_input, tool};
use crate::image;

const FLAGS: [&str; 6] = [
    "--snapshotter",
    "overlayfs",
    "--uidmap",
    "0:100000:65536",
    "--gidmap",
    "0:200000:65536",
];

/// What a process in the container sees of itself, the image and its output.
const LOOKS: &str = "id -u; cat /proc/self/uid_map; stat -c %u:%g / /bin/busybox /five; \
    touch /made; echo again >/dev/stdout; read word; echo $word";

const SEEN: [&str; 7] = ["0", "0 100000 65536", "0:0", "0:0", "5:6", "again", "words"];

fn words(text: &str) -> Vec<String> {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect()
}

fn run_with(version: Version, runtime: &str, remap: &[&str]) {
    let daemon = Containerd::start(version, Form::DropIn, &tool(runtime));
    let dir = TempDir::new("image");
    let archive = image::archive(&dir);
    let mut import = daemon.ctr_command(&["images", "import", "--snapshotter", "overlayfs"]);
    run(import.arg(&archive)).ok();
    let before = daemon.census();

    let flags: Vec<&str> = FLAGS.iter().chain(remap).copied().collect();
    let container = |more: &[&str], id: &str, argv: &[&str]| -> Command {
        let flags: Vec<&str> = flags.iter().chain(more).copied().collect();
        daemon.run_image_command(&flags, image::NAME, id, argv)
    };

    let argv = ["sleep", "1000"];
    run(&mut container(&["-d", "--null-io"], "stays", &argv)).ok();
    let pid = daemon.pid("stays").unwrap();
    let status = fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!((status.uid(), status.gid()), (100_000, 200_000));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = format!("/{}/stays/rootfs ", daemon.owner.namespace);
    let mounts: Vec<_> = table.lines().filter(|line| line.contains(&place)).collect();
    let [mount] = mounts[..] else {
        panic!("{mounts:?}");
    };
    let layers = mount.split_once("lowerdir=").unwrap().1;
    let layer = layers
        .split([':', ','])
        .find(|layer| Path::new(layer).join("five").exists());
    let five = fs::metadata(Path::new(layer.unwrap()).join("five")).unwrap();
    let on_disk = if remap.is_empty() {
        (100_005, 200_006)
    } else {
        (5, 6)
    };
    assert_eq!((five.uid(), five.gid()), on_disk, "{mount}");
    let state = daemon.owner.dir.join("state/io.containerd.runtime.v2.task");
    let bundle = state.join(&daemon.owner.namespace).join("stays");
    let bundle = fs::metadata(bundle).unwrap();
    assert_eq!((bundle.mode() & 0o777, bundle.gid()), (0o710, 200_000));

    let argv = ["sh", "-c", "id -u; stat -c %u:%g /five"];
    let done = daemon.exec("stays", &argv);
    assert_eq!((done.code, done.out.as_str()), (0, "0\n5:6\n"), "{done:?}");
    let argv = [
        "sh",
        "-c",
        "stat -Lc owner:%u /proc/self/fd/0; echo again >/proc/self/fd/1",
    ];
    let done = daemon.exec_on_terminal("stays", &argv);
    // In between is what the terminal echoes, and ctr's complaint that it cannot resize the terminal
    // of a process that has ended.
    for said in ["owner:0", "again"] {
        assert!(done.code == 0 && done.out.contains(said), "{done:?}");
    }

    // Only now: with the last container of a map, a manager forgets the layers made for it.
    let argv = ["sh", "-c", LOOKS];
    let done = run_with_input(&mut container(&["--rm"], "looks", &argv), b"words\n");
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(words(&done.out), SEEN, "{done:?}");

    let kill = ["tasks", "kill", "--signal", "SIGKILL", "stays"];
    daemon.ctr(&kill).ok();
    eventually("the task is stopped", || {
        daemon.status("stays").as_deref() == Some("STOPPED")
    });
    daemon.ctr(&["tasks", "delete", "stays"]);
    daemon.ctr(&["containers", "delete", "stays"]).ok();
    daemon.nothing_left_since(&before);
    daemon.passed(if remap.is_empty() {
        "user namespace"
    } else {
        "user namespace, mapped by the shim"
    });
}

/// A test per way, containerd and runtime. Only containerd 2.1 leaves the map to the shim.
macro_rules! tests {
    ($($name:ident $version:ident $runtime:literal $flags:expr;)*) => {
        $(#[test]
        fn $name() {
            run_with(Version::$version, $runtime, $flags);
        })*
    };
}

tests! {
    owned_by_1_6_runc V1_6 "RUNC" &[];
    owned_by_1_6_crun V1_6 "CRUN" &[];
    owned_by_1_7_runc V1_7 "RUNC_1_3" &[];
    owned_by_1_7_runc_1_1 V1_7 "RUNC" &[];
    owned_by_1_7_crun V1_7 "CRUN_1_21" &[];
    owned_by_2_1_runc V2_1 "RUNC_1_3" &[];
    owned_by_2_1_crun V2_1 "CRUN_1_21" &[];
    mapped_for_2_1_runc V2_1 "RUNC_1_3" &["--remap-labels"];
    mapped_for_2_1_crun V2_1 "CRUN_1_21" &["--remap-labels"];
}
