//! Work in a process of its own. On the first thread of a process without others, as in an action.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cotter::apart::apart;
use cotter::error::{Code, Error};

#[path = "common/first_thread.rs"]
mod first_thread;

/// Far above what any of this takes.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

/// Names, in the process that is the action, where it says who works for it.
const ACTION: &str = "COTTER_TEST_ACTION";

fn main() {
    if let Some(file) = std::env::var_os(ACTION) {
        return action(Path::new(&file));
    }
    first_thread::test("apart", || {
        let before = (fds(), children());
        the_answer_is_the_works_own();
        it_has_no_stream_of_the_callers();
        without_an_answer();
        what_it_started_ends_at_the_limit();
        it_ends_with_its_caller();
        not_beside_other_threads();
        assert_eq!((fds(), children()), before);
    });
}

fn fds() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn children() -> String {
    fs::read_to_string("/proc/thread-self/children").unwrap()
}

fn the_answer_is_the_works_own() {
    let many = vec![7; 3_000_000];
    for answer in [Vec::new(), vec![0], vec![3, 0, 255], many] {
        let told = apart("copy", LONG, || Ok(answer.clone()));
        assert_eq!(told.unwrap(), answer);
    }
    for error in [
        Error::not_found("read /x: Ärger"),
        Error::new(Code::Canceled, ""),
        Error::new(Code::Unavailable, "a\nb"),
    ] {
        let told = apart("fail", LONG, || Err(error.clone()));
        assert_eq!(told.unwrap_err(), error);
    }
}

fn it_has_no_stream_of_the_callers() {
    let streams = apart("look", LONG, || {
        let links = ["0", "1", "2"].map(|n| fs::read_link(format!("/proc/self/fd/{n}")).unwrap());
        Ok(format!("{links:?}").into_bytes())
    });
    let null = ["/dev/null"; 3].map(PathBuf::from);
    assert_eq!(
        String::from_utf8(streams.unwrap()).unwrap(),
        format!("{null:?}")
    );
}

fn without_an_answer() {
    let error = apart("count", LONG, || panic!("no luck")).unwrap_err();
    assert_eq!(error.code, Code::Internal);
    assert_eq!(error.message, "the process that did it panicked");
    let error = apart("count", LONG, || std::process::abort()).unwrap_err();
    assert_eq!(error.code, Code::Internal);
    let ended = "count: the process that did it ended without an answer";
    assert_eq!(error.message, ended);
}

fn what_it_started_ends_at_the_limit() {
    let file = std::env::temp_dir().join(format!("cotter-apart-{}", std::process::id()));
    let error = apart("sleep on /dead", SHORT, || {
        let mut sleep = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(&file, sleep.id().to_string()).unwrap();
        sleep.wait().unwrap();
        Ok(Vec::new())
    });
    let error = error.unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded);
    // Killed, and gone: none is left behind.
    let (what, told) = error.message.split_once(" since 2").unwrap();
    assert_eq!(what, "sleep on /dead hangs");
    assert!(told.ends_with("Z: context deadline exceeded"), "{told}");
    let sleep = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    until("it is dead", || !runs(&sleep));
}

/// Nobody reaps an orphan before the machine's init does.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = std::time::Instant::now() + LONG;
    while !holds() {
        assert!(std::time::Instant::now() < give_up, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An action whose work takes for ever, in a program that it has started. It says who is at work.
fn action(file: &Path) {
    let _ = apart("work", LONG, || {
        let mut sleep = Command::new("sleep").arg("1000").spawn().unwrap();
        let new = file.with_extension("new");
        fs::write(&new, format!("{} {}", std::process::id(), sleep.id())).unwrap();
        fs::rename(&new, file).unwrap();
        sleep.wait().unwrap();
        Ok(Vec::new())
    });
}

/// Two actions, of which one is killed: what works for the other works on.
fn it_ends_with_its_caller() {
    let start = |name: &str| {
        let file = format!("cotter-action-{}-{name}", std::process::id());
        let file = std::env::temp_dir().join(file);
        let mut action = Command::new(std::env::current_exe().unwrap());
        let action = action.env(ACTION, &file).spawn().unwrap();
        until("it is at work", || file.exists());
        let told = fs::read_to_string(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let workers: Vec<String> = told.split(' ').map(str::to_owned).collect();
        assert!(workers.iter().all(|pid| runs(pid)), "{workers:?}");
        (action, workers)
    };
    let ((mut killed, its), (mut spared, others)) = (start("a"), start("b"));
    killed.kill().unwrap();
    killed.wait().unwrap();
    until("all that worked for it has ended", || {
        !its.iter().any(|pid| runs(pid))
    });
    assert!(others.iter().all(|pid| runs(pid)), "{others:?}");
    spared.kill().unwrap();
    spared.wait().unwrap();
    until("the same", || !others.iter().any(|pid| runs(pid)));
}

fn not_beside_other_threads() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || held.recv());
    let error = apart("copy", LONG, || panic!("it is done")).unwrap_err();
    let told = "copy: not in a process that has other threads";
    assert_eq!(error, Error::new(Code::Internal, told));
    drop(release);
    let _ = other.join();
}
