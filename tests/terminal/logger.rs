//! A terminal whose output goes to a logging program or to a file that is made for it.

use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;

use crate::client::{create, register};
use crate::common::logger::{CAT, Logger};
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{descriptors, eventually};

/// Runs a script on a terminal, as init and as exec, with its output going to `uri`.
async fn runs(shim: &Shim, script: &str, exec: &str, uri: &str) {
    let streams = Fifos {
        stdin: String::new(),
        stdout: uri.into(),
        stderr: String::new(),
    };
    if exec.is_empty() {
        create(shim, "c", &streams).await.unwrap();
    } else {
        register(shim, exec, script, &streams).await.unwrap();
    }
    shim.start_process("c", exec).await.unwrap();
}

#[test]
fn loggers_and_files_get_all_that_a_terminal_shows() {
    const SCRIPT: &str = "seq 1 3000; echo e >&2; read x </run/go";
    let expected: String = (1..=3000).map(|n| format!("{n}\r\n")).collect();
    for runtime in RUNTIMES {
        run(async {
            let script = format!("mkfifo /run/go; {SCRIPT}");
            let mut spec = Spec::new("c", ["sh", "-c", &script]);
            spec.terminal = true;
            let shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            let init = Logger::new(&shim, "init", CAT);
            let exec = Logger::new(&shim, "exec", CAT);
            let file = shim.dir().join("made/here.log");
            runs(&shim, "", "", &init.uri("binary-v2")).await;
            runs(&shim, "seq 1 3000; echo e >&2", "x", &exec.uri("binary")).await;
            let uri = format!("file://{}", file.display());
            runs(&shim, "seq 1 3000; echo e >&2", "y", &uri).await;
            for id in ["x", "y"] {
                assert_eq!(shim.wait("c", id).await.unwrap().exit_status, 0);
                shim.delete("c", id).await.unwrap();
            }
            shim.exec("c", "go", &["sh", "-c", "echo >/run/go"])
                .await
                .unwrap();
            shim.wait("c", "go").await.unwrap();
            shim.delete("c", "go").await.unwrap();
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 0);
            shim.delete("c", "").await.unwrap();
            let written = std::fs::read_to_string(&file).unwrap();
            for text in [init.out(), exec.out(), written] {
                assert!(text == format!("{expected}e\r\n"), "{} bytes", text.len());
            }
            assert_eq!((init.err(), exec.err()), (String::new(), String::new()));
            // The ends of the loggers' pipes are closed, and the terminals.
            eventually("nothing of them is open", || {
                let open = descriptors(shim.pid());
                open.iter()
                    .all(|name| name != "pipe" && !name.contains("ptmx"))
            });
            shim.end().await;
        });
    }
}
