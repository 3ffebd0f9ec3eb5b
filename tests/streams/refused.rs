//! Streams that cannot be had: named in the error, and nothing stays of the attempt.

use std::fs;
use std::path::Path;

use cotter::error::{Code, Error};
use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;
use cotter::proto::task::{CreateTaskRequest, ExecProcessRequest};

use crate::client::Reader;
use crate::common::eventually;
use crate::common::shim::{RUNTIMES, Shim, run};

struct Case {
    stdin: String,
    stdout: String,
    stderr: String,
    terminal: bool,
    code: Code,
    says: String,
    /// Whether it can be seen from the request alone, so that Exec refuses and not Start.
    by_name: bool,
}

fn cases(dir: &Path, good: &Fifos) -> Vec<Case> {
    fs::create_dir_all(dir.join("directory")).unwrap();
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let (missing, directory) = (path("missing"), path("directory"));
    let mut cases = Vec::new();
    for bad in 0..3 {
        let mut case = |uri: &str, by_name: bool, code: Code, says: &str| {
            let mut streams = [&good.stdin, &good.stdout, &good.stderr].map(String::clone);
            streams[bad] = uri.to_owned();
            let [stdin, stdout, stderr] = streams;
            let says = says.to_owned();
            cases.push(Case {
                stdin,
                stdout,
                stderr,
                terminal: false,
                code,
                says,
                by_name,
            });
        };
        let name = ["stdin", "stdout", "stderr"][bad];
        case(
            &missing,
            false,
            Code::NotFound,
            &format!("{name} {missing}"),
        );
        case(
            &directory,
            false,
            Code::InvalidArgument,
            &format!("{name} {directory}"),
        );
        case(
            "relative/path",
            true,
            Code::InvalidArgument,
            "relative/path",
        );
        case(
            "npipe:////./pipe/x",
            true,
            Code::Unknown,
            "unknown STDIO scheme npipe",
        );
        case(
            "fifo://host/path",
            true,
            Code::InvalidArgument,
            "fifo://host/path",
        );
        case("file://tmp/log", true, Code::InvalidArgument, "file://");
        case(
            "binary:///bin/logger?=",
            true,
            Code::InvalidArgument,
            "binary://",
        );
    }
    cases.push(Case {
        stdin: good.stdin.clone(),
        stdout: "binary:///nonexistent/logger".into(),
        stderr: String::new(),
        terminal: true,
        code: Code::NotFound,
        says: "/nonexistent/logger".into(),
        by_name: false,
    });
    cases
}

fn check(error: &Error, case: &Case, what: &str) {
    let shown = error.to_string();
    assert_eq!(error.code, case.code, "{what}: {shown}");
    assert!(shown.contains(&case.says), "{shown} lacks {}", case.says);
    let prefix = format!("failed to create {what} process I/O");
    assert!(shown.contains(&prefix), "{shown} lacks {prefix}");
}

fn fds(pid: u32) -> usize {
    crate::common::descriptors(pid).len()
}

#[test]
fn a_create_that_is_refused_leaves_nothing() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            let good = shim.fifos("good", true);
            shim.bundle("d", Spec::new("d", ["echo", "hi"]));
            let bundle = shim.bundle_path("d");
            let files = || fs::read_dir(&bundle).unwrap().count();
            let (before, in_bundle) = (fds(shim.pid()), files());
            for case in cases(shim.dir(), &good) {
                let request = CreateTaskRequest {
                    stdin: case.stdin.clone(),
                    stdout: case.stdout.clone(),
                    stderr: case.stderr.clone(),
                    terminal: case.terminal,
                    ..shim.create_request("d")
                };
                let error = shim.tasks.create(&request).await.unwrap_err();
                check(&error, &case, "init");
                assert_eq!(shim.state("d", "").await.unwrap_err().code, Code::NotFound);
                assert_eq!(shim.delete("d", "").await.unwrap_err().code, Code::NotFound);
                assert_eq!(files(), in_bundle, "after {error}");
            }
            let pid = shim.pid();
            eventually("as many descriptors as before", || fds(pid) == before);
            // The id, and the streams that were good, can be used.
            let out = Reader::open(&good.stdout);
            shim.create_with("d", &good).await.unwrap();
            shim.start_process("d", "").await.unwrap();
            assert_eq!(out.text().await, "hi\n");
            shim.wait("d", "").await.unwrap();
            shim.delete("d", "").await.unwrap();
            shim.end().await;
        });
    }
}

#[test]
fn an_exec_that_is_refused_leaves_nothing() {
    for runtime in RUNTIMES {
        run(async {
            let shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let good = shim.fifos("good", true);
            let before = fds(shim.pid());
            for case in cases(shim.dir(), &good) {
                let request = ExecProcessRequest {
                    stdin: case.stdin.clone(),
                    stdout: case.stdout.clone(),
                    stderr: case.stderr.clone(),
                    terminal: case.terminal,
                    ..shim.exec_request("c", "x", &["echo", "hi"])
                };
                let registered = shim.tasks.exec(&request).await;
                if case.by_name {
                    check(&registered.unwrap_err(), &case, "exec");
                    assert_eq!(shim.state("c", "x").await.unwrap_err().code, Code::NotFound);
                } else {
                    registered.unwrap();
                    let error = shim.start_process("c", "x").await.unwrap_err();
                    check(&error, &case, "exec");
                    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 0);
                    shim.delete("c", "x").await.unwrap();
                }
            }
            let pid = shim.pid();
            eventually("as many descriptors as before", || fds(pid) == before);
            let out = Reader::open(&good.stdout);
            shim.exec_with("c", "x", &["echo", "hi"], &good)
                .await
                .unwrap();
            assert_eq!(out.text().await, "hi\n");
            shim.wait("c", "x").await.unwrap();
            shim.delete("c", "x").await.unwrap();
            shim.remove("c").await;
            shim.end().await;
        });
    }
}
