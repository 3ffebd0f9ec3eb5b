//! The `delete` action, from nothing to do to a whole container left behind.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use cotter::container::exit_file;
use cotter::events::{Event, journal};
use cotter::monitor::Exit;
use cotter::proto::events::TaskStart;
use cotter::proto::task::DeleteResponse;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use protobuf::Message;
use serde_json::json;

use crate::common::write_program;
use crate::harness::*;

/// Runs the action and returns the pid in its answer and what it warned of.
fn delete(bundle: &Bundle) -> (u32, String) {
    let begin = (Instant::now(), SystemTime::now());
    let output = run(bundle.command("delete"), b"");
    assert!(begin.0.elapsed() < Duration::from_secs(5));
    assert!(output.status.success());
    let answer = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(answer.exit_status, 137);
    let at: SystemTime = answer.exited_at.unwrap().into();
    assert!(at >= begin.1 && at <= SystemTime::now());
    (answer.pid, String::from_utf8(output.stderr).unwrap())
}

const NOTHING: (u32, String) = (0, String::new());

#[test]
fn with_nothing_there() {
    let manager = Manager::new("delete-nothing");
    let bundle = manager.bundle("c1", None);
    assert_eq!(delete(&bundle), NOTHING);
    for file in ["config.json", "log"] {
        fs::remove_file(bundle.path.join(file)).unwrap();
    }
    assert_eq!(delete(&bundle), NOTHING);

    // Asked from another bundle for one that is gone, named or not.
    let gone = Bundle {
        manager: &manager,
        id: "gone".into(),
        path: bundle.path.clone(),
    };
    assert_eq!(delete(&gone), NOTHING);
    let mut named = bundle.command("-bundle");
    named.args(["/nonexistent", "delete"]);
    assert!(run(named, b"").status.success());
}

/// All that the action looks into.
pub const FILES: [&str; 9] = [
    "options.json",
    "runtime",
    "init.pid",
    "address",
    "bootstrap.json",
    "config.json",
    "log.json",
    exit_file::NAME,
    journal::NAME,
];

#[test]
fn with_everything_malformed() {
    let manager = Manager::new("delete-malformed");
    let bundle = manager.bundle("c1", None);
    let contents: [&[u8]; 8] = [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe\0",
        b"-1",
        b"unix://../x",
        br#"{"root":7,"address":[]}"#,
        b"0",
    ];
    for content in contents {
        for file in FILES {
            fs::write(bundle.path.join(file), content).unwrap();
        }
        assert_eq!(
            delete(&bundle),
            NOTHING,
            "{}",
            String::from_utf8_lossy(content)
        );
    }
    for file in FILES {
        fs::remove_file(bundle.path.join(file)).unwrap();
        fs::create_dir(bundle.path.join(file)).unwrap();
    }
    symlink("/nonexistent", bundle.path.join("s")).unwrap();
    fs::write(bundle.path.join("rootfs"), "a file").unwrap();
    assert_eq!(delete(&bundle), NOTHING);
}

/// What the shim that reaped the init wrote down is told, of this init and of no other.
#[test]
fn how_it_ended_is_told_if_it_is_known() {
    let manager = Manager::new("delete-exit");
    let bundle = manager.bundle("c1", None);
    let exit = Exit {
        pid: 77,
        status: 3,
        at: SystemTime::UNIX_EPOCH + Duration::new(1_790_000_000, 5),
    };
    exit_file::write(&bundle.path, exit).unwrap();
    // Without a pid file nothing contradicts it.
    for pid in [None, Some("77")] {
        if let Some(pid) = pid {
            fs::write(bundle.path.join("init.pid"), pid).unwrap();
        }
        let output = run(bundle.command("delete"), b"");
        let answer = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((answer.pid, answer.exit_status), (77, 3));
        let at: SystemTime = answer.exited_at.unwrap().into();
        assert_eq!(at, exit.at);
    }
    // Of a container that was in this bundle before.
    fs::write(bundle.path.join("init.pid"), "4194304").unwrap();
    assert_eq!(delete(&bundle), (4_194_304, String::new()));
}

