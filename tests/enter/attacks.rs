//! What a container can prepare for whoever joins it: programs, files below `/proc`, cgroups, limits.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::common::run as run_command;
use crate::common::shim::{SHIM, run, until};
use crate::held::{Attacker, KNOWN};
use crate::ran::{By, Ran, compare};
use crate::world::{Making, Streams, UNKNOWN, World, process};

/// The program that enters containers, as the shim has it: its file, and what is in it.
fn stub(world: &World) -> (fs::File, Vec<u8>) {
    let fds = fs::read_dir(format!("/proc/{}/fd", world.shim.pid())).unwrap();
    let is = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("memfd:cotter-stub"))
    };
    let path = fds
        .map(|fd| fd.unwrap().path())
        .find(is)
        .expect("the shim has it");
    (fs::File::open(&path).unwrap(), fs::read(path).unwrap())
}

fn hash(path: &Path) -> Vec<u8> {
    Sha256::digest(fs::read(path).unwrap()).to_vec()
}

/// A script whose interpreter is whoever runs it (CVE-2019-5736) gets the container a process of the stub's program,
/// here one that waits (its argument is the number of `pause`). What can be done to that program from inside is
/// nothing, while it runs and afterwards.
///
/// Seen failing without seals: it was overwritten, and could no longer be run.
#[test]
fn the_program_cannot_be_overwritten() {
    for runtime in KNOWN {
        run(async {
            let world = World::new(runtime, Making::PLAIN).await;
            let trap = world.root.path().join("bin/trap");
            crate::common::write_program(&trap, format!("#!/proc/self/exe {}\n", libc::SYS_pause));
            let before = world.table().await;
            let attacker = Attacker::new(&world, &["overwrite"]).await;
            let pid = world.start("x", &process(&["/bin/trap"])).await.unwrap();
            let direct = (By::Shim, 1);
            assert!(world.since(&before).await.contains(&direct), "{runtime}");
            let waits = || {
                fs::read_to_string(format!("/proc/{pid}/wchan"))
                    .is_ok_and(|at| at.contains("pause"))
            };
            until("it waits", waits).await;
            let host: Vec<PathBuf> = [SHIM, &world.shim.options.binary_name]
                .map(PathBuf::from)
                .into();
            let hashes: Vec<_> = host.iter().map(|path| hash(path)).collect();
            let (file, program) = stub(&world);

            let seen: BTreeMap<_, _> = attacker.attacks(&world).await.into_iter().collect();
            println!("{runtime}: {seen:?}");
            assert_eq!(world.finish("x").await, 137);
            assert!(seen["program"].contains("memfd:cotter-stub"), "{seen:?}");
            // It has a new owner, and nobody asks for that.
            let done: Vec<_> = seen
                .iter()
                .filter(|(_, answer)| *answer == "DONE")
                .collect();
            assert!(
                done.iter().all(|(what, _)| *what == "give away"),
                "{done:?}"
            );
            assert!(seen.contains_key("shorten by name"), "{seen:?}");
            assert!(stub(&world).1 == program, "{runtime}");
            // SAFETY: a number.
            let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
            let all =
                libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
            assert_eq!(seals & all, all, "{runtime}");
            assert_eq!(
                host.iter().map(|path| hash(path)).collect::<Vec<_>>(),
                hashes
            );
            let (ran, by) = world.exec(&process(&["true"]), Streams::None).await;
            assert!(
                matches!(ran, Ran::Done { status: 0, .. }) && by == By::Shim,
                "{ran:?} {by:?}"
            );
            world.end().await;
        });
    }
}

