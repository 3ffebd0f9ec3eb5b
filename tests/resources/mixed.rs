//! Controllers that are missing, or in hierarchies of different kinds: what can be watched is watched, and what cannot
//! is said once, with its path; the container runs on.

use std::fs;
use std::path::Path;
use std::process::Command;

use cotter::cgroup::Version;
use cotter::manager::dialect::Dialect;
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;

use crate::cgroup;
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{eventually, unique};
use crate::unwatched::{names, works};

/// Names what a test that runs once more, in namespaces of its own, has there.
const HAS: &str = "COTTER_TEST_HAS";

/// An empty v2 where v1 was, which is still in use.
const BARE_V2: &str = "v2";

const ROOT: &str = "/sys/fs/cgroup";
const MOUNT_V2: &str = "mount -t cgroup2 cgroup2 /sys/fs/cgroup";

/// What a container has that is to be watched, or why it is not.
struct Has<'a> {
    pids: Result<(), &'a str>,
    memory: Result<(), &'a str>,
}

/// A container in the cgroup `path` reaches the limits that it has, and is told of. `prepare` is called with its pid
/// before it starts.
async fn lives(runtime: &str, path: &str, has: Has<'_>, prepare: impl Fn(u32)) {
    let mut spec = Spec::new("c", ["sleep", "1000"]);
    spec.memory_limit = has.memory.is_ok().then_some(24 << 20);
    spec.cgroups_path = path.to_owned();
    let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
    let pid = shim.create("c").await.unwrap();
    prepare(pid);
    shim.start_process("c", "").await.unwrap();
    works(&shim).await;
    names(&shim, has.pids.err(), has.memory.err());
    if has.memory.is_ok() {
        shim.exec("c", "hungry", &["tail", "/dev/zero"])
            .await
            .unwrap();
        assert_eq!(shim.wait("c", "hungry").await.unwrap().exit_status, 137);
        let kill = |event: &Event| matches!(event, Event::OomKill(kill) if kill.kills == 1);
        shim.events_until(kill).await;
    }
    if has.pids.is_ok() {
        let bomb = "i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i+1)); done";
        shim.exec("c", "bomb", &["sh", "-c", bomb]).await.unwrap();
        let limit = |event: &Event| matches!(event, Event::PidsLimit(event) if event.limit == 20);
        shim.events_until(limit).await;
    }
    shim.remove("c").await;
    shim.end().await;
}

fn limit_pids(file: &Path) {
    fs::write(file.join("pids.max"), "20").unwrap();
}

/// Each of the two without the other, both, and none. On v1 a hierarchy need not be mounted. On v2 a cgroup has
/// the controllers that the one above it hands on.
#[test]
fn what_is_there_is_watched_and_what_is_missing_is_named() {
    let version = cgroup(std::process::id()).version();
    let Ok(has) = std::env::var(HAS) else {
        for has in ["pids memory", "pids", "memory", ""] {
            match version {
                Version::V1 => in_namespaces("-m", has, "true", &hidden(has)),
                Version::V2 => handed_on(has),
            }
        }
        if version == Version::V1 {
            // The hierarchies of v1 are in use, but not there.
            in_namespaces(
                "-m",
                BARE_V2,
                "true",
                &format!("umount -Rl {ROOT} && {MOUNT_V2}"),
            );
        }
        return;
    };
    let path = format!("/{}", unique("cotter-mixed"));
    let why = |name: &str| match version {
        Version::V1 => {
            format!("a cgroup of its own with the {name} controller: no hierarchy of it")
        }
        Version::V2 => format!("{ROOT}{path}/{name}.events"),
    };
    let [pids, memory] = ["pids", "memory"].map(why);
    let there = |name, why| match has.contains(name) {
        true => Ok(()),
        false => Err(why),
    };
    let runtimes = match version {
        // On v2 crun raises its limit of locked memory, which root may not do everywhere.
        Version::V2 if has == BARE_V2 => &["RUNC"][..],
        // runc takes seconds where v2 is.
        Version::V2 => &["CRUN"],
        Version::V1 => &RUNTIMES,
    };
    for runtime in runtimes {
        let has = Has {
            pids: there("pids", &*pids),
            memory: there("memory", &*memory),
        };
        let limited = has.pids.is_ok();
        run(lives(runtime, &path, has, |pid| {
            let cgroup = cgroup(pid);
            // Also of a hybrid, whose v2 then has none.
            assert_eq!(cgroup.version_of("pids"), version);
            assert_eq!(cgroup.version_of("memory"), version);
            if limited {
                limit_pids(cgroup.dir("pids").unwrap());
            }
        }));
    }
}