#[test]
fn a_dead_servers_socket_goes_and_a_live_ones_stays() {
    for dialect in [Dialect::Json, Dialect::Proto] {
        let manager = Manager::new(&format!("delete-socket-{dialect:?}"));
        let bundle = manager.bundle("pod", Some("pod"));
        let socket = bundle.start(dialect);
        assert_eq!(delete(&bundle), NOTHING);
        assert!(answers(&socket));
        manager.end(Signal::SIGKILL);
        assert!(socket.exists());
        assert_eq!(delete(&bundle), NOTHING);
        assert!(!socket.exists());
    }
}

#[test]
fn a_pid_that_is_somebody_elses_is_told_but_not_killed() {
    let manager = Manager::new("delete-pid");
    let bundle = manager.bundle("c1", None);
    let mut stranger = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    fs::write(bundle.path.join("init.pid"), stranger.id().to_string()).unwrap();
    let config = json!({ "linux": { "cgroupsPath": "/cotter/c1" } });
    fs::write(bundle.path.join("config.json"), config.to_string()).unwrap();
    assert_eq!(delete(&bundle), (stranger.id(), String::new()));
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_runtime_that_hangs_or_fails_is_warned_of_in_time() {
    let manager = Manager::new("delete-runtime");
    let bundle = manager.bundle("c1", None);
    let root = manager.dir.join("root");
    fs::create_dir_all(root.join(&manager.namespace).join("c1")).unwrap();
    let runtime = bundle.path.join("fake");
    fs::write(bundle.path.join("runtime"), runtime.to_str().unwrap()).unwrap();
    let compare = r#"[ "$*" = "$EXPECTED" ]"#;
    for (script, systemd, warning) in [
        ("exec sleep 60", json!(false), "deadline exceeded\n"),
        (
            "sleep 60 & echo broken >&2; exit 1",
            json!(true),
            "exit status: 1: broken\n",
        ),
        ("echo container does not exist >&2; exit 1", json!(null), ""),
        // Its cgroup was busy.
        (
            "[ -e $0.once ] || { touch $0.once; echo busy >&2; exit 1; }",
            json!(false),
            "",
        ),
        (compare, json!(false), ""),
        (compare, json!(true), ""),
        (compare, json!("true"), ""),
    ] {
        write_script(&runtime, script);
        let options = json!({ "root": root, "unknown_key": 1, "systemd_cgroup": systemd });
        fs::write(bundle.path.join("options.json"), options.to_string()).unwrap();
        let mut command = bundle.command("delete");
        let log = bundle.path.join("log.json");
        let expected = format!(
            "--root {}/{} --log {} --log-format json{} delete --force c1",
            root.display(),
            manager.namespace,
            log.display(),
            if systemd == json!(true) {
                " --systemd-cgroup"
            } else {
                ""
            }
        );
        command.env("EXPECTED", expected);
        let begin = Instant::now();
        let output = run(command, b"");
        assert!(begin.elapsed() < Duration::from_secs(5), "{script}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.success() && stderr.ends_with(warning),
            "{script}: {stderr}"
        );
        assert_eq!(stderr.is_empty(), warning.is_empty(), "{script}: {stderr}");
    }
    fs::remove_file(&runtime).unwrap();
    assert!(delete(&bundle).1.contains("no such file"));
}

/// The runtime hangs, the root file system is in use, the manager takes no event: each is given up and
/// told of, and the answer comes.
#[test]
fn everything_at_once_is_given_up() {
    let manager = Manager::new("delete-all");
    let bundle = manager.bundle("c1", None);
    let root = manager.dir.join("root");
    fs::create_dir_all(root.join(&manager.namespace).join("c1")).unwrap();
    let fake = bundle.path.join("fake");
    write_script(&fake, "exec sleep 60");
    let options = json!({ "root": root, "binary_name": fake });
    fs::write(bundle.path.join("options.json"), options.to_string()).unwrap();

    let rootfs = bundle.path.join("rootfs");
    fs::create_dir(&rootfs).unwrap();
    let (kind, flags) = (Some("tmpfs"), MsFlags::empty());
    mount(Some("cotter-test"), &rootfs, kind, flags, None::<&str>).unwrap();
    let used = fs::File::create(rootfs.join("used")).unwrap();

    let deaf = manager.dir.join("events.sock");
    let listener = UnixListener::bind(&deaf).unwrap();
    // One event for a manager that leaves it unanswered.
    let events = cotter::events::Queue::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let namespace = manager.namespace.clone();
        let keeper =
            cotter::events::Keeper::start(events.clone(), namespace, Duration::from_secs(5));
        keeper.add("c1", &bundle.path);
        let (address, name) = (deaf.display().to_string(), manager.namespace.clone());
        let _publisher = cotter::events::Publisher::start(events.clone(), address, name);
        events.push(Event::Start(TaskStart {
            container_id: "c1".into(),
            pid: 77,
            ..TaskStart::default()
        }));
        let kept = || !journal::read(&bundle.path).unwrap().is_empty();
        while !kept() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });

    let mut command = bundle.command("delete");
    command.env("TTRPC_ADDRESS", &deaf);
    let output = run(command, b"");
    assert!(output.status.success());
    let answer = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(answer.exit_status, 137);
    let said = String::from_utf8(output.stderr).unwrap();
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said.len(), 3, "{said:#?}");
    let hangs = format!("{} delete --force c1 hangs since 2", fake.display());
    assert!(said[0].starts_with(&hangs), "{said:#?}");
    let unmount = format!("unmount {}: device or resource busy", rootfs.display());
    assert_eq!(said[1], unmount);
    assert!(said[2].contains("1 events not taken by"), "{said:#?}");
    drop((used, listener));
    // A child that another test is just starting has a copy of the open file, until it is a program.
    eventually("it can be unmounted", || {
        nix::mount::umount(&rootfs).is_ok()
    });
}

