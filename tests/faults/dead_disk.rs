//! A dead disk, a network's say, under what a client names: it holds up the one operation that
//! needs it, to its limit, and nobody else; the error says what hangs and since when, and once the
//! disk is back the same can be done.

use std::time::{Duration, Instant};

use cotter::container::exit_file;
use cotter::error::{Code, Error};
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::proto::task::CreateTaskRequest;
use cotter::proto::{pack, runtime_options};

use crate::common::census::entries;
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{LIMIT, eventually, signal};
use crate::disk::Disk;
use crate::runtime::Faulty;
use crate::told::Memory;
use crate::world::{
    GOOD, alive, alone, answers, bundle, census, good_works, later, nothing_new, says, until, world,
};

/// Above what a Create takes on a loaded machine when nothing hangs.
const LIMITS: [(&str, &str); 3] = [
    ("COTTER_LIMIT_DISK", "3s"),
    ("COTTER_LIMIT_UNMOUNT", "3s"),
    ("COTTER_LIMIT_MOUNT", "3s"),
];

/// What a limit's error looks like.
fn hangs(error: &Error, what: &str) {
    says(error, Code::DeadlineExceeded, &[what, " hangs since 2"]);
}

/// The named threads of the shim that are there.
fn threads(shim: &Shim) -> Vec<String> {
    threads_of(shim.pid())
}

fn threads_of(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut names: Vec<_> = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    names.sort();
    names
}

/// Creates that hang on the dead `disk`, and everything else meanwhile; then again with the disk back.
async fn held_to_the_limit(
    shim: &mut Shim,
    disk: &Disk,
    request: &CreateTaskRequest,
    what: &str,
    thread: &str,
) {
    let before = census(shim);
    disk.dies();
    for _ in 0..3 {
        let held = later(&shim.tasks, {
            let request = request.clone();
            move |tasks| async move { tasks.create(&request).await.map(drop) }
        });
        until("the disk is asked", || disk.waiting() > 0).await;
        answers(shim, GOOD).await;
        good_works(shim).await;
        hangs(&held.await.unwrap().unwrap_err(), what);
        let stuck = |names: &[String]| names.iter().filter(|name| *name == thread).count();
        assert_eq!(
            stuck(&threads(shim)),
            1,
            "one thread, however often it is tried"
        );
    }
    nothing_new(shim, &before, what).await;
    let log = shim.log();
    let told = |line: &&String| line.contains(what) && line.contains("its thread");
    assert_eq!(log.iter().filter(told).count(), 1, "{log:#?}");

    disk.is_back();
    until("the thread has ended", || {
        !threads(shim).iter().any(|name| name == thread)
    })
    .await;
    // What it came to in the end, when nobody waited for it any more, has been undone.
    nothing_new(shim, &before, what).await;
    shim.tasks.create(request).await.unwrap();
    shim.start_process(&request.id, "").await.unwrap();
    shim.remove(&request.id).await;
}

/// Its writer hangs, and no program that the shim starts meanwhile inherits what hangs.
#[test]
fn under_a_log_that_is_being_written() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &LIMITS).await;
            let disk = Disk::new();
            let mut request = bundle(&mut shim, &faulty, "c");
            request.stdout = format!("file://{}", disk.path().join("log").display());
            request.stderr.clone_from(&request.stdout);
            shim.tasks.create(&request).await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let program = "while :; do echo to the log; sleep 0.05; done";
            let mut exec = shim.exec_request("c", "x", &["sh", "-c", program]);
            exec.stdout.clone_from(&request.stdout);
            shim.tasks.exec(&exec).await.unwrap();
            shim.start_process("c", "x").await.unwrap();
            // The writer has the file open by then: a disk that dies a moment earlier has nobody hold
            // anything that could be inherited.
            disk.dies_of_a_write();
            until("the disk is asked to write", || disk.waiting() > 0).await;
            for _ in 0..3 {
                answers(&shim, GOOD).await;
                good_works(&shim).await;
            }
            disk.is_back();
            shim.kill("c", "x", 9).await.unwrap();
            shim.wait("c", "x").await.unwrap();
            until("the writer has ended", || {
                !threads(&shim).iter().any(|name| name == "write-output")
            })
            .await;
            shim.remove("c").await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

