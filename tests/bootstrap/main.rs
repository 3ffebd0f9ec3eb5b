//! The shim's process contract, on the real binary: start in every dialect, one server a group,
//! nothing left behind, a log that holds nobody up, and a clean end.

#![allow(clippy::unwrap_used)]

mod delete;
mod harness;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;

use cotter::proto::runc_options::Options;
use harness::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DIALECTS: [Dialect; 3] = [Dialect::Plain, Dialect::Json, Dialect::Proto];

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn each_dialect_is_answered_in_kind() {
    for dialect in DIALECTS {
        let manager = Manager::new(&format!("dialect-{dialect:?}"));
        let bundle = manager.bundle("c1", None);
        let socket = bundle.start(dialect);
        assert!(answers(&socket), "{dialect:?}");
        assert_eq!(mode(&socket), 0o600);

        let file = bundle.path.join("address");
        let link = bundle.path.join("s");
        if dialect == Dialect::Proto {
            assert_eq!(socket.parent().unwrap(), manager.sockets());
            assert_eq!(mode(&manager.sockets()), 0o700);
            assert_eq!(fs::read_link(link).unwrap(), manager.sockets());
            assert!(!file.exists());
        } else {
            assert_eq!(socket.parent().unwrap(), Path::new("/run/containerd/s"));
            let address = fs::read_to_string(&file).unwrap();
            assert_eq!(path_of(&address), socket);
            assert_eq!(mode(&file), 0o600);
            assert!(!link.exists());
        }

        let server = manager.server();
        let read = |name: &str| fs::read_to_string(format!("/proc/{server}/{name}")).unwrap();
        let expected = [
            "-namespace",
            &manager.namespace,
            "-id",
            "c1",
            "-address",
            &manager.grpc(),
            "",
        ];
        let args = read("cmdline");
        assert_eq!(args.split('\0').skip(1).collect::<Vec<_>>(), expected);
        let events = if dialect == Dialect::Proto {
            "/run/param.ttrpc"
        } else {
            "/run/nobody.ttrpc"
        };
        let variable = format!("TTRPC_ADDRESS={events}");
        assert!(read("environ").split('\0').any(|v| v == variable));
        let group = nix::unistd::getpgid(Some(Pid::from_raw(server))).unwrap();
        assert_eq!(group.as_raw(), server);
        let ours: i32 = fs::read_to_string("/proc/self/oom_score_adj")
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert_eq!(
            read("oom_score_adj").trim(),
            (ours + 1).clamp(-1000, 1000).to_string()
        );
        let cwd = fs::read_link(format!("/proc/{server}/cwd")).unwrap();
        assert_eq!(cwd, bundle.path);
    }
}

#[test]
fn other_users_are_refused() {
    let manager = Manager::new("users");
    let socket = manager.bundle("c1", None).start(Dialect::Proto);
    // Even where the file system would let them through.
    for (path, mode) in [
        (&manager.dir, 0o755),
        (&manager.sockets(), 0o755),
        (&socket, 0o666),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let refused = std::thread::spawn({
        let socket = socket.clone();
        move || {
            // SAFETY: takes numbers only. The bare system call, unlike libc's, changes this thread
            // alone, and the thread ends here.
            let done = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(done, 0);
            assert!(UnixStream::connect(&socket).is_ok());
            !answers(&socket)
        }
    });
    assert!(refused.join().unwrap());
    assert!(answers(&socket));
}

#[test]
fn a_live_server_of_the_group_is_found() {
    let manager = Manager::new("group");
    let sandbox = manager.bundle("pod", Some("pod"));
    let socket = sandbox.start(Dialect::Json);
    let server = manager.server();
    for dialect in [Dialect::Plain, Dialect::Json] {
        let container = manager.bundle(&format!("{dialect:?}"), Some("pod"));
        assert_eq!(container.start(dialect), socket);
        let address = fs::read_to_string(container.path.join("address")).unwrap();
        assert_eq!(path_of(&address), socket);
    }
    assert_eq!(manager.server(), server);

    let alone = manager.bundle("alone", None);
    assert_ne!(alone.start(Dialect::Json), socket);
    assert_eq!(manager.servers().len(), 2);
}

#[test]
fn a_dead_servers_socket_is_replaced() {
    let manager = Manager::new("stale");
    let bundle = manager.bundle("c1", None);
    let socket = bundle.start(Dialect::Proto);
    manager.end(Signal::SIGKILL);
    assert!(socket.exists());
    assert!(!answers(&socket));
    assert_eq!(bundle.start(Dialect::Proto), socket);
    assert!(answers(&socket));
}

#[test]
fn of_twenty_starts_at_once_one_wins() {
    let manager = Manager::new("race");
    let bundles: Vec<_> = (0..20)
        .map(|n| manager.bundle(&format!("c{n}"), Some("pod")))
        .collect();
    // With the socket of a dead server in the way, then on bare ground.
    for round in 0..6 {
        let barrier = Barrier::new(bundles.len());
        let sockets: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = bundles
                .iter()
                .map(|bundle| {
                    scope.spawn(|| {
                        barrier.wait();
                        bundle.start(Dialect::Proto)
                    })
                })
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect()
        });
        assert!(
            sockets.iter().all(|socket| *socket == sockets[0]),
            "{sockets:?}"
        );
        assert!(answers(&sockets[0]));
        manager.end(if round % 2 == 0 {
            Signal::SIGKILL
        } else {
            Signal::SIGTERM
        });
        assert_eq!(entries(&manager.sockets()).len(), 1 - round % 2);
    }
}