/// What is open while a container is joined is no way out of it (CVE-2024-21626): neither as a program nor as a
/// directory, whatever its number.
///
/// Seen failing with what the stub was given left open until later and without the look at what the kernel calls the
/// directory (a cgroup of the machine); either of the two is enough.
#[test]
fn descriptors_lead_nowhere() {
    let mut all = Vec::new();
    for runtime in KNOWN {
        run(async {
            let world = World::new(runtime, Making::PLAIN).await;
            let before = world.table().await;
            let mut count = 0;
            for number in 0..24 {
                let odd = number % 8 == 3;
                for (what, path) in [
                    ("cwd", format!("/odd/self/fd/{number}")),
                    ("args", format!("/odd/self/fd/{number}")),
                    ("cwd", format!("/proc/self/fd/{number}")),
                    ("args", format!("/proc/self/fd/{number}")),
                    ("cwd", format!("/odd/self/fd/{number}/../..")),
                ] {
                    if path.len() > "/odd/self/fd/00".len() && !odd {
                        continue;
                    }
                    let mut spec = process(&["/bin/probe"]);
                    spec[what] = if what == "args" {
                        json!([path])
                    } else {
                        json!(path)
                    };
                    let (own, by) = world.exec(&spec, Streams::Outputs).await;
                    if by == By::Shim {
                        all.push(format!("{runtime} {what} {path}: {own:?}"));
                    }
                    // Failures in a row would end it.
                    world.exec(&process(&["true"]), Streams::None).await;
                    count += 1;
                    if odd {
                        spec[UNKNOWN] = json!(1);
                        let (of_runtime, _) = world.exec(&spec, Streams::Outputs).await;
                        let lines = compare(&own, &of_runtime);
                        let line = |line| format!("{runtime} {what} {path}: {line}");
                        all.extend(lines.into_iter().map(line));
                    }
                }
            }
            let new = world.since(&before).await;
            if !new.contains(&(By::Shim, count)) {
                all.push(format!("{runtime}: {new:?}, not {count}"));
            }
            world.end().await;
        });
    }
    assert!(all.is_empty(), "{all:#?}");
}

/// A shell of the machine's root in a container's mounts.
fn in_mounts(pid: u32, script: &str) {
    let mut enter = Command::new("nsenter");
    enter.args(["-t", &pid.to_string(), "-m", "/bin/sh", "-ec", script]);
    run_command(&mut enter).ok();
}

/// Whatever a container has put in the place of `/proc`, nobody reads or writes it on the way in (CVE-2019-16884
/// and what followed): here each file is a FIFO at which whoever opens it would wait. Seen failing with one opened.
#[test]
fn nothing_below_proc_is_touched() {
    for runtime in KNOWN {
        run(async {
            let making = Making {
                config: |config| config["process"]["oomScoreAdj"] = json!(500),
                ..Making::PLAIN
            };
            let world = World::new(runtime, making).await;
            let init = world.shim.state("c", "").await.unwrap().pid;
            in_mounts(
                init,
                "mount -t tmpfs none /proc; for dir in self thread-self 1 self/task/1; do mkdir -p /proc/$dir/attr \
                 /proc/$dir/fd; for file in oom_score_adj attr/exec attr/current attr/keycreate setgroups uid_map \
                 gid_map loginuid timerslack_ns status stat mountinfo cgroup comm; do mkfifo /proc/$dir/$file; done; \
                 done; mkdir -p /proc/sys/kernel; mkfifo /proc/sys/kernel/cap_last_cap /proc/filesystems",
            );
            let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
            let proc = PathBuf::from(format!("/proc/{init}/root/proc"));
            for dir in [
                "",
                "self",
                "self/attr",
                "self/fd",
                "thread-self",
                "thread-self/attr",
                "1",
                "1/attr",
                "sys/kernel",
            ] {
                watch
                    .add_watch(&proc.join(dir), AddWatchFlags::IN_ALL_EVENTS)
                    .unwrap();
            }
            let before = world.table().await;
            for n in 0..3 {
                let mut spec = process(&["sleep", "100000"]);
                spec["user"] = json!({"uid": n * 500, "gid": 7});
                spec["noNewPrivileges"] = json!(n == 1);
                let pid = world.start("x", &spec).await.unwrap();
                let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
                assert_eq!(
                    score.trim() == "500",
                    world.kind.unwrap().is_runc(),
                    "{runtime}: {score}"
                );
                world.shim.kill("c", "x", 9).await.unwrap();
                world.finish("x").await;
            }
            assert_eq!(world.since(&before).await, [(By::Shim, 3)], "{runtime}");
            let seen = watch.read_events();
            assert_eq!(seen.unwrap_err(), nix::errno::Errno::EAGAIN, "{runtime}");
            // It would have been.
            let mut open = fs::File::options();
            open.read(true)
                .write(true)
                .open(proc.join("self/attr/exec"))
                .unwrap();
            assert!(!watch.read_events().unwrap().is_empty());
            world.end().await;
        });
    }
}

