use super::locate::{memberships, version};
use super::manage::{enable, targets};
use super::mounts::visible;
use super::*;
use crate::error::Code;
use proptest::prelude::*;
use std::path::PathBuf;

const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
";
const HYBRID: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

fn cgroup(of: &str, own: &str, mounts: &str) -> Result<Cgroup> {
    Cgroup::from_text(of.as_bytes(), own.as_bytes(), mounts.as_bytes())
}

fn dirs(cgroup: &Cgroup) -> Vec<&str> {
    let dirs = cgroup.places.iter().map(|place| place.dir.to_str());
    dirs.map(Option::unwrap).collect()
}

/// A process of which it cannot be told is not one that is elsewhere.
#[test]
fn a_process_that_cannot_be_read_is_in_doubt() {
    let pod = cgroup("0::/pod/a\n", "0::/shim\n", V2).unwrap();
    for (of, held) in [
        (Ok("0::/pod/a\n"), Ok(true)),
        (Ok("0::/pod/a/below\n"), Ok(true)),
        (Ok("0::/pod/ab\n"), Ok(false)),
        (Err(Error::not_found("gone")), Ok(false)),
        (Err(Error::unknown("EMFILE")), Err(Error::unknown("EMFILE"))),
    ] {
        let text = of.clone().map(|text| text.as_bytes().to_vec());
        assert_eq!(pod.holds_by(text), held, "{of:?}");
    }
}

#[test]
fn v2_has_one_place() {
    // A v1 hierarchy mounted by somebody for himself changes nothing.
    let extra = "50 23 0:60 / /run/net_cls rw - cgroup cgroup rw,net_cls\n";
    for mounts in [
        V2.to_owned(),
        format!("{V2}{extra}"),
        format!("{extra}{V2}"),
    ] {
        let found = cgroup("4:net_cls:/\n0::/pod/a\n", "0::/shim\n", &mounts).unwrap();
        assert_eq!(found.version(), Version::V2);
        assert_eq!(dirs(&found), ["/sys/fs/cgroup/pod/a"]);
        assert_eq!(found.dir("memory"), Some(Path::new("/sys/fs/cgroup/pod/a")));
        assert!(!found.is_shared_with_us());
    }
}

#[test]
fn v1_has_a_place_per_hierarchy_pids_first_and_unified_last() {
    let of = "9:name=systemd:/a\n5:pids:/a\n4:memory:/a\n2:cpu,cpuacct:/a\n0::/a\n";
    let own = "9:name=systemd:/\n5:pids:/\n4:memory:/\n2:cpu,cpuacct:/\n0::/\n";
    let found = cgroup(of, own, &format!("{V1}{HYBRID}")).unwrap();
    assert_eq!(found.version(), Version::V1);
    assert_eq!(
        dirs(&found),
        [
            "/sys/fs/cgroup/pids/a",
            "/sys/fs/cgroup/memory/a",
            "/sys/fs/cgroup/cpu,cpuacct/a",
            "/sys/fs/cgroup/systemd/a",
            "/sys/fs/cgroup/unified/a",
        ]
    );
    let cpu = Path::new("/sys/fs/cgroup/cpu,cpuacct/a");
    assert_eq!(found.dir("cpuacct"), Some(cpu));
    assert_eq!(found.dir("hugetlb"), None);
}

#[test]
fn paths_are_relative_to_what_is_mounted() {
    let mounted = |root: &str| V2.replace(" / /sys", &format!(" {root} /sys"));
    for (path, root, dir) in [
        ("/docker/x/pod", "/docker/x", Some("/sys/fs/cgroup/pod")),
        ("/docker/x", "/docker/x", Some("/sys/fs/cgroup/")),
        ("/docker/xy", "/docker/x", None),
        // Outside the cgroup namespace, with and without a mount that shows it.
        ("/../a", "/", None),
        ("/../a", "/..", Some("/sys/fs/cgroup/a")),
    ] {
        let found = cgroup(&format!("0::{path}\n"), "0::/other\n", &mounted(root));
        let dir = dir.map(Path::new);
        assert_eq!(
            found.as_ref().ok().and_then(|found| found.dir("")),
            dir,
            "{path}"
        );
    }
    // Mounted again in a container's root: the usual place counts, wherever it is in the table.
    let again = "20 23 0:26 / /run/c/rootfs/sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    let found = cgroup("0::/a\n", "0::/b\n", &format!("{again}{V2}")).unwrap();
    assert_eq!(dirs(&found), ["/sys/fs/cgroup/a"]);
}