/// A shell script.
pub fn write_script(path: &Path, script: &str) {
    write_program(path, format!("#!/bin/sh\n{script}\n"));
}

/// Runs a container in a bundle as a shim would that then died; returns its init.
fn abandon(bundle: &Bundle, runtime: &str, cgroup: &str) -> i32 {
    let lower = bundle.manager.dir.join("lower");
    let rootfs = bundle.path.join("rootfs");
    for dir in ["proc", "dev"] {
        fs::create_dir_all(lower.join(dir)).unwrap();
    }
    fs::copy("/usr/bin/busybox", lower.join("busybox")).unwrap();
    fs::create_dir(&rootfs).unwrap();
    mount(
        Some(&lower),
        &rootfs,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    let config = json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs" },
        "process": {
            "cwd": "/",
            "args": ["/busybox", "sh", "-c", "/busybox sleep 600 & /busybox sleep 600"],
            "user": { "uid": 0, "gid": 0 },
        },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        // No pid namespace: the kernel does not end the others with init.
        "linux": { "cgroupsPath": cgroup, "namespaces": [{ "type": "mount" }] },
    });
    fs::write(bundle.path.join("config.json"), config.to_string()).unwrap();
    let root = bundle.manager.dir.join("root");
    let options = json!({ "root": root, "binary_name": runtime });
    fs::write(bundle.path.join("options.json"), options.to_string()).unwrap();
    let state = root.join(&bundle.manager.namespace);
    fs::create_dir_all(&state).unwrap();
    let pid_file = bundle.path.join("init.pid");
    let mut run = Command::new(runtime);
    run.arg("--root")
        .arg(&state)
        .args(["run", "--detach", "--pid-file"])
        .arg(&pid_file);
    run.arg("--bundle").arg(&bundle.path).arg(&bundle.id);
    // Not a pipe: the container would keep it open. A failure shows in the test's own output.
    run.stdin(Stdio::null()).stdout(Stdio::null());
    assert!(run.status().unwrap().success(), "{runtime}");
    fs::read_to_string(pid_file).unwrap().parse().unwrap()
}

/// The processes in a cgroup of that path, in any hierarchy; zombies are still there.
fn members(cgroup: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let texts = entries.filter_map(|e| fs::read_to_string(e.path().join("cgroup")).ok());
    texts
        .filter(|text| text.lines().any(|line| line.ends_with(cgroup)))
        .count()
}