#[test]
fn under_a_log_file() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &LIMITS).await;
            let disk = Disk::new();
            let log = disk.path().join("log");
            shim.bundle("e", Spec::new("e", ["sleep", "1000"]));
            let mut request = bundle(&mut shim, &faulty, "c");
            request.stdout = format!("file://{}", log.display());
            let what = format!("open stdout {}", log.display());
            held_to_the_limit(&mut shim, &disk, &request, &what, "open-streams").await;

            // An exec likewise.
            shim.tasks
                .create(&faulty.create_request(&shim, "e"))
                .await
                .unwrap();
            shim.start_process("e", "").await.unwrap();
            let mut exec = shim.exec_request("e", "x", &["true"]);
            exec.stdout.clone_from(&request.stdout);
            shim.tasks.exec(&exec).await.unwrap();
            disk.dies();
            hangs(&shim.start_process("e", "x").await.unwrap_err(), &what);
            answers(&shim, "e").await;
            good_works(&shim).await;
            disk.is_back();
            shim.start_process("e", "x").await.unwrap();
            assert_eq!(shim.wait("e", "x").await.unwrap().exit_status, 0);
            shim.remove("e").await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

#[test]
fn under_the_options() {
    run(async {
        let (mut shim, faulty) = world("RUNC", &LIMITS).await;
        let runc = faulty.options(&shim);
        let toml = format!(
            "BinaryName = {:?}\nRoot = {:?}\n",
            runc.binary_name, runc.root
        );
        let disk = Disk::holding(toml.as_bytes());
        let file = disk.path().join("options.toml");
        let mut request = bundle(&mut shim, &faulty, "c");
        let options = runtime_options::Options {
            config_path: file.to_string_lossy().into_owned(),
            ..Default::default()
        };
        request.options = Some(pack(&options).unwrap()).into();
        let what = format!("options: read {}", file.display());
        held_to_the_limit(&mut shim, &disk, &request, &what, "options").await;
        shim.remove(GOOD).await;
        shim.end().await;
    });
}

#[test]
fn under_a_mount() {
    run(async {
        let (mut shim, faulty) = world("RUNC", &LIMITS).await;
        let disk = Disk::new();
        let mut request = bundle(&mut shim, &faulty, "c");
        let lowest = cotter::proto::types::Mount {
            type_: "bind".into(),
            source: disk.path().join("dir").to_string_lossy().into_owned(),
            options: vec!["bind".into()],
            ..Default::default()
        };
        request.rootfs.insert(0, lowest);
        let rootfs = shim.bundle_path("c").join("rootfs");
        let what = format!("mount onto {}", rootfs.display());
        held_to_the_limit(&mut shim, &disk, &request, &what, "mount").await;
        shim.remove(GOOD).await;
        shim.end().await;
    });
}

/// The exit is told and the container goes, although how it ended cannot be written down.
#[test]
fn under_a_bundle() {
    for runtime in RUNTIMES {
        run(bundle_on_a_dead_disk(runtime, false));
    }
}

/// What was in memory is not any more.
#[test]
fn under_a_bundle_in_memory() {
    run(bundle_on_a_dead_disk("RUNC", true));
}

