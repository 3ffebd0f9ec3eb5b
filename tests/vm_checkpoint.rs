//! Checkpoint and restore by real runtimes with CRIU, which wants a kernel that not every machine
//! has: for the machine of `make test-vm`. What needs no CRIU is in `tests/task/checkpoint.rs`,
//! `tests/task/restore.rs` and `tests/faults/`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "userns/image.rs"]
mod image;

use std::path::{Path, PathBuf};

use cotter::cgroup::Cgroup;
use cotter::error::{Code, Result};
use cotter::manager::dialect::Dialect;
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::{Collected, Fifos, collect};
use cotter::proto::pack;
use cotter::proto::runc_options::CheckpointOptions;
use cotter::proto::task::{
    CheckpointTaskRequest, CreateTaskRequest, PauseRequest, PidsRequest, ResumeRequest,
    StatsRequest, Status,
};

use common::containerd::{Containerd, Form, Version};
use common::dumper::work_dir;
use common::events::Events;
use common::resources::{cgroup, read};
use common::shim::{Shim, run, until};
use common::{LIMIT, TempDir, eventually, tool};

/// Those that know how.
const RUNTIMES: [&str; 2] = ["RUNC", "RUNC_1_3"];

/// Counts, so that it shows whether it went on or began anew.
const COUNT: &str = "i=0; while :; do i=$((i + 1)); echo $i; sleep 0.05; done";

async fn checkpoint(shim: &Shim, path: &Path, options: &CheckpointOptions) -> Result<()> {
    let request = CheckpointTaskRequest {
        id: "c".into(),
        path: path.to_string_lossy().into_owned(),
        options: Some(pack(options).unwrap()).into(),
        ..Default::default()
    };
    shim.tasks.checkpoint(&request).await.map(drop)
}

fn ending() -> CheckpointOptions {
    CheckpointOptions {
        exit: true,
        ..Default::default()
    }
}

async fn start(runtime: &str, script: &str, terminal: bool) -> (Shim, PathBuf) {
    let mut spec = Spec::new("c", ["sh", "-c", script]);
    spec.terminal = terminal;
    let shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
    work_dir(&shim.bundle_path("c"));
    let image = shim.dir().join("image");
    (shim, image)
}

/// Creates and starts `c`, from an image or afresh; what it prints.
async fn begin(shim: &Shim, turn: usize, image: Option<&Path>, terminal: bool) -> Output {
    let fifos = Fifos::create(shim.dir(), &format!("f{turn}"), false).unwrap();
    let output = Output {
        collected: collect(&fifos.stdout).unwrap(),
        line: String::new(),
    };
    let create = CreateTaskRequest {
        stdout: fifos.stdout.clone(),
        terminal,
        checkpoint: image.map_or_else(String::new, |image| image.to_string_lossy().into_owned()),
        ..shim.create_request("c")
    };
    let pid = shim.tasks.create(&create).await.unwrap().pid;
    assert_eq!(pid == 0, image.is_some());
    let started = shim.start_process("c", "").await;
    let restored = started.unwrap_or_else(|e| panic!("{e}\n{}", criu_log(shim)));
    assert!(restored > 0);
    output
}

struct Output {
    collected: Collected,
    line: String,
}

impl Output {
    /// The next number that is printed.
    async fn number(&mut self) -> u32 {
        loop {
            if let Some((line, rest)) = self.line.split_once('\n') {
                let number = line.trim().parse();
                self.line = rest.to_owned();
                return number.unwrap();
            }
            let more = tokio::time::timeout(LIMIT, self.collected.next()).await;
            let more = more.unwrap().expect("it goes on");
            self.line.push_str(&String::from_utf8(more).unwrap());
        }
    }

    /// Waits until it has printed a number that is larger.
    async fn beyond(&mut self, number: u32) -> u32 {
        loop {
            let next = self.number().await;
            if next > number {
                return next;
            }
        }
    }
}

/// What CRIU said of a restore, for a person.
fn criu_log(shim: &Shim) -> String {
    let work = shim.bundle_path("c").join("work");
    let log = std::fs::read_to_string(work.join("restore.log")).unwrap_or_default();
    let errors = log.lines().filter(|line| line.contains("Error"));
    errors.collect::<Vec<_>>().join("\n")
}

/// The same of a checkpoint.
fn dump_log(shim: &Shim) -> String {
    let log = std::fs::read_to_string(shim.bundle_path("c").join("criu-dump.log"));
    let log = log.unwrap_or_default();
    let errors = log.lines().filter(|line| line.contains("Error"));
    errors.collect::<Vec<_>>().join("\n")
}