#[test]
fn a_failure_after_the_server_was_spawned_leaves_nothing() {
    for dialect in DIALECTS {
        let manager = Manager::new(&format!("failure-{dialect:?}"));
        let bundle = manager.bundle("c1", None);
        let before = (
            entries(&bundle.path),
            entries(Path::new("/run/containerd/s")),
        );
        let options = Options {
            shim_cgroup: "no/such/cgroup".into(),
            ..Options::default()
        };
        let output = bundle.start_with(dialect, &options);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stdout, b"");
        let begin = "io.containerd.cotter.v2: join cgroup no/such/cgroup: ";
        assert!(
            stderr.starts_with(begin) && !stderr.ends_with('\n'),
            "{stderr:?}"
        );
        assert!(manager.servers().is_empty());
        assert_eq!(entries(&bundle.path), before.0);
        assert!(entries(&manager.sockets()).is_empty());

        // The very last step: nobody takes the answer.
        let mut command = bundle.command("start");
        command.stdout(
            fs::OpenOptions::new()
                .write(true)
                .open("/dev/full")
                .unwrap(),
        );
        let output = run(command, &bundle.stdin(dialect, &Options::default()));
        assert_eq!(output.status.code(), Some(1));
        assert!(manager.servers().is_empty());
        assert_eq!(entries(&bundle.path), before.0);
        assert!(entries(&manager.sockets()).is_empty());
        let path = cotter::shim::socket::name(&manager.grpc(), &manager.namespace, "c1");
        assert!(!Path::new("/run/containerd/s").join(path).exists());
    }
}

#[test]
fn what_cannot_be_started_says_why_in_one_line() {
    let manager = Manager::new("refusals");
    let bundle = manager.bundle("c1", None);
    fs::remove_file(bundle.path.join("config.json")).unwrap();
    let refusal = |command: Command, stdin: &[u8]| {
        let output = run(command, stdin);
        assert_eq!((output.status.code(), output.stdout), (Some(1), Vec::new()));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.starts_with("io.containerd.cotter.v2: ") && stderr.lines().count() == 1,
            "{stderr:?}"
        );
        stderr
    };
    assert!(refusal(bundle.command("start"), b"").contains("config.json"));
    assert!(refusal(bundle.command("start"), b"\xff\xff").contains("standard input"));
    assert!(refusal(bundle.command("start"), &vec![0; (10 << 20) + 1]).contains("longer than"));
    assert!(refusal(bundle.command("bogus"), b"").contains("unknown action \"bogus\""));
    let mut nameless = Command::new(SHIM);
    nameless
        .arg("start")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    assert!(refusal(nameless, b"").contains("shim namespace cannot be empty"));
    assert!(entries(&bundle.path).iter().eq(["log"]));
}

