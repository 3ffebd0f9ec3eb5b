//! The shim's process contract, on the real binary: start in every dialect, one server a group,
//! nothing left behind, a log that holds nobody up, and a clean end.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod dead_disk;
mod delete;
mod delete_files;
#[path = "../common/disk.rs"]
mod disk;
mod harness;
mod info;
mod options;
mod panics;
mod serve;
mod trust;
mod unread;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;

use cotter::proto::runc_options::Options;
use harness::*;
use nix::sys::signal::Signal;
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
        // So that the bundle can be deleted while others of the group live.
        eventually("the server leaves the bundle", || {
            let cwd = fs::read_link(format!("/proc/{server}/cwd"));
            cwd.unwrap() == Path::new("/")
        });
    }
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
    eventually("two servers", || manager.servers().len() == 2);
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
    let unknown = refusal(bundle.command("-bogus"), b"");
    assert!(unknown.contains("flag provided but not defined: -bogus"));
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
fn its_version() {
    let output = Command::new(SHIM).arg("-v").output().unwrap();
    succeeded(&output);
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!("containerd-shim-cotter-v2:\n  Version:  {version}\n");
    assert!(output.stdout.starts_with(expected.as_bytes()));
}