async fn dumped(shim: &Shim, image: &Path, options: &CheckpointOptions) {
    let done = checkpoint(shim, image, options).await;
    done.unwrap_or_else(|e| panic!("{e}\n{}", dump_log(shim)));
}

async fn end(shim: Shim) {
    let bundle = shim.bundle_path("c");
    std::fs::remove_dir_all(bundle.join("work")).unwrap();
    let _ = std::fs::remove_file(bundle.join("criu-dump.log"));
    shim.end().await;
}

async fn works(shim: &Shim) {
    let ran = shim.exec("c", "probe", &["sh", "-c", "exit 42"]).await;
    assert!(ran.unwrap() > 0);
    assert_eq!(shim.wait("c", "probe").await.unwrap().exit_status, 42);
    shim.delete("c", "probe").await.unwrap();
}

#[test]
#[ignore = "runs in the machine of make test-vm"]
fn a_container_goes_on_where_it_was() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, image) = start(runtime, COUNT, false).await;
            let mut output = begin(&shim, 0, None, false).await;
            output.beyond(3).await;
            dumped(&shim, &image, &CheckpointOptions::new()).await;
            let last = output.number().await;
            output.beyond(last + 3).await;
            works(&shim).await;

            shim.events_until(|e| matches!(e, Event::Checkpointed(_)))
                .await;
            let mut first = output.number().await;
            for turn in 1..3 {
                let image = shim.dir().join(format!("image{turn}"));
                dumped(&shim, &image, &ending()).await;
                assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
                shim.delete("c", "").await.unwrap();
                assert!(!shim.state_dir().join("c").exists());
                // All that was printed before the end.
                let rest = output.collected.finish(LIMIT).await.unwrap();
                let rest = output.line + &String::from_utf8(rest).unwrap();
                let last = rest
                    .lines()
                    .last()
                    .map_or(first, |line| line.parse().unwrap());

                output = begin(&shim, turn, Some(&image), false).await;
                first = output.number().await;
                assert_eq!(first, last + 1, "not where it was");
                works(&shim).await;
                let state = shim.state("c", "").await.unwrap();
                assert_eq!(state.status.unwrap(), Status::RUNNING);
                let stats = StatsRequest {
                    id: "c".into(),
                    ..Default::default()
                };
                assert!(shim.tasks.stats(&stats).await.unwrap().stats.is_some());
                let pids = PidsRequest {
                    id: "c".into(),
                    ..Default::default()
                };
                let pids = shim.tasks.pids(&pids).await.unwrap().processes;
                assert!(pids.iter().any(|p| p.pid == state.pid), "{pids:?}");
            }
            shim.kill("c", "", 9).await.unwrap();
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
            shim.delete("c", "").await.unwrap();
            end(shim).await;
        });
    }
}

#[test]
#[ignore = "runs in the machine of make test-vm"]
fn a_restored_container_has_the_limit_that_was_asked_for() {
    for runtime in RUNTIMES {
        run(async {
            let mut spec = Spec::new("c", ["sh", "-c", COUNT]);
            let annotation = ("io.cotter.pids-limit".to_owned(), "77".to_owned());
            spec.annotations.extend([annotation]);
            let shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            work_dir(&shim.bundle_path("c"));
            let image = shim.dir().join("image");
            let limit = async || {
                let pid = shim.state("c", "").await.unwrap().pid;
                read(&cgroup(pid), "pids", "pids.max")
            };
            let mut output = begin(&shim, 0, None, false).await;
            let seen = output.beyond(1).await;
            assert_eq!(limit().await, "77");
            dumped(&shim, &image, &ending()).await;
            shim.wait("c", "").await.unwrap();
            shim.delete("c", "").await.unwrap();
            let mut output = begin(&shim, 1, Some(&image), false).await;
            output.beyond(seen).await;
            assert_eq!(limit().await, "77", "{runtime}");
            shim.kill("c", "", 9).await.unwrap();
            shim.wait("c", "").await.unwrap();
            shim.delete("c", "").await.unwrap();
            end(shim).await;
        });
    }
}