#[test]
fn what_the_shim_is_in_is_shared() {
    for (path, own, shared) in [
        ("/", "/", true),
        ("/", "/a", true),
        ("/a", "/a", true),
        ("/a", "/a/b/c", true),
        ("/a/b", "/a", false),
        ("/a", "/ab", false),
        ("/..", "/a", true),
        ("/../..", "/", true),
    ] {
        let mounts = format!("{V2}{}", V2.replace(" / ", " /.. "));
        let found = cgroup(&format!("0::{path}\n"), &format!("0::{own}\n"), &mounts);
        // What cannot be located cannot be listed either.
        let Ok(found) = found else {
            assert!(path.starts_with("/../"), "{path}");
            continue;
        };
        assert_eq!(found.is_shared_with_us(), shared, "{path} of {own}");
        assert_eq!(found.dir("pids").is_none(), shared, "{path} of {own}");
        assert_eq!(found.is_its_own().is_err(), shared, "{path} of {own}");
        if shared {
            let why = found.is_its_own().unwrap_err();
            let path = format!("also the shim's: {}:", dirs(&found)[0]);
            assert!(why.message.contains(&path), "{why}");
            assert_eq!(found.procs().unwrap_err().code, Code::FailedPrecondition);
        }
    }
    let unknown = cgroup("0::/a\n", "", V2).unwrap();
    assert!(unknown.is_shared_with_us());
}

/// A controller is in one hierarchy at a time, of v1 or of v2; not all need be of one kind, nor mounted.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_controller_is_where_the_kernel_has_it() {
    const UNIFIED: &str = "/sys/fs/cgroup/unified/a";
    let without = |name: &str| {
        let lines = V1.split_inclusive('\n').filter(|line| !line.contains(name));
        format!("{}{HYBRID}", lines.collect::<String>())
    };
    let (all, no_pids, no_memory) = (
        format!("{V1}{HYBRID}"),
        without("/pids"),
        without("/memory"),
    );
    let on_v2 = format!("{V2}60 23 0:60 / /mnt/memory rw - cgroup cgroup rw,memory\n");
    let (v1, v2) = (Version::V1, Version::V2);
    for (what, of, mounts, pids, memory) in [
        (
            "a plain hybrid",
            "5:pids:/a\n4:memory:/a\n0::/a\n",
            &all,
            (v1, Ok("/sys/fs/cgroup/pids/a")),
            (v1, Ok("/sys/fs/cgroup/memory/a")),
        ),
        (
            "in different cgroups",
            "5:pids:/p/a\n4:memory:/m/b\n0::/\n",
            &all,
            (v1, Ok("/sys/fs/cgroup/pids/p/a")),
            (v1, Ok("/sys/fs/cgroup/memory/m/b")),
        ),
        (
            "pids on v2",
            "4:memory:/a\n0::/a\n",
            &no_pids,
            (v2, Ok(UNIFIED)),
            (v1, Ok("/sys/fs/cgroup/memory/a")),
        ),
        (
            "memory on v2, the order of lines turned round",
            "0::/a\n5:pids:/a\n",
            &no_memory,
            (v1, Ok("/sys/fs/cgroup/pids/a")),
            (v2, Ok(UNIFIED)),
        ),
        (
            "pids on v2, where the shim is too",
            "4:memory:/a\n0::/\n",
            &no_pids,
            (v2, Err("the shim is in /sys/fs/cgroup/unified")),
            (v1, Ok("/sys/fs/cgroup/memory/a")),
        ),
        (
            "pids on a v1 that is not mounted, which v2 then does not have",
            "5:pids:/a\n4:memory:/a\n0::/a\n",
            &no_pids,
            (v1, Err("no hierarchy of it is mounted")),
            (v1, Ok("/sys/fs/cgroup/memory/a")),
        ),
        (
            "the shim shares pids, and v2 is not asked instead",
            "5:pids:/\n4:memory:/a\n0::/a\n",
            &all,
            (v1, Err("the shim is in /sys/fs/cgroup/pids")),
            (v1, Ok("/sys/fs/cgroup/memory/a")),
        ),
        (
            "no pids anywhere and no v2",
            "4:memory:/a\n",
            &V1.to_owned(),
            (v1, Err("no hierarchy of it is mounted")),
            (v1, Ok("/sys/fs/cgroup/memory/a")),
        ),
        (
            "v2 in the usual place, which runtimes then use",
            "4:memory:/\n0::/a\n",
            &on_v2,
            (v2, Ok("/sys/fs/cgroup/a")),
            (v2, Ok("/sys/fs/cgroup/a")),
        ),
    ] {
        let found = cgroup(of, "5:pids:/\n4:memory:/\n0::/\n", mounts).unwrap();
        for (name, (version, expected)) in [("pids", pids), ("memory", memory)] {
            assert_eq!(found.version_of(name), version, "{what}: {name}");
            match (found.place(name), expected) {
                (Ok(place), Ok(dir)) => assert_eq!(place.dir, Path::new(dir), "{what}: {name}"),
                (Err(why), Err(part)) => {
                    assert_eq!(why.code, Code::NotFound);
                    let own = format!("a cgroup of its own with the {name} controller: {part}");
                    assert!(why.message.starts_with(&own), "{what}: {why}");
                }
                (place, _) => panic!("{what}: {name}: {place:?}"),
            }
        }
    }
}