/// A hybrid whose v2 has the one and whose v1 has the other. That v2's controller is enabled is nobody's duty: no runtime
/// sets limits there, an administrator may. crun refuses to work on such a machine.
#[test]
#[ignore = "for a machine that was booted so: COTTER_VM_CGROUPS=mixed tests/vm/run"]
fn pids_on_v2_and_memory_on_v1() {
    let own = cgroup(std::process::id());
    assert_eq!(own.version(), Version::V1);
    assert_eq!(own.version_of("pids"), Version::V2);
    assert_eq!(own.version_of("memory"), Version::V1);
    let unified = Path::new(ROOT).join("unified");
    fs::write(unified.join("cgroup.subtree_control"), "+pids").unwrap();
    for enabled in [true, false] {
        let above = unique("cotter-mixed");
        let dir = unified.join(&above);
        fs::create_dir(&dir).unwrap();
        if enabled {
            fs::write(dir.join("cgroup.subtree_control"), "+pids").unwrap();
        }
        let file = dir.join("c/pids.events");
        let has = Has {
            pids: match enabled {
                true => Ok(()),
                false => Err(file.to_str().unwrap()),
            },
            memory: Ok(()),
        };
        run(lives("RUNC", &format!("/{above}/c"), has, |_| {
            if enabled {
                limit_pids(&dir.join("c"));
            }
        }));
        for hierarchy in fs::read_dir(ROOT).unwrap().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(&above));
        }
    }
}

/// Of v1: unmounts what is not to be there.
fn hidden(has: &str) -> String {
    let hide = |name: &&str| !has.contains(*name);
    let hide = ["pids", "memory"].into_iter().filter(hide);
    let unmount = hide.map(|name| format!("umount {ROOT}/{name}"));
    unmount
        .chain(["true".into()])
        .collect::<Vec<_>>()
        .join(" && ")
}

/// Of v2: with a cgroup for its root that has only what is to be there.
fn handed_on(has: &str) {
    let top = Path::new(ROOT).join(unique("cotter-part"));
    let leaf = top.join("root/leaf");
    fs::create_dir_all(&leaf).unwrap();
    for name in has.split_whitespace() {
        for dir in [top.parent().unwrap(), &top] {
            fs::write(dir.join("cgroup.subtree_control"), format!("+{name}")).unwrap();
        }
    }
    let root = top.join("root");
    // The namespace's root is where its first process is; that must not stay there if controllers are to be handed on.
    in_namespaces(
        "-mC",
        has,
        &format!("echo $$ >{}/cgroup.procs", root.display()),
        &format!(
            "echo $$ >{}/cgroup.procs && umount -l {ROOT} && {MOUNT_V2}",
            leaf.display()
        ),
    );
    for dir in [leaf, root, top] {
        eventually("the cgroup can go", || {
            fs::remove_dir(&dir).is_ok() || !dir.exists()
        });
    }
}

/// Runs the test once more in namespaces, with `before` done outside them and `first` in them.
fn in_namespaces(namespaces: &str, has: &str, before: &str, first: &str) {
    let script = format!(
        "{before} && exec unshare {namespaces} sh -c '{first} && exec \"$0\" \"$@\"' \"$@\""
    );
    let mut again = Command::new("sh");
    again.args(["-c", &script, "sh"]);
    again.arg(std::env::current_exe().unwrap()).env(HAS, has);
    let name = "mixed::what_is_there_is_watched_and_what_is_missing_is_named";
    again.args(["--exact", name, "--nocapture"]);
    let said = crate::common::run(&mut again).ok();
    assert!(said.contains("1 passed"), "{said}");
}