#[test]
fn only_what_a_server_needs_reaches_it() {
    let manager = Manager::new("fds");
    let bundle = manager.bundle("c1", None);
    // As a careless manager would have it: open files on the numbers the shim uses, and beyond.
    let script = "exec 3>/dev/zero 4>/dev/zero 9>/dev/zero; exec \"$0\" \"$@\"";
    let start = bundle.command("start");
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", script, SHIM])
        .args(start.get_args())
        .current_dir(&bundle.path);
    shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = run(shell, &bundle.stdin(Dialect::Proto, &Options::default()));
    succeeded(&output);
    let socket = path_of(&address(Dialect::Proto, &output.stdout));
    assert!(answers(&socket));

    let proc = format!("/proc/{}", manager.server());
    for fd in entries(Path::new(&format!("{proc}/fd"))) {
        let target = fs::read_link(format!("{proc}/fd/{fd}")).unwrap();
        let target = target.to_str().unwrap();
        match fd.as_str() {
            "0" | "1" => assert_eq!(target, "/dev/null"),
            "2" => assert_eq!(target, bundle.path.join("log").to_str().unwrap()),
            _ => {
                let known = ["socket:", "anon_inode:[event"];
                assert!(
                    known.iter().any(|k| target.starts_with(k)),
                    "{fd}: {target}"
                );
                let info = fs::read_to_string(format!("{proc}/fdinfo/{fd}")).unwrap();
                let flags = info
                    .lines()
                    .find_map(|l| l.strip_prefix("flags:\t"))
                    .unwrap();
                let flags = i32::from_str_radix(flags, 8).unwrap();
                assert_ne!(flags & libc::O_CLOEXEC, 0, "{fd}: {target} is inherited");
            }
        }
    }
}

#[test]
fn a_full_log_holds_nobody_up_and_the_gap_is_told() {
    let manager = Manager::new("log");
    let bundle = manager.bundle("c1", None);
    let mut log = bundle.log();
    while log.write(&[b'.'; 4096]).is_ok() {}
    let mut command = bundle.command("start");
    command.env("RUST_LOG", "trace");
    let output = run(command, &bundle.stdin(Dialect::Proto, &Options::default()));
    succeeded(&output);
    let socket = path_of(&address(Dialect::Proto, &output.stdout));
    for _ in 0..50 {
        assert!(answers(&socket));
    }

    let mut text = String::new();
    let mut buffer = vec![0; 1 << 16];
    while log.read(&mut buffer).is_ok() {}
    assert!(answers(&socket));
    eventually("the count of dropped lines", || {
        let n = log.read(&mut buffer).unwrap_or(0);
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        text.contains(" log lines\" runtime=io.containerd.cotter.v2\n")
    });
    let first = text.lines().next().unwrap();
    assert!(
        first.starts_with("time=\"20") && first.contains("level=warning msg=\"dropped "),
        "{first}"
    );
}

#[test]
fn a_signal_ends_a_server_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let manager = Manager::new(signal.as_str());
        let bundle = manager.bundle("c1", None);
        let mut log = bundle.log();
        let socket = bundle.start(Dialect::Proto);
        assert!(answers(&socket));
        manager.end(signal);
        assert!(!socket.exists());
        let mut text = vec![0; 1 << 16];
        let n = log.read(&mut text).unwrap();
        let text = String::from_utf8_lossy(&text[..n]);
        assert!(
            text.contains("level=info msg=\"ending: by a signal\""),
            "{text}"
        );
    }
}

#[test]
fn a_server_by_hand_on_a_path() {
    let manager = Manager::new("path");
    let bundle = manager.bundle("c1", None);
    let socket = manager.dir.join("by-hand");
    let mut command = Command::new(SHIM);
    command
        .args(["-namespace", &manager.namespace, "-id", "c1", "-socket"])
        .arg(&socket);
    command.current_dir(&bundle.path);
    let mut child = command.spawn().unwrap();
    eventually("the server", || answers(&socket));
    assert_eq!(command.status().unwrap().code(), Some(1));
    assert!(answers(&socket));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn what_it_is() {
    let output = Command::new(SHIM).arg("-v").output().unwrap();
    succeeded(&output);
    let expected = format!(
        "containerd-shim-cotter-v2:\n  Version:  {}\n",
        env!("CARGO_PKG_VERSION")
    );
    assert!(output.stdout.starts_with(expected.as_bytes()));
}