/// A kill in a child, of which only the watch of the new cgroup can tell.
#[test]
#[ignore = "runs in the machine of make test-vm"]
fn a_restored_container_has_its_memory_watched() {
    for runtime in RUNTIMES {
        run(async {
            let mut spec = Spec::new("c", ["sh", "-c", COUNT]);
            spec.memory_limit = Some(48 << 20);
            let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            work_dir(&shim.bundle_path("c"));
            let image = shim.dir().join("image");
            let mut output = begin(&shim, 0, None, false).await;
            let seen = output.beyond(1).await;
            dumped(&shim, &image, &ending()).await;
            shim.wait("c", "").await.unwrap();
            shim.delete("c", "").await.unwrap();
            let mut output = begin(&shim, 1, Some(&image), false).await;
            output.beyond(seen).await;
            shim.exec("c", "x", &["tail", "/dev/zero"]).await.unwrap();
            shim.events_until(|e| matches!(e, Event::Oom(_))).await;
            assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 137);
            let state = shim.state("c", "").await.unwrap().status.unwrap();
            assert_eq!(state, Status::RUNNING, "{runtime}");
            shim.remove("c").await;
            end(shim).await;
        });
    }
}

/// An operator has the runtime dump the memory beforehand; the checkpoint then holds what has changed, and
/// cannot be without the other.
#[test]
#[ignore = "runs in the machine of make test-vm"]
fn a_checkpoint_builds_on_another() {
    for runtime in RUNTIMES {
        run(async {
            let (shim, image) = start(runtime, COUNT, false).await;
            let mut output = begin(&shim, 0, None, false).await;
            output.beyond(3).await;
            let (before, work) = (image.clone(), shim.dir().join("before-work"));
            let mut dump = std::process::Command::new(tool(runtime));
            dump.arg("--root").arg(shim.state_dir());
            dump.args(["checkpoint", "--pre-dump", "--image-path"]);
            dump.arg(before).arg("--work-path").arg(work).arg("c");
            common::run(&mut dump).ok();
            let second = shim.dir().join("second");
            let options = CheckpointOptions {
                parent_path: "../image".into(),
                ..ending()
            };
            dumped(&shim, &second, &options).await;
            shim.wait("c", "").await.unwrap();
            shim.delete("c", "").await.unwrap();
            let rest = output.collected.finish(LIMIT).await.unwrap();
            let rest = output.line + &String::from_utf8(rest).unwrap();
            let last: u32 = rest.lines().last().unwrap().parse().unwrap();
            assert!(second.join("parent").is_symlink(), "{runtime}");

            let away = shim.dir().join("away");
            std::fs::rename(&image, &away).unwrap();
            let create = CreateTaskRequest {
                checkpoint: second.to_string_lossy().into_owned(),
                ..shim.create_request("c")
            };
            let refused = shim.tasks.create(&create).await.unwrap_err();
            assert_eq!(refused.code, Code::NotFound, "{refused}");
            std::fs::rename(&away, &image).unwrap();
            let mut output = begin(&shim, 1, Some(&second), false).await;
            assert_eq!(output.number().await, last + 1, "not where it was");
            works(&shim).await;
            shim.remove("c").await;
            end(shim).await;
        });
    }
}

#[test]
#[ignore = "runs in the machine of make test-vm"]
fn an_older_image_can_be_restored_again() {
    run(async {
        let (shim, image) = start("RUNC", COUNT, false).await;
        let mut output = begin(&shim, 0, None, false).await;
        output.beyond(3).await;
        dumped(&shim, &image, &ending()).await;
        shim.wait("c", "").await.unwrap();
        shim.delete("c", "").await.unwrap();
        let rest = output.collected.finish(LIMIT).await.unwrap();
        let rest = output.line + &String::from_utf8(rest).unwrap();
        let last: Option<u32> = rest.lines().last().map(|line| line.parse().unwrap());
        for turn in 1..3 {
            let mut output = begin(&shim, turn, Some(&image), false).await;
            let first = output.number().await;
            assert!(first > 4 && last.is_none_or(|last| first == last + 1));
            output.beyond(first + 3).await;
            shim.remove("c").await;
        }
        end(shim).await;
    });
}

#[test]
#[ignore = "runs in the machine of make test-vm"]
fn a_paused_container_stays_paused() {
    for runtime in RUNTIMES {
        run(async {
            let (shim, image) = start(runtime, COUNT, false).await;
            let mut output = begin(&shim, 0, None, false).await;
            output.beyond(3).await;
            let pid = shim.state("c", "").await.unwrap().pid;
            let pause = PauseRequest {
                id: "c".into(),
                ..Default::default()
            };
            shim.tasks.pause(&pause).await.unwrap();
            dumped(&shim, &image, &CheckpointOptions::new()).await;
            let state = shim.state("c", "").await.unwrap().status.unwrap();
            let cgroup = Cgroup::of_pid(nix::unistd::Pid::from_raw(pid.cast_signed()));
            let frozen = cgroup.unwrap().is_frozen();
            assert_eq!((state, frozen), (Status::PAUSED, Some(true)));
            let resume = ResumeRequest {
                id: "c".into(),
                ..Default::default()
            };
            shim.tasks.resume(&resume).await.unwrap();
            let last = output.number().await;
            output.beyond(last + 3).await;
            works(&shim).await;
            // Paused and ended by its checkpoint.
            shim.tasks.pause(&pause).await.unwrap();
            let image = shim.dir().join("image2");
            dumped(&shim, &image, &ending()).await;
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 137);
            shim.delete("c", "").await.unwrap();
            begin(&shim, 1, Some(&image), false).await.number().await;
            shim.remove("c").await;
            end(shim).await;
        });
    }
}