async fn bundle_on_a_dead_disk(runtime: &str, in_memory: bool) {
    let limits = [("COTTER_LIMIT_BUNDLE", "300ms")];
    let (mut shim, _) = world(runtime, &limits).await;
    let dir = shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
    let memory = in_memory.then(|| Memory::in_place_of(&dir));
    shim.create("c").await.unwrap();
    let pid = shim.start_process("c", "").await.unwrap();
    let disk = Disk::in_place_of(&dir);
    match in_memory {
        // Not even what it is may be asked.
        true => disk.dies(),
        false => disk.takes_no_write(),
    }
    let killed = Instant::now();
    signal(pid, "KILL");
    assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
    // 50 ms, and what a loaded machine adds.
    assert!(killed.elapsed() < Duration::from_secs(5));
    let ended = |e: &Event| matches!(e, Event::Exit(exit) if exit.id == "c");
    shim.events_until(ended).await;
    assert!(disk.waiting() > 0, "it is still being written");
    answers(&shim, GOOD).await;
    good_works(&shim).await;
    // What else is in a bundle lies in memory; the write that hangs goes on elsewhere.
    disk.unmount();
    assert_eq!(shim.delete("c", "").await.unwrap().exit_status, 137);
    let name = exit_file::NAME;
    let told = format!("writing {name} into {} hangs", dir.display());
    let log = shim.log();
    assert!(log.iter().any(|line| line.contains(&told)), "{log:#?}");
    disk.is_back();
    until("the writer has ended", || threads(&shim).len() == 1).await;
    drop(memory);
    shim.remove(GOOD).await;
    shim.end().await;
}

/// A runtime that waits for the disk where nothing can end it: the call ends, without it.
#[test]
fn under_a_runtime_call() {
    run(async {
        let limits = [("COTTER_LIMIT_RUNTIME_CALL", "3s")];
        let (mut shim, faulty) = world("RUNC", &limits).await;
        let disk = Disk::holding(b"text");
        shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
        let request = faulty.create_request(&shim, "c");
        shim.tasks.create(&request).await.unwrap();
        let before = census(&shim);
        for who in ["stuck", "stuck-child"] {
            disk.dies();
            let file = disk.path().join("file");
            faulty.set("start", &format!("{who}={}", file.display()));
            // Longer than the limit even with the clean-up behind it.
            let started = later(&shim.tasks.within(None), |tasks| async move {
                let request = cotter::manager::request::start("c", "");
                tasks.start(&request).await.map(drop)
            });
            until("the disk is asked", || disk.waiting() > 0).await;
            answers(&shim, "c").await;
            good_works(&shim).await;
            let ended = tokio::time::timeout(LIMIT, started).await;
            let error = ended.expect(who).unwrap().unwrap_err();
            let why = "start of \"c\" did not end within 3s and was killed; it hung since 2";
            says(&error, Code::DeadlineExceeded, &[why]);
            assert!(disk.waiting() > 0, "{who}: nothing has ended it");
            disk.is_back();
            nothing_new(&shim, &before, who).await;
        }
        faulty.clear("start");
        shim.start_process("c", "").await.unwrap();
        shim.remove("c").await;
        shim.remove(GOOD).await;
        shim.end().await;
    });
}

/// Where the runtime itself or the loggers are.
#[test]
fn under_programs() {
    run(async {
        let limits = [
            ("COTTER_LIMIT_DISK", "3s"),
            ("COTTER_LIMIT_RUNTIME_CALL", "3s"),
        ];
        let (mut shim, faulty) = world("RUNC", &limits).await;
        let disk = Disk::new();
        disk.dies();
        let program = disk.path().join("program");
        let logged = CreateTaskRequest {
            stdout: format!("binary://{}", program.display()),
            ..bundle(&mut shim, &faulty, "logged")
        };
        let run_by = |shim: &Shim, id: &str| CreateTaskRequest {
            options: Some(
                pack(&cotter::proto::runc_options::Options {
                    binary_name: program.to_string_lossy().into_owned(),
                    ..shim.options.clone()
                })
                .unwrap(),
            )
            .into(),
            ..shim.create_request(id)
        };
        shim.bundle("run", Spec::new("run", ["sleep", "1000"]));
        let other = run_by(&shim, "run");
        let before = census(&shim);
        let what = format!("start program {}", program.display());
        for request in [&logged, &other] {
            let held = later(&shim.tasks, {
                let request = request.clone();
                move |tasks| async move { tasks.create(&request).await.map(drop) }
            });
            until("the disk is asked", || disk.waiting() > 0).await;
            answers(&shim, GOOD).await;
            good_works(&shim).await;
            hangs(&held.await.unwrap().unwrap_err(), &what);
        }
        nothing_new(&shim, &before, &what).await;
        disk.is_back();
        shim.remove(GOOD).await;
        shim.end().await;
    });
}

