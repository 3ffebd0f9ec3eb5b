//! The server: whom it answers, what it holds, how it bears trouble, and how it ends.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use cotter::proto::runc_options::Options;
use cotter::shim::socket::surely_lives;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Pid;

use crate::common::limit_descriptors;
use crate::harness::*;

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

/// By which the `delete` action knows at once that it lives.
#[test]
fn the_kernel_names_the_server_to_those_who_connect() {
    let manager = Manager::new("peer");
    let socket = manager.bundle("c1", None).start(Dialect::Proto);
    let server = manager.server();
    // The server may not have come to it yet.
    eventually("its own pid", || {
        let peer = getsockopt(&UnixStream::connect(&socket).unwrap(), PeerCredentials);
        peer.unwrap().pid() == server
    });
    eventually("it surely lives", || surely_lives(&socket));
    // A stopped one is alive, and one that is to be killed is not.
    kill(Pid::from_raw(server), Signal::SIGSTOP).unwrap();
    eventually("it surely lives", || surely_lives(&socket));
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    assert!(!surely_lives(&socket));
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
    let mut seen = Vec::new();
    for fd in entries(Path::new(&format!("{proc}/fd"))) {
        let target = fs::read_link(format!("{proc}/fd/{fd}"));
        let info = fs::read_to_string(format!("{proc}/fdinfo/{fd}"));
        // The connection of a moment ago may go away meanwhile.
        let (Ok(target), Ok(info)) = (target, info) else {
            continue;
        };
        let target = target.to_str().unwrap();
        let flags = info
            .lines()
            .find_map(|l| l.strip_prefix("flags:\t"))
            .unwrap();
        let inherited = i32::from_str_radix(flags, 8).unwrap() & libc::O_CLOEXEC == 0;
        match fd.as_str() {
            "0" | "1" => assert_eq!(target, "/dev/null"),
            "2" => assert_eq!(target, bundle.path.join("log").to_str().unwrap()),
            _ => {
                let known = ["socket:", "anon_inode:[event"];
                assert!(
                    known.iter().any(|k| target.starts_with(k)),
                    "{fd}: {target}"
                );
                assert!(!inherited, "{fd}: {target}");
            }
        }
        seen.push(fd);
    }
    assert!(
        ["0", "1", "2", "3"]
            .iter()
            .all(|fd| seen.iter().any(|s| s == fd)),
        "{seen:?}"
    );
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

    // Once there is room, the next line that is logged comes after the count.
    let mut text = String::new();
    let mut buffer = vec![0; 1 << 16];
    eventually("the count of dropped lines", || {
        while let Ok(n) = log.read(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        assert!(answers(&socket));
        text.contains(" log lines\" runtime=io.containerd.cotter.v2\n")
    });
    let lines = text.trim_start_matches('.').lines();
    for line in lines.filter(|line| !line.is_empty()) {
        let whole =
            line.starts_with("time=\"20") && line.ends_with(" runtime=io.containerd.cotter.v2");
        assert!(whole, "{line}");
    }
    assert!(text.contains("level=warning msg=\"dropped "), "{text}");
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
fn a_server_out_of_descriptors_waits_for_better_times() {
    let manager = Manager::new("emfile");
    let bundle = manager.bundle("c1", None);
    let mut log = bundle.log();
    let socket = bundle.start(Dialect::Proto);
    assert!(answers(&socket));
    let server = manager.server();
    let limit = |now: u64| limit_descriptors(server.cast_unsigned(), now);
    let mut text = String::new();
    let mut told = |what: &str| {
        eventually(what, || {
            let mut buffer = [0; 4096];
            let n = log.read(&mut buffer).unwrap_or(0);
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
            text.contains(what)
        });
    };
    limit(4);
    let waiting = std::thread::spawn({
        let socket = socket.clone();
        move || answers(&socket)
    });
    told("accept a connection: ");
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{server}/stat")).unwrap();
        let fields: Vec<&str> = stat.split(' ').collect();
        fields[13].parse::<u64>().unwrap() + fields[14].parse::<u64>().unwrap()
    };
    // The one wait for time: that something does not happen has no event.
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_millis(400));
    let spent = ticks() - before;
    assert!(spent < 10, "{spent} of 40 ticks");
    limit(1024);
    assert!(waiting.join().unwrap());
    kill(Pid::from_raw(server), Signal::SIGUSR1).unwrap();
    assert!(answers(&socket));
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