/// CRIU's own words are in the log that is named.
#[test]
#[ignore = "runs in the machine of make test-vm"]
fn what_criu_refuses_runs_on() {
    run(async {
        // A file that is deleted and open, and larger than CRIU takes along.
        let ghost =
            "exec 9<>/run/ghost; head -c 2097152 /dev/zero >&9; rm /run/ghost; exec sleep 1000";
        let (shim, image) = start("RUNC_1_3", ghost, false).await;
        shim.create("c").await.unwrap();
        let pid = shim.start_process("c", "").await.unwrap();
        let deleted = || {
            let open = std::fs::read_link(format!("/proc/{pid}/fd/9"));
            open.is_ok_and(|to| to.to_string_lossy().ends_with("/run/ghost (deleted)"))
        };
        until("its file is deleted", deleted).await;
        for options in [ending(), CheckpointOptions::new()] {
            let refused = checkpoint(&shim, &image, &options).await.unwrap_err();
            assert_eq!(refused.code, Code::Unknown);
            let kept = shim.bundle_path("c").join("criu-dump.log");
            let end_of_it = format!(" path= {}", kept.display());
            assert!(
                refused.message.contains("criu failed") && refused.message.ends_with(&end_of_it),
                "{refused}"
            );
            assert!(dump_log(&shim).contains("Dumping FAILED"));
            works(&shim).await;
        }
        shim.remove("c").await;
        end(shim).await;
    });
}

#[test]
#[ignore = "runs in the machine of make test-vm"]
fn the_cgroups_mode_is_the_runtimes_to_know() {
    for (runtime, mode, known) in [
        ("RUNC", "full", true),
        ("RUNC_1_3", "ignore", true),
        ("RUNC_1_3", "nonsense", false),
    ] {
        run(async {
            let (shim, image) = start(runtime, COUNT, false).await;
            let mut output = begin(&shim, 0, None, false).await;
            output.beyond(3).await;
            let options = CheckpointOptions {
                cgroups_mode: mode.into(),
                ..Default::default()
            };
            if known {
                dumped(&shim, &image, &options).await;
            } else {
                let error = checkpoint(&shim, &image, &options).await.unwrap_err();
                assert!(error.message.contains("cgroups"), "{error}");
                assert!(!error.message.contains("path="), "{error}");
            }
            works(&shim).await;
            shim.remove("c").await;
            end(shim).await;
        });
    }
}

/// Images of nothing: an error, no fresh program, and the same id can be used.
#[test]
#[ignore = "runs in the machine of make test-vm"]
fn junk_is_not_restored() {
    run(async {
        let (shim, image) = start("RUNC", COUNT, false).await;
        std::fs::create_dir(&image).unwrap();
        std::fs::write(image.join("inventory.img"), "junk").unwrap();
        let create = CreateTaskRequest {
            checkpoint: image.to_string_lossy().into_owned(),
            ..shim.create_request("c")
        };
        shim.tasks.create(&create).await.unwrap();
        for _ in 0..2 {
            let error = shim.start_process("c", "").await.unwrap_err();
            let words = error.message.starts_with("OCI runtime restore failed: ");
            assert!(words && error.message.lines().count() == 1, "{error}");
            let state = shim.state("c", "").await.unwrap();
            assert_eq!((state.status.unwrap(), state.pid), (Status::CREATED, 0));
            assert!(!shim.state_dir().join("c").exists());
        }
        shim.delete("c", "").await.unwrap();
        begin(&shim, 0, None, false).await.beyond(1).await;
        shim.remove("c").await;
        end(shim).await;
    });
}