#[test]
fn one_shared_hierarchy_hides_only_itself() {
    let of = "5:pids:/\n4:memory:/a\n";
    let found = cgroup(of, "5:pids:/\n4:memory:/\n", V1).unwrap();
    assert!(!found.is_shared_with_us());
    assert_eq!(found.dir("pids"), None);
    assert_eq!(
        found.dir("memory"),
        Some(Path::new("/sys/fs/cgroup/memory/a"))
    );
}

#[test]
fn nothing_mounted_is_an_error() {
    for (of, mounts) in [
        ("0::/a\n", ""),
        ("", V2),
        ("5:pids:/a\n", V2),
        ("0::/a\n", V1),
    ] {
        assert!(cgroup(of, "0::/\n", mounts).is_err(), "{of} {mounts}");
    }
}

#[test]
fn lines_of_proc_cgroup() {
    let text = b"5:pids:/a:b (deleted)\nx:pids:/a\n5:pids\n5:pids:a\n\n0::/\n";
    let found = memberships(text);
    let paths: Vec<_> = found.iter().map(|m| m.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/a:b (deleted)", "/"]);
}

#[test]
fn the_mount_at_the_usual_place_decides() {
    for (table, expected) in [
        (V2.to_owned(), Version::V2),
        (V1.to_owned(), Version::V1),
        (format!("{V1}{HYBRID}"), Version::V1),
        (HYBRID.to_owned(), Version::V2),
        (String::new(), Version::V1),
    ] {
        assert_eq!(version(&visible(table.as_bytes())), expected, "{table}");
    }
}

#[test]
fn cgroup_paths_for_a_process() {
    let v2 = visible(V2.as_bytes());
    let good = targets(Version::V2, "/a/b", &v2).unwrap();
    assert_eq!(good, [Path::new("/sys/fs/cgroup/a/b")]);
    for bad in ["", "a", "/a/", "//a", "/a//b", "/a/../b", "/..", "/./a"] {
        let err = targets(Version::V2, bad, &v2).unwrap_err();
        assert_eq!(err.code, Code::InvalidArgument, "{bad}");
    }
    let v1 = visible(V1.as_bytes());
    let climb = targets(Version::V1, "/../etc", &v1).unwrap_err();
    assert_eq!(climb.code, Code::InvalidArgument);
    let missing = targets(Version::V1, "/cotter-no-such-cgroup", &v1).unwrap_err();
    assert_eq!(missing.code, Code::NotFound);
}

/// A tree of ordinary files; unlike the kernel it takes every write.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("cotter-{name}-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        for dir in ["", "a", "a/b"] {
            fs::write(root.join(dir).join("cgroup.subtree_control"), "").unwrap();
        }
        Self(root)
    }

    fn enabled(&self, dir: &str) -> String {
        fs::read_to_string(self.0.join(dir).join("cgroup.subtree_control")).unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn controllers_are_enabled_in_all_ancestors() {
    let tree = Tree::new("enable");
    fs::write(tree.0.join("cgroup.subtree_control"), "memory pids cpu\n").unwrap();
    enable(&tree.0, &tree.0.join("a/b")).unwrap();
    // Already complete: not written to.
    assert_eq!(tree.enabled(""), "memory pids cpu\n");
    assert_eq!(tree.enabled("a"), "+cpu +memory +pids");
    assert_eq!(tree.enabled("a/b"), "");
}

#[test]
fn an_ancestor_that_fails_does_not_stop_the_others() {
    let tree = Tree::new("enable-fail");
    fs::remove_file(tree.0.join("cgroup.subtree_control")).unwrap();
    let err = enable(&tree.0, &tree.0.join("a/b")).unwrap_err();
    assert!(err.message.contains("cgroup.subtree_control"), "{err}");
    assert_eq!(tree.enabled("a"), "+cpu +memory +pids");
}

proptest! {
    #[test]
    fn no_input_panics(of: Vec<u8>, own: Vec<u8>, table: Vec<u8>) {
        let _ = Cgroup::from_text(&of, &own, &table);
    }

    #[test]
    fn no_path_leaves_the_mount(path in "[/.a]{0,12}") {
        let v2 = visible(V2.as_bytes());
        for dir in targets(Version::V2, &path, &v2).unwrap_or_default() {
            prop_assert!(!dir.to_str().unwrap().contains("/../"));
            prop_assert!(dir.starts_with("/sys/fs/cgroup"));
        }
    }
}

/// A hierarchy of files, as the kernel's are read.
fn files(name: &str, files: &[(&str, &str)]) -> (PathBuf, Cgroup) {
    let top = std::env::temp_dir().join(format!("cotter-pids-{name}-{}", std::process::id()));
    let dir = top.join("pod/c");
    fs::create_dir_all(&dir).unwrap();
    for (file, text) in files {
        fs::write(dir.join(file), text).unwrap();
    }
    let mounts = format!(
        "36 31 0:33 / {} rw - cgroup cgroup rw,pids\n",
        top.display()
    );
    let found = cgroup("5:pids:/pod/c\n", "5:pids:/\n", &mounts).unwrap();
    (top, found)
}

#[test]
fn what_cannot_be_watched_is_named() {
    for (name, content, expected) in [
        ("missing", &[][..], "pids.events: no such file"),
        (
            "strange",
            &[("pids.events", "min 7\n")],
            "pids.events: there is no count",
        ),
        (
            "empty",
            &[("pids.events", "")],
            "pids.events: there is no count",
        ),
    ] {
        let (top, found) = files(name, content);
        let error = found.pids().unwrap_err();
        let path = top.join("pod/c");
        fs::remove_dir_all(&top).unwrap();
        assert!(error.message.contains(expected), "{error}");
        assert!(error.message.contains(path.to_str().unwrap()), "{error}");
        assert_eq!(error.message.lines().count(), 1);
    }
    let error = cgroup("4:memory:/c\n", "4:memory:/\n", V1).unwrap().pids();
    assert!(error.unwrap_err().message.contains("pids controller"));
    let shared = cgroup("5:pids:/\n4:memory:/c\n", "5:pids:/\n4:memory:/\n", V1);
    assert!(shared.unwrap().pids().is_err());
}

#[test]
fn the_limit_and_who_has_ended() {
    let content = [
        ("pids.events", "max 7\n"),
        ("pids.current", "12\n"),
        ("pids.max", "70\n"),
        ("tasks", "5\n6\n7\n"),
    ];
    let (top, found) = files("count", &content);
    let pids = found.pids().unwrap();
    let nested = pids.dir().join("nested");
    fs::create_dir(&nested).unwrap();
    fs::write(nested.join("tasks"), "9\n").unwrap();
    let seen = (pids.hits(), pids.level(), pids.zombies());
    pids.set_limit(20).unwrap();
    let limit = pids.level().and_then(|level| level.limit);
    let levels = pids.levels().len();
    fs::remove_dir_all(&top).unwrap();
    let level = Level {
        dir: top.join("pod/c"),
        current: 12,
        limit: Some(70),
    };
    assert_eq!(seen, (Ok(7), Some(level), Some(8)));
    // The pod's files cannot be read.
    assert_eq!((limit, levels), (Some(20), 1));
    assert!(pids.set_limit(20).is_err(), "no file is made");
}

/// The files of v1 and of v2 have other names.
#[test]
fn what_a_mix_says_is_read_where_it_is() {
    let top = std::env::temp_dir().join(format!("cotter-mix-{}", std::process::id()));
    let mounted = |name: &str, kind: &str| {
        let dir = top.join(name);
        fs::create_dir_all(dir.join("c")).unwrap();
        format!("36 31 0:33 / {} rw - {kind}\n", dir.display())
    };
    let table = [
        mounted("v2", "cgroup2 cgroup2 rw"),
        mounted("pids", "cgroup cgroup rw,pids"),
        mounted("memory", "cgroup cgroup rw,memory"),
    ];
    for (file, text) in [
        ("pids/c/pids.events", "max 1\n"),
        ("v2/c/pids.events", "max 2\n"),
        ("v2/c/pids.current", "7\n"),
        ("v2/c/pids.max", "70\n"),
        ("memory/c/memory.oom_control", "oom_kill 3\n"),
        ("memory/c/memory.failcnt", "5\n"),
        ("v2/c/memory.events", "oom 0\noom_kill 4\n"),
        ("v2/c/memory.events.local", "oom 6\n"),
    ] {
        fs::write(top.join(file), text).unwrap();
    }
    let look = |of: &str, mounts: &[&String]| {
        let mounts: String = mounts.iter().map(|line| line.as_str()).collect();
        let found = cgroup(of, "5:pids:/\n4:memory:/\n0::/\n", &mounts).unwrap();
        let pids = found.pids().and_then(|pids| pids.hits());
        let stats = match found.metrics() {
            Some(Metrics::V1(v1)) => v1.pids.as_ref().map(|pids| (pids.current, pids.limit)),
            _ => None,
        };
        (pids, found.oom_kills(), found.hits(), stats)
    };
    let [v2, pids, memory] = &table;
    let pids_on_v2 = look("4:memory:/c\n0::/c\n", &[v2, memory]);
    let memory_on_v2 = look("5:pids:/c\n0::/c\n", &[v2, pids]);
    fs::remove_file(top.join("v2/c/pids.events")).unwrap();
    // As where nobody enabled the controller.
    let no_file = look("4:memory:/c\n0::/c\n", &[memory, v2]).0;
    fs::remove_dir_all(&top).unwrap();
    assert_eq!(
        pids_on_v2,
        (Ok(2), Ok(3), vec![Some(5)], Some((7, 70))),
        "pids on v2"
    );
    assert_eq!(
        memory_on_v2,
        (Ok(1), Ok(4), vec![Some(6)], None),
        "memory on v2"
    );
    let why = no_file.unwrap_err().message;
    let path = top.join("v2/c/pids.events");
    assert!(why.contains(path.to_str().unwrap()), "{why}");
}