/// A file system that hangs at its last unmount: Delete answers within its limit, again and again.
#[test]
fn under_a_rootfs() {
    // Elsewhere a container that is being made could hold the mount a moment longer.
    if !alone("dead_disk::under_a_rootfs", &["--mount"]) {
        return;
    }
    run(async {
        let (mut shim, _) = world("RUNC", &LIMITS).await;
        let faulty = Faulty::new(&shim, "d");
        let disk = Disk::on_a_device();
        let mut request = bundle(&mut shim, &faulty, "c");
        request.rootfs.push(cotter::proto::types::Mount {
            type_: "bind".into(),
            source: disk.path().to_string_lossy().into_owned(),
            target: "tmp".into(),
            options: vec!["rbind".into(), "rw".into()],
            ..Default::default()
        });
        shim.tasks.create(&request).await.unwrap();
        shim.start_process("c", "").await.unwrap();
        disk.unmount();
        shim.kill("c", "", 9).await.unwrap();
        shim.wait("c", "").await.unwrap();
        disk.dies();
        let rootfs = shim.bundle_path("c").join("rootfs");
        let what = format!("failed rootfs umount: unmount {}", rootfs.display());
        for _ in 0..2 {
            let held = later(&shim.tasks, |tasks| async move {
                let request = cotter::proto::task::DeleteRequest {
                    id: "c".into(),
                    ..Default::default()
                };
                tasks.delete(&request).await.map(drop)
            });
            until("the disk is asked", || disk.waiting() > 0).await;
            good_works(&shim).await;
            hangs(&held.await.unwrap().unwrap_err(), &what);
            assert_eq!(
                threads(&shim)
                    .iter()
                    .filter(|name| *name == "unmount")
                    .count(),
                1
            );
        }
        disk.is_back();
        assert_eq!(shim.delete("c", "").await.unwrap().exit_status, 137);
        shim.remove(GOOD).await;
        shim.end().await;
    });
}

/// A shim that is asked to go goes: what is left of it, a thread that the kernel does not let go, holds
/// nothing that its manager waits for.
#[test]
fn under_a_shim_that_ends() {
    run(async {
        let (mut shim, faulty) = world("RUNC", &[("COTTER_LIMIT_DISK", "300ms")]).await;
        let disk = Disk::new();
        let mut request = bundle(&mut shim, &faulty, "c");
        request.stdout = format!("file://{}", disk.path().join("log").display());
        disk.dies();
        let held = later(&shim.tasks, |tasks| async move {
            tasks.create(&request).await.map(drop)
        });
        until("the disk is asked", || disk.waiting() > 0).await;
        let what = format!("open stdout {}", disk.path().join("log").display());
        hangs(&held.await.unwrap().unwrap_err(), &what);
        shim.remove(GOOD).await;
        let pid = shim.pid();
        let asked = cotter::manager::request::shutdown(GOOD);
        let _ = shim.tasks.shutdown(&asked).await;
        until("the shim has ended", || !alive(pid)).await;

        assert!(disk.waiting() > 0, "nothing has ended its thread");
        assert_eq!(threads_of(pid), ["containerd-shim", "open-streams"]);
        let held = || -> Vec<_> {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let tables = threads.flatten().map(|thread| thread.path().join("fd"));
            tables.flat_map(|table| entries(&table)).collect()
        };
        assert_eq!(held(), Vec::<std::path::PathBuf>::new());
        disk.is_back();
        until("its thread has ended", || disk.waiting() == 0).await;
        shim.end_of_the_gone().await;
    });
}

#[test]
fn the_disk_dies_and_comes_back() {
    let disk = Disk::new();
    let file = disk.path().join("file");
    std::fs::write(&file, "text").unwrap();
    disk.dies();
    let looking = std::thread::spawn({
        let file = file.clone();
        move || std::fs::metadata(file).unwrap().len()
    });
    eventually("it is asked", || disk.waiting() > 0);
    assert!(!looking.is_finished());
    disk.is_back();
    assert_eq!(looking.join().unwrap(), 0);
}
