//! Runtimes that do with the console socket what they should not.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cotter::error::{Code, Error};
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;

use crate::client::{create, register, terminal_fifos};
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{TempDir, tool};

/// A runtime that runs another without its console socket (a terminal of the container's own
/// standard streams is not asked for then), and notes the socket's path.
fn deaf(dir: &Path, runtime: &str) -> PathBuf {
    let path = dir.join("deaf");
    let script = format!(
        r#"#!/bin/sh
n=$#
while [ $n -gt 0 ]; do
    a=$1; shift; n=$((n-1))
    case $a in
    --console-socket) echo "$1" >>{dir}/sockets; shift; n=$((n-1)) ;;
    --process) sed 's/"terminal":true/"terminal":false/' "$1" >{dir}/process.json; shift; n=$((n-1)); set -- "$@" --process {dir}/process.json ;;
    *) set -- "$@" "$a" ;;
    esac
done
exec {} "$@"
"#,
        tool(runtime).display(),
        dir = dir.display(),
    );
    crate::common::write_program(&path, script);
    path
}

fn timed_out(error: &Error, took: Duration) {
    assert_eq!(error.code, Code::DeadlineExceeded, "{error}");
    let says = "failed to retrieve console master: the runtime did not send it within 300ms";
    assert!(error.message.contains(says), "{error}");
    assert!(took < Duration::from_secs(20), "{took:?}");
}

/// The runtime succeeds and sends nothing: Create and Start fail in time, nothing runs on.
#[test]
fn one_that_sends_nothing() {
    for runtime in RUNTIMES {
        run(async {
            let dir = TempDir::new("cotter-deaf");
            let path = deaf(dir.path(), runtime);
            // config.json says no terminal, so that the runtime does as it is told.
            let spec = Spec::new("c", ["sleep", "1000"]);
            let limit = [("COTTER_LIMIT_CONSOLE", "300ms")];
            let shim =
                Shim::start_with(Dialect::Proto23, path.to_str().unwrap(), spec, "c", &limit).await;
            let fifos = terminal_fifos(&shim, "f");
            let begun = Instant::now();
            let error = create(&shim, "c", &fifos).await.unwrap_err();
            timed_out(&error, begun.elapsed());
            assert_eq!(shim.state("c", "").await.unwrap_err().code, Code::NotFound);

            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            register(&shim, "x", "sleep 1000", &fifos).await.unwrap();
            let begun = Instant::now();
            let error = shim.start_process("c", "x").await.unwrap_err();
            timed_out(&error, begun.elapsed());
            assert_eq!(
                shim.wait("c", "x").await.unwrap().exit_status,
                0,
                "it never ran"
            );
            shim.delete("c", "x").await.unwrap();

            let sockets = fs::read_to_string(dir.path().join("sockets")).unwrap();
            assert_eq!(sockets.lines().count(), 2);
            for socket in sockets.lines() {
                assert!(
                    !Path::new(socket).parent().unwrap().exists(),
                    "{socket} is left"
                );
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// A failing runtime is not waited for, and its own words are what the client gets.
#[test]
fn one_that_fails() {
    for runtime in RUNTIMES {
        run(async {
            let spec = Spec {
                terminal: true,
                ..Spec::new("c", ["/no/such"])
            };
            let shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            let fifos = terminal_fifos(&shim, "f");
            let error = match create(&shim, "c", &fifos).await {
                // runc looks for the program when it starts it.
                Ok(()) => shim.start_process("c", "").await.unwrap_err(),
                Err(error) => error,
            };
            assert!(
                error.message.contains("no such file or directory")
                    || error.message.contains("not found"),
                "{error}"
            );
            if shim.state("c", "").await.is_ok() {
                shim.delete("c", "").await.unwrap();
            }
            shim.end().await;
        });
    }
}

/// What a client asks for and config.json do not go together: an error, nothing left.
#[test]
fn a_request_and_a_bundle_that_disagree() {
    for runtime in RUNTIMES {
        run(async {
            let spec = Spec {
                terminal: true,
                ..Spec::new("c", ["sleep", "1000"])
            };
            let shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            let error = shim.create("c").await.unwrap_err();
            assert!(
                error.message.starts_with("OCI runtime create failed"),
                "{error}"
            );
            assert_eq!(shim.state("c", "").await.unwrap_err().code, Code::NotFound);
            shim.end().await;
        });
    }
}
