//! A list of what output may go to holds for files as well as for programs: nothing else is made,
//! opened or run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use cotter::error::Code;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;

use crate::client::Reader;
use crate::common::TempDir;
use crate::common::shim::{RUNTIMES, Shim, run};
use cotter::manager::dialect::Dialect;

const SAYS: [&str; 3] = ["sh", "-c", "echo out; echo err >&2; exit 7"];

fn both(stdout: &str, stderr: &str) -> Fifos {
    Fifos {
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
        ..Fifos::default()
    }
}

fn file(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// What is in a directory, with all that is below it.
fn tree(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        all.push(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            all.extend(tree(&entry.path()));
        }
    }
    all.sort();
    all
}

async fn shim(runtime: &str, list: &str) -> Shim {
    let environment = [("COTTER_LOGGER_ALLOW", list)];
    let spec = Spec::new("c", ["sleep", "1000"]);
    let mut shim = Shim::start_with(Dialect::Proto23, runtime, spec, "c", &environment).await;
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    shim.bundle("d", Spec::new("d", SAYS));
    shim
}

/// A process whose streams are FIFOs does well.
async fn healthy(shim: &Shim) {
    let fifos = shim.fifos("healthy", false);
    let out = Reader::open(&fifos.stdout);
    shim.exec_with("c", "x", &SAYS, &both(&fifos.stdout, ""))
        .await
        .unwrap();
    assert_eq!(out.text().await, "out\n");
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 7);
    shim.delete("c", "x").await.unwrap();
    fs::remove_file(&fifos.stdout).unwrap();
    let _ = fs::remove_file(&fifos.stderr);
}

#[test]
fn what_is_not_listed_is_not_made_nor_opened() {
    let space = TempDir::new("cotter-allow");
    let logs = space.path().join("logs");
    let outside = space.path().join("outside");
    fs::create_dir_all(&logs).unwrap();
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("precious"), "precious").unwrap();
    symlink(&outside, logs.join("out")).unwrap();
    symlink(outside.join("new"), logs.join("dangling")).unwrap();
    symlink(outside.join("precious"), logs.join("link")).unwrap();
    nix::unistd::mkfifo(&outside.join("fifo"), Mode::S_IRWXU).unwrap();
    let evil = [
        file(&outside.join("new/dir/cron.d/x")),
        file(&outside.join("precious")),
        outside.join("precious").display().to_string(),
        format!("fifo://{}", outside.join("precious").display()),
        file(&logs.join("../outside/x")),
        file(&logs.join("out/x")),
        file(&logs.join("out/new/x")),
        file(&logs.join("dangling")),
        file(&logs.join("link")),
        format!("binary://{}", outside.join("fifo").display()),
        format!("binary://{}", outside.join("precious").display()),
    ];
    let before = tree(space.path());
    let listed = format!("{}/:/bin/true", logs.display());
    for (runtime, list) in RUNTIMES.into_iter().zip([listed.as_str(), ""]) {
        run(async {
            let shim = shim(runtime, list).await;
            let opened = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
            opened.add_watch(&outside, AddWatchFlags::IN_OPEN).unwrap();
            for uri in &evil {
                // Nothing of the good one either, which is asked for first.
                let good = file(&logs.join("good"));
                for streams in [both(uri, ""), both("", uri), both(&good, uri)] {
                    let created = shim.create_with("d", &streams).await;
                    let error = created.expect_err(uri);
                    assert_eq!(error.code, Code::PermissionDenied, "{uri}: {error}");
                    let exec = shim.exec_with("c", "x", &SAYS, &streams).await;
                    assert_eq!(exec.expect_err(uri).code, Code::PermissionDenied, "{uri}");
                    shim.delete("c", "x").await.unwrap();
                }
                assert_eq!(tree(space.path()), before, "{uri}");
            }
            let told = opened.read_events().unwrap_or_default();
            let told: Vec<_> = told.into_iter().filter_map(|told| told.name).collect();
            assert!(told.is_empty(), "opened: {told:?}");
            assert_eq!(
                fs::read_to_string(outside.join("precious")).unwrap(),
                "precious"
            );

            healthy(&shim).await;
            if !list.is_empty() {
                // What is listed is made, with its directories, and null is nobody's file.
                let log = logs.join("deep/er/log");
                for stderr in ["/dev/null", &file(&log)] {
                    let streams = both(&file(&log), stderr);
                    shim.exec_with("c", "x", &SAYS, &streams).await.unwrap();
                    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 7);
                    shim.delete("c", "x").await.unwrap();
                }
                let mut said: Vec<_> = fs::read_to_string(&log)
                    .unwrap()
                    .lines()
                    .map(str::to_owned)
                    .collect();
                said.sort();
                assert_eq!(said, ["err", "out", "out"]);
                fs::remove_dir_all(logs.join("deep")).unwrap();
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}