/// Where a controller has a container's cgroup, or what the container has made of it.
fn group(world: &World, controller: &str) -> PathBuf {
    let namespace = &world.shim.namespace;
    Path::new("/sys/fs/cgroup")
        .join(controller)
        .join(namespace)
        .join("c")
}

/// Who is no longer where its runtime has put it is the runtime's to find. Seen failing without that look: done by the
/// shim.
#[test]
fn a_container_that_has_left_its_cgroup() {
    for runtime in KNOWN {
        run(async {
            let world = World::new(runtime, Making::PLAIN).await;
            let init = world.shim.state("c", "").await.unwrap().pid.to_string();
            let moved = By::Runtime(
                "the container is not in the cgroups in which its runtime put it".into(),
            );
            let spec = process(&["probe"]);
            for controller in ["pids", "freezer", "memory", "unified"] {
                let own = group(&world, controller);
                for other in [own.join("below"), own.parent().unwrap().join("beside")] {
                    let (_, by) = world.exec(&spec, Streams::Outputs).await;
                    assert_eq!(by, By::Shim, "{runtime} {controller}");
                    fs::create_dir(&other).unwrap();
                    fs::write(other.join("cgroup.procs"), &init).unwrap();
                    let (ran, by) = world.exec(&spec, Streams::Outputs).await;
                    assert_eq!(by, moved, "{runtime} {controller} {}", other.display());
                    assert!(
                        matches!(ran, Ran::Done { status: 0, .. }),
                        "{runtime} {controller}: {ran:?}"
                    );
                    fs::write(own.join("cgroup.procs"), &init).unwrap();
                    fs::remove_dir(other).unwrap();
                }
            }
            world.end().await;
        });
    }
}

/// With no room for a further process an exec that makes none has room, and nobody is told that a fork was refused.
#[test]
fn no_room_for_a_process() {
    for runtime in KNOWN {
        run(async {
            let making = Making {
                config: |config| config["linux"]["resources"]["pids"] = json!({"limit": 100}),
                ..Making::PLAIN
            };
            let world = World::new(runtime, making).await;
            let pids = group(&world, "pids");
            fs::write(pids.join("pids.max"), "1").unwrap();
            let (ran, by) = world.exec(&process(&["true"]), Streams::None).await;
            assert!(
                matches!(ran, Ran::Done { status: 0, .. }) && by == By::Shim,
                "{runtime}: {ran:?} {by:?}"
            );
            let events = fs::read_to_string(pids.join("pids.events")).unwrap();
            assert_eq!(events, "max 0\n", "{runtime}");
            // What it makes itself is refused and told, as ever.
            let forks = process(&["sh", "-c", "true & wait"]);
            let (_, by) = world.exec(&forks, Streams::None).await;
            assert_eq!(by, By::Shim, "{runtime}");
            let events = fs::read_to_string(pids.join("pids.events")).unwrap();
            assert_ne!(events, "max 0\n", "{runtime}");
            fs::write(pids.join("pids.max"), "100").unwrap();
            world.end().await;
        });
    }
}
