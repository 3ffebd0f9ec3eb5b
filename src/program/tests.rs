use std::io::{PipeReader, Read};
use std::os::fd::AsRawFd;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::*;

/// Starts it and waits for its end; what it printed, and its status.
fn run(mut program: Program) -> io::Result<(String, i32)> {
    let (out, write) = io::pipe().unwrap();
    program.stdout(write);
    let pid = program.start()?;
    drop(program);
    Ok((read(out), status(pid)))
}

fn read(mut pipe: PipeReader) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).unwrap();
    text
}

fn status(pid: libc::pid_t) -> i32 {
    match waitpid(Pid::from_raw(pid), None).unwrap() {
        WaitStatus::Exited(_, status) => status,
        other => panic!("{other:?}"),
    }
}

fn sh(script: &str) -> Program {
    let mut program = Program::new("/bin/sh");
    program.args(["-c", script]);
    program
}

#[test]
fn it_has_what_it_is_given() {
    let (mut from, given) = io::pipe().unwrap();
    let mut program =
        sh("echo $0 $V $PWD; readlink /proc/self/fd/0 /proc/self/fd/3; echo there >&4");
    program
        .called("someone")
        .arg("zero")
        .env_clear()
        .env("V", "first")
        .env("V", "value")
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/usr")
        .descriptor(4, given);
    let (out, ended) = run(program).unwrap();
    let mut lines = out.lines();
    assert!(
        lines.next().unwrap().starts_with("zero value /usr"),
        "{out}"
    );
    assert!(lines.eq(["/dev/null", "/dev/null"]), "{out}");
    assert_eq!(ended, 0);
    let mut said = String::new();
    from.read_to_string(&mut said).unwrap();
    assert_eq!(said, "there\n");
}

/// What is to have a low number may itself have one that is wanted for another.
#[test]
fn descriptors_do_not_overwrite_each_other() {
    let (mut first, one) = io::pipe().unwrap();
    let (mut second, two) = io::pipe().unwrap();
    let (low, high) = match one.as_raw_fd() < two.as_raw_fd() {
        true => (one, two),
        false => (two, one),
    };
    let (low, high) = (OwnedFd::from(low), OwnedFd::from(high));
    let (of_low, of_high) = (low.as_raw_fd(), high.as_raw_fd());
    let mut program = sh(&format!("echo high >&{of_low}; echo low >&{of_high}"));
    program.descriptor(of_low as usize, high);
    program.descriptor(of_high as usize, low);
    run(program).unwrap();
    let mut said = [String::new(), String::new()];
    first.read_to_string(&mut said[0]).unwrap();
    second.read_to_string(&mut said[1]).unwrap();
    said.sort();
    assert_eq!(said, ["high\n", "low\n"]);
}

#[test]
fn it_leads_a_group_if_it_is_to() {
    for (leads, expected) in [(true, "yes"), (false, "no")] {
        let mut program =
            sh("set -- $(cat /proc/$$/stat); test $5 = $$ && printf yes || printf no");
        if leads {
            program.leads_group();
        }
        assert_eq!(run(program).unwrap(), (expected.to_owned(), 0));
    }
}

/// Also those that glibc keeps for itself, and whatever this process blocks or ignores.
#[test]
fn no_signal_is_ignored_blocked_or_caught() {
    let out = std::thread::spawn(|| {
        own::hear_and_outlive();
        nix::sys::signal::SigSet::all().thread_block().unwrap();
        let mut program = Program::new("cat");
        program.arg("/proc/self/status");
        let before = mask();
        let out = run(program).unwrap().0;
        assert_eq!(mask(), before, "the caller's own mask");
        out
    });
    let out = out.join().unwrap();
    let signals = out.lines().filter(|line| {
        let names = ["SigBlk:", "SigIgn:", "SigCgt:"];
        names.iter().any(|name| line.starts_with(name))
    });
    let signals: Vec<_> = signals.collect();
    assert_eq!(signals.len(), 3, "{out}");
    for line in signals {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
}

fn mask() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let lines = status.lines().filter(|line| line.starts_with("SigBlk:"));
    lines.map(str::to_owned).collect()
}

#[test]
fn what_cannot_run_leaves_no_child() {
    let error = |program: Program| program.start().unwrap_err();
    let missing = error(Program::new("/nonexistent/program"));
    assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
    let nowhere = error(Program::new("no-such-program-anywhere"));
    assert_eq!(nowhere.raw_os_error(), Some(libc::ENOENT));
    assert_eq!(
        error(Program::new("/proc")).raw_os_error(),
        Some(libc::EACCES)
    );
    let mut lost = Program::new("/bin/true");
    lost.current_dir("/nonexistent");
    let lost = error(lost);
    assert_eq!(
        lost.raw_os_error(),
        None,
        "of a directory, not of the program"
    );
    assert!(
        lost.to_string()
            .starts_with("change to directory /nonexistent: no such file")
    );
    let mut odd = Program::new("/bin/true");
    odd.arg("a\0b");
    assert_eq!(odd.start().unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn where_a_program_may_be() {
    let paths = |name: &str, path: &str| candidates(name.as_ref(), path.as_ref());
    assert_eq!(paths("/x/runc", "/a:/b"), [Path::new("/x/runc")]);
    assert_eq!(paths("./runc", "/a:/b"), [Path::new("./runc")]);
    assert_eq!(
        paths("runc", "/a:/b"),
        [Path::new("/a/runc"), Path::new("/b/runc")]
    );
    // One that may not be run is passed over for one that may.
    let mut program = Program::new("true");
    program.env("PATH", "/proc/1/fd:/nonexistent:/usr/bin:/bin");
    assert_eq!(run(program).unwrap().1, 0);
}