#[test]
#[ignore = "runs in the machine of make test-vm"]
fn a_restored_container_exits_by_itself() {
    run(async {
        let script = "echo 1; while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exit 7";
        let (shim, image) = start("RUNC_1_3", script, false).await;
        let mut output = begin(&shim, 0, None, false).await;
        output.number().await;
        dumped(&shim, &image, &ending()).await;
        shim.wait("c", "").await.unwrap();
        shim.delete("c", "").await.unwrap();
        begin(&shim, 1, Some(&image), false).await;
        shim.exec("c", "x", &["touch", "/dev/shm/go"])
            .await
            .unwrap();
        assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 7);
        let deleted = shim.delete("c", "").await.unwrap();
        assert_eq!(deleted.exit_status, 7);
        end(shim).await;
    });
}

#[test]
#[ignore = "runs in the machine of make test-vm"]
fn a_terminal_comes_back() {
    run(async {
        let (shim, image) = start("RUNC_1_3", COUNT, true).await;
        let mut output = begin(&shim, 0, None, true).await;
        let before = output.beyond(3).await;
        dumped(&shim, &image, &ending()).await;
        shim.wait("c", "").await.unwrap();
        shim.delete("c", "").await.unwrap();
        let mut output = begin(&shim, 1, Some(&image), true).await;
        let after = output.number().await;
        assert!(after > before, "{after} after {before}");
        output.beyond(after + 3).await;
        works(&shim).await;
        shim.remove("c").await;
        end(shim).await;
    });
}

/// As an operator does it. Once into a directory: the container goes on, and everybody is told. Then into the
/// manager's store, from which it comes again after its end, by way of a directory that the manager has for
/// the time of its start.
fn by_ctr(version: Version) {
    // Under another name containerd 1.7 puts the image into its content store only.
    let daemon = Containerd::start(version, Form::DropIn, &tool("RUNC_1_3"));
    let dir = TempDir::new("image");
    let archive = image::archive(&dir);
    let archive = archive.to_str().unwrap();
    daemon.ctr(&["images", "import", archive]).ok();
    let before = daemon.census();
    let events = Events::record(&daemon);
    // What only this one process knows, told on request.
    let script = "t=$(head -c 16 /dev/urandom | md5sum); \
        while :; do [ -e /ask ] && { rm /ask; echo $t >/new; mv /new /told; }; sleep 0.05; done";
    let argv = ["sh", "-c", script];
    common::run(&mut daemon.run_image_command(&["-d", "--null-io"], image::NAME, "web", &argv))
        .ok();
    let ask = || {
        let ask = "touch /ask; until [ -e /told ]; do sleep 0.05; done; cat /told; rm /told";
        daemon.exec("web", &["sh", "-c", ask]).ok()
    };
    let told = ask();
    assert!(told.len() > 32, "{told:?}");

    let images = dir.path().join("images");
    let path = images.to_str().unwrap();
    daemon
        .ctr(&["tasks", "checkpoint", "--image-path", path, "web"])
        .ok();
    assert!(images.join("inventory.img").exists());
    events.wait("/tasks/checkpointed", "web");
    assert_eq!(daemon.status("web").as_deref(), Some("RUNNING"));
    assert_eq!(ask(), told);

    let kept = ["containers", "checkpoint", "--image", "--rw", "--task"];
    daemon
        .ctr(&[&kept[..], &["web", "local/kept:1"]].concat())
        .ok();
    assert_eq!(ask(), told, "it runs on");
    let end = || {
        daemon
            .ctr(&["tasks", "kill", "--signal", "SIGKILL", "web"])
            .ok();
        eventually("the task is stopped", || {
            daemon.status("web").as_deref() == Some("STOPPED")
        });
        daemon.ctr(&["tasks", "delete", "web"]);
        daemon.ctr(&["containers", "delete", "web"]).ok();
    };
    end();
    assert_eq!(events.wait("/tasks/exit", "web").exit_status(), 137);
    drop(events);

    let restore = ["containers", "restore", "--rw", "--live"];
    daemon
        .ctr(&[&restore[..], &["web", "local/kept:1"]].concat())
        .ok();
    assert_eq!(daemon.status("web").as_deref(), Some("RUNNING"));
    assert_eq!(ask(), told, "a fresh program");
    daemon.ctr(&["tasks", "metrics", "web"]).ok();
    end();
    daemon.nothing_left_since(&before);
}

#[test]
#[ignore = "runs in the machine of make test-vm"]
fn by_ctr_of_1_6() {
    by_ctr(Version::V1_6);
}

#[test]
#[ignore = "runs in the machine of make test-vm"]
fn by_ctr_of_1_7() {
    by_ctr(Version::V1_7);
}

#[test]
#[ignore = "runs in the machine of make test-vm"]
fn by_ctr_of_2_1() {
    by_ctr(Version::V2_1);
}
