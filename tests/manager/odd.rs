//! What is odd around the tool: output that cannot be written, names that are no text, shims that do not answer.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cotter::manager::bundle::Bundle;
use cotter::manager::spec::Spec;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Home, peek};

/// Runs it with its output where there is never any room; exit status and standard error.
fn without_room(mut command: Command) -> (i32, String) {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let done = command.stdin(Stdio::null()).stdout(full).output().unwrap();
    let told = String::from_utf8(done.stderr).unwrap();
    (done.status.code().unwrap(), told)
}

#[tokio::test]
async fn output_that_cannot_be_written_is_told() {
    let home = Home::new("full");
    for line in ["help", "version", "ps", "run -- echo hi"] {
        let (status, told) = without_room(home.cotter(line));
        assert_eq!(status, 125, "{line}: {told}");
        assert!(told.contains("no space left on device"), "{line}: {told}");
        assert_eq!(told.lines().count(), 1, "{line}: {told}");
    }
    home.is_left_clean();
}

/// It runs, and nobody knows it by another name.
#[tokio::test]
async fn a_detached_container_is_named_where_its_id_cannot_be_written() {
    let home = Home::new("full-d");
    let (status, told) = without_room(home.cotter("run -d --id full -- sleep 1000"));
    assert_eq!(status, 125, "{told}");
    assert!(told.contains("container full runs"), "{told}");
    let (_, listed, _) = home.run("ps", &[], b"").await;
    assert!(
        listed.contains("full") && listed.contains("running"),
        "{listed}"
    );
    assert_eq!(home.run("rm -f full", &[], b"").await.0, 0);
    home.is_left_clean();
}

#[test]
fn whoever_reads_it_may_have_enough() {
    let home = Home::new("enough");
    let mut command = home.cotter("help");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let done = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(
        (done.status.code(), done.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

#[test]
fn arguments_that_are_no_text_are_named() {
    let home = Home::new("bytes-in");
    let odd = OsStr::from_bytes(b"a\xffb");
    for (line, number) in [("run --", 3), ("run --rootfs", 3), ("kill", 2), ("", 1)] {
        let mut command = Command::new(super::program::cotter());
        command
            .args(line.split_whitespace())
            .arg(odd)
            .env("COTTER_HOME", home.path());
        let done = command.output().unwrap();
        let told = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(125), "{told}");
        assert!(
            told.contains(&format!("argument {number}, ")) && told.contains("UTF-8"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn what_is_odd_hides_nobody_in_a_list() {
    let home = Home::new("odd-ps");
    assert_eq!(
        home.run("run -d --id odd -- sleep 1000", &[], b"").await.0,
        0
    );
    let all = home.path().join("c");
    let odd = [&b"\xff"[..], b"a b", b"..x"].map(|name| all.join(OsStr::from_bytes(name)));
    for path in &odd {
        fs::create_dir(path).unwrap();
    }
    let (status, listed, told) = home.run("ps", &[], b"").await;
    assert_eq!(
        (status, told.as_str(), listed.lines().count()),
        (0, "", 2),
        "{listed}"
    );
    assert!(
        listed.contains("odd") && listed.contains("running"),
        "{listed}"
    );
    for path in &odd {
        fs::remove_dir(path).unwrap();
    }
    assert_eq!(home.run("rm -f odd", &[], b"").await.0, 0);
    home.is_left_clean();
}

fn shim_of(home: &Home) -> Pid {
    let place = home.path().to_str().unwrap().to_owned();
    let all = peek::all().into_iter();
    let mut shims = all.filter(|seen| {
        let is_shim = seen
            .argv
            .first()
            .is_some_and(|name| name.contains("containerd-shim-"));
        is_shim && seen.argv.iter().any(|word| word.contains(&place))
    });
    Pid::from_raw(shims.next().unwrap().pid.cast_signed())
}

#[tokio::test]
async fn a_shim_that_does_not_answer_is_not_lost() {
    let home = Home::new("stopped");
    assert_eq!(
        home.run("run -d --id stopped -- sleep 1000", &[], b"")
            .await
            .0,
        0
    );
    let shim = shim_of(&home);
    kill(shim, Signal::SIGSTOP).unwrap();
    let (status, listed, _) = home.run("ps", &[], b"").await;
    kill(shim, Signal::SIGCONT).unwrap();
    assert_eq!(status, 0);
    assert!(
        listed.contains("no answer") && !listed.contains("lost"),
        "{listed}"
    );
    assert_eq!(home.run("rm -f stopped", &[], b"").await.0, 0);
    home.is_left_clean();
}

/// Its container may still be there: nothing is taken away from under it.
#[tokio::test]
async fn the_bundle_of_a_shim_that_does_not_end_is_kept() {
    let home = Home::new("kept");
    let runtime = home.path().join("runtime.sh");
    let write = |fails: bool| {
        let fail = if fails {
            "case \"$*\" in *' delete '*) exit 1;; esac"
        } else {
            ""
        };
        let new = home.path().join("new.sh");
        let mut shell = Command::new("/bin/sh");
        let text = format!("#!/bin/sh\n{fail}\nexec runc \"$@\"\n");
        shell
            .args(["-c", "printf %s \"$1\" >$0 && chmod 755 $0"])
            .arg(&new)
            .arg(text);
        assert!(shell.status().unwrap().success());
        fs::rename(new, &runtime).unwrap();
    };
    write(true);
    let line = format!("run --id kept --runtime {} -- true", runtime.display());
    let (status, _, told) = home.run(&line, &[], b"").await;
    assert_eq!(status, 125);
    assert!(told.contains("container kept is kept in "), "{told}");
    assert!(home.path().join("c/kept/config.json").exists());
    write(false);
    let (status, _, told) = home.run("rm -f kept", &[], b"").await;
    assert_eq!(status, 0, "{told}");
    home.is_left_clean();
}

/// The kernel escapes a space in its table.
#[tokio::test]
async fn a_mount_below_a_bundle_with_a_space_in_its_name() {
    let home = Home::new("spaces");
    let path = home.path().join("a bundle");
    let bundle = Bundle::create(&path, &Spec::new("c", ["true"]).to_json()).unwrap();
    let place = path.join("m");
    fs::create_dir(&place).unwrap();
    let none = None::<&Path>;
    mount(Some("none"), &place, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    drop(bundle);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let escaped = place.to_str().unwrap().replace(' ', "\\040");
    assert!(!table.contains(&escaped) && !path.exists());
}