#[test]
fn a_container_left_running_is_cleared_away() {
    for (runtime, forgotten) in [
        ("runc", false),
        ("crun", false),
        ("runc", true),
        ("crun", true),
    ] {
        let manager = Manager::new(&format!("delete-{runtime}-{forgotten}"));
        let bundle = manager.bundle("c1", None);
        let cgroup = format!("/{}", manager.namespace);
        let init = abandon(&bundle, runtime, &cgroup);
        eventually("both processes", || members(&cgroup) == 2);
        let state = manager.dir.join("root").join(&manager.namespace).join("c1");
        if forgotten {
            fs::remove_dir_all(&state).unwrap();
        }
        assert_eq!(
            delete(&bundle),
            (init.cast_unsigned(), String::new()),
            "{runtime}"
        );
        eventually("all processes to be gone", || members(&cgroup) == 0);
        assert!(!state.exists());
        assert!(
            entries(&bundle.path.join("rootfs")).is_empty(),
            "still mounted"
        );
        // A runtime that has forgotten the container leaves the empty cgroups.
        for hierarchy in entries(Path::new("/sys/fs/cgroup")) {
            let _ = fs::remove_dir(format!("/sys/fs/cgroup/{hierarchy}{cgroup}"));
        }
    }
}

/// What is left is killed wherever below the container's cgroup it is, also where no path is short enough to
/// lead, and nobody beside it.
#[test]
fn what_is_left_in_the_deepest_cgroup_is_killed() {
    let manager = Manager::new("delete-deep");
    let bundle = manager.bundle("c1", None);
    let pids = Path::new("/sys/fs/cgroup/pids");
    let all = if pids.exists() {
        pids
    } else {
        Path::new("/sys/fs/cgroup")
    };
    let parent = all.join(&manager.namespace);
    let (own, beside) = (parent.join("c1"), parent.join("n"));
    fs::create_dir_all(&own).unwrap();
    fs::create_dir(&beside).unwrap();
    let long = "x".repeat(190);
    let mut tree: Vec<OwnedFd> = vec![fs::File::open(&own).unwrap().into()];
    for _ in 0..25 {
        let last: &OwnedFd = tree.last().unwrap();
        mkdirat(last, long.as_str(), Mode::S_IRWXU).unwrap();
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        tree.push(openat(last, long.as_str(), flags, Mode::empty()).unwrap());
    }
    let idle = |dir: &OwnedFd| {
        let idle = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let procs = openat(dir, "cgroup.procs", flags, Mode::empty()).unwrap();
        nix::unistd::write(&procs, idle.id().to_string().as_bytes()).unwrap();
        idle
    };
    let mut init = idle(&tree[0]);
    let mut deep = idle(tree.last().unwrap());
    let mut neighbour = idle(&fs::File::open(&beside).unwrap().into());
    fs::write(bundle.path.join("init.pid"), init.id().to_string()).unwrap();
    let path = format!("/{}/c1", manager.namespace);
    let config = json!({ "linux": { "cgroupsPath": path } });
    fs::write(bundle.path.join("config.json"), config.to_string()).unwrap();

    let told = delete(&bundle);
    // Only what was killed has ended by now, or will.
    let lives = neighbour.try_wait().unwrap().is_none();
    let killed = [&mut init, &mut deep].map(|child| {
        let ended = (0..1_000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            child.try_wait().unwrap().is_some()
        });
        let _ = child.kill();
        child.wait().unwrap();
        ended
    });
    neighbour.kill().unwrap();
    neighbour.wait().unwrap();
    while tree.pop().is_some() {
        if let Some(parent) = tree.last() {
            eventually("the cgroup can go", || {
                unlinkat(parent, long.as_str(), UnlinkatFlags::RemoveDir).is_ok()
            });
        }
    }
    for dir in [own, beside, parent] {
        eventually("the cgroup can go", || fs::remove_dir(&dir).is_ok());
    }
    assert_eq!(told, (init.id(), String::new()));
    assert_eq!((killed, lives), ([true, true], true));
}
