//! A dead disk, a network's say, under what an action needs: it is given up at its limit and the action
//! ends, which is what the manager waits for, even where not even a SIGKILL ends what waits for the disk.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use cotter::proto::types::RuntimeInfo;
use cotter::proto::{Any, pack, runc_options::Options, task::DeleteResponse};
use nix::mount::MntFlags;
use protobuf::Message;
use serde_json::json;

use crate::DIALECTS;
use crate::common::peek::{self, Seen};
use crate::disk::Disk;
use crate::harness::*;
use crate::options::generic;

/// The limit of what will not come; long enough for the disk to have been asked.
const SHORT: &str = "1s";

/// A disk that was alive.
fn dead(content: &[u8]) -> Disk {
    let disk = Disk::holding(content);
    disk.dies();
    disk
}

/// What an action said at its end; that it comes to it is the test. The limit is of what is on a dead disk.
fn ends(bundle: &Bundle, action: &str, stdin: Vec<u8>, limit: &str) -> Output {
    let mut command = bundle.command(action);
    command.env("COTTER_LIMIT_DISK", limit);
    command.env("COTTER_LIMIT_RUNTIME_CALL", limit);
    let held = std::thread::spawn(move || run(command, &stdin));
    eventually("the action ends", || held.is_finished());
    held.join().unwrap()
}

/// The processes of the action that are still there. They can be looked at only so far.
fn left(bundle: &Bundle, action: &str) -> Vec<PathBuf> {
    let mine = |seen: &Seen| {
        let has = |word: &str| seen.argv.iter().any(|arg| arg == word);
        has(&bundle.manager.namespace) && has(action)
    };
    let all = peek::all().into_iter().filter(mine);
    all.map(|seen| PathBuf::from(seen.pid.to_string()))
        .collect()
}

/// That what is `told` of is there, under a name of its own; then the disk is back.
fn there_until_it_is_back(disk: &Disk, bundle: &Bundle, action: &str, told: &str) {
    let there = left(bundle, action);
    let there: Vec<String> = there
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(there.len(), 1, "{there:?}");
    let name = fs::read_to_string(format!("/proc/{}/comm", there[0])).unwrap();
    assert_eq!(name, "cotter-apart\n");
    let process = format!("; process {} is left behind", there[0]);
    assert!(told.contains(&process), "{told}");
    disk.is_back();
}

#[test]
fn under_the_options() {
    for (action, dialect) in [
        ("start", DIALECTS[0]),
        ("start", DIALECTS[2]),
        ("-info", DIALECTS[0]),
    ] {
        for answered in [false, true] {
            let manager = Manager::new(&format!("dead-{action}-{dialect:?}-{answered}"));
            let bundle = manager.bundle("c1", None);
            let before = entries(&bundle.path);
            let disk = match answered {
                // A process can be killed while it waits for that.
                false => Disk::that_never_answered(),
                true => dead(b""),
            };
            let file = disk.path().join("options.toml");
            let any = generic(&file, "");
            let stdin = match action {
                "start" => bundle.stdin_any(dialect, any),
                _ => any.write_to_bytes().unwrap(),
            };
            let output = ends(&bundle, action, stdin, SHORT);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), output.stdout), (Some(1), vec![]));
            let told = format!("options: read {} hangs since 2", file.display());
            assert!(
                stderr.contains(&told) && stderr.lines().count() == 1,
                "{stderr}"
            );
            assert!(manager.servers().is_empty());
            assert_eq!(entries(&bundle.path), before);
            if answered {
                there_until_it_is_back(&disk, &bundle, action, &stderr);
            }
            eventually("it is gone", || left(&bundle, action).is_empty());
        }
    }
}

/// A runtime that leaves a file behind when it runs.
fn program(manager: &Manager) -> (Vec<u8>, PathBuf) {
    let ran = manager.dir.join("ran");
    let text = format!("#!/bin/sh\n: >{}\necho '{{}}'\n", ran.display());
    (text.into_bytes(), ran)
}

/// Nothing is known of it; and it is not run later, when nobody asks any more.
#[test]
fn under_the_runtime_that_is_asked_for_its_features() {
    let manager = Manager::new("dead-features");
    let bundle = manager.bundle("c1", None);
    let (program, ran) = program(&manager);
    let disk = Disk::holding(&program);
    let options = Options {
        binary_name: disk.path().join("runtime").to_str().unwrap().into(),
        ..Options::default()
    };
    let any: Any = pack(&options).unwrap();
    let ask = |limit: &str| {
        let output = ends(&bundle, "-info", any.write_to_bytes().unwrap(), limit);
        succeeded(&output);
        RuntimeInfo::parse_from_bytes(&output.stdout).unwrap()
    };
    assert!(ask("1m").features.is_some());
    fs::remove_file(&ran).unwrap();
    disk.dies();
    assert!(ask(SHORT).features.is_none());
    disk.is_back();
    eventually("it is gone", || left(&bundle, "-info").is_empty());
    assert!(!ran.exists());
}

#[test]
fn under_the_runtime_of_what_is_to_be_cleared_away() {
    let manager = Manager::new("dead-runtime");
    let bundle = manager.bundle("c1", None);
    let root = manager.dir.join("root");
    fs::create_dir_all(root.join(&manager.namespace).join("c1")).unwrap();
    let (program, ran) = program(&manager);
    let disk = dead(&program);
    let runtime = disk.path().join("runtime");
    let options = json!({ "root": root, "binary_name": runtime });
    fs::write(bundle.path.join("options.json"), options.to_string()).unwrap();
    let output = ends(&bundle, "delete", Vec::new(), SHORT);
    let stderr = cleared(&output);
    let told = format!("{} delete --force c1 hangs since 2", runtime.display());
    assert!(
        stderr.starts_with(&told) && stderr.lines().count() == 1,
        "{stderr}"
    );
    disk.is_back();
    eventually("it is gone", || left(&bundle, "delete").is_empty());
    assert!(!ran.exists());
}

/// The warnings of a `delete` that answered.
fn cleared(output: &Output) -> String {
    assert!(output.status.success());
    let answer = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(answer.exit_status, 137);
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The kernel waits for the disk's own word before it lets it go.
#[test]
fn under_the_root_file_system() {
    let manager = Manager::new("dead-rootfs");
    let bundle = manager.bundle("c1", None);
    let disk = Disk::on_a_device();
    let rootfs = bundle.path.join("rootfs");
    fs::create_dir(&rootfs).unwrap();
    let (bind, none) = (nix::mount::MsFlags::MS_BIND, None::<&str>);
    nix::mount::mount(Some(&disk.path()), &rootfs, none, bind, none).unwrap();
    // Then the container's is the last.
    nix::mount::umount2(&disk.path(), MntFlags::MNT_DETACH).unwrap();
    disk.dies();
    let output = ends(&bundle, "delete", Vec::new(), SHORT);
    let stderr = cleared(&output);
    let told = format!("unmount {} hangs since 2", rootfs.display());
    assert!(
        stderr.starts_with(&told) && stderr.lines().count() == 1,
        "{stderr}"
    );
    there_until_it_is_back(&disk, &bundle, "delete", &stderr);
    eventually("it is gone", || left(&bundle, "delete").is_empty());
    assert!(cotter::mount::nothing_mounted(&rootfs));
}
