//! Logging programs: they get every byte, also over their own deaths, and nothing that they do stops
//! a container, another call, or stays behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cotter::error::{Code, Result};
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;

use crate::client::Writer;
use crate::common::logger::{CAT, Logger};
use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::common::signal;

/// A shim whose first container `c` runs a script, with more in its environment.
async fn shim(runtime: &str, script: &str, environment: &[(&str, &str)]) -> Shim {
    let spec = Spec::new("c", ["sh", "-c", script]);
    Shim::start_with(Dialect::Proto23, runtime, spec, "c", environment).await
}

/// Streams that both go to one URI, as clients ask for a log.
pub fn both(uri: &str) -> Fifos {
    Fifos {
        stdin: String::new(),
        stdout: uri.into(),
        stderr: uri.into(),
    }
}

async fn start(shim: &Shim, streams: &Fifos) {
    shim.create_with("c", streams).await.unwrap();
    shim.start_process("c", "").await.unwrap();
}

async fn finish(shim: Shim) {
    shim.remove("c").await;
    shim.end().await;
}

#[test]
fn a_logger_gets_every_byte_its_descriptors_and_its_environment() {
    const SCRIPT: &str =
        "echo \"$*\" >$2.args; env >$2.env; ls -l /proc/$$/fd >$2.fds; echo hello >&2; ";
    for runtime in RUNTIMES {
        run(async {
            let shim = shim(runtime, "seq 1 20000; echo e >&2; read x", &[]).await;
            for scheme in ["binary", "binary-v2"] {
                let name = |what: &str| format!("{what}-{scheme}");
                let init = Logger::new(&shim, &name("init"), &format!("{SCRIPT}{CAT}"));
                let exec = Logger::new(&shim, &name("exec"), &format!("{SCRIPT}{CAT}"));
                let input = shim.fifos(&name("f"), true);
                let streams = Fifos {
                    stdin: input.stdin.clone(),
                    ..both(&init.uri(scheme))
                };
                start(&shim, &streams).await;
                // Standard output alone decides for both.
                let streams = Fifos {
                    stderr: String::new(),
                    ..both(&exec.uri(scheme))
                };
                let args = ["sh", "-c", "seq 1 20000; echo e >&2"];
                shim.exec_with("c", "x", &args, &streams).await.unwrap();
                assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 0);
                shim.delete("c", "x").await.unwrap();
                Writer::open(&input.stdin).write(b"\n").await;
                shim.wait("c", "").await.unwrap();
                shim.delete("c", "").await.unwrap();
                let expected: String = (1..=20000).map(|n| format!("{n}\n")).collect();
                for (logger, id) in [(&init, "c"), (&exec, "x")] {
                    assert!(logger.out() == expected, "{scheme} of {id}");
                    assert_eq!(logger.err(), "e\n", "{scheme} of {id}");
                    let read = |what: &str| {
                        fs::read_to_string(format!("{}.{what}", logger.out.display())).unwrap()
                    };
                    let (out, err) = (logger.out.display(), logger.err.display());
                    let args = format!("out {out} err {err} for {}\n", shim.namespace);
                    assert_eq!(read("args"), args);
                    let env = read("env");
                    let mut names: Vec<_> = env.lines().map(|l| l.split('=').next()).collect();
                    names.sort_unstable();
                    // The shell's own are among them.
                    names.retain(|name| !["PWD", "SHLVL", "OLDPWD"].map(Some).contains(name));
                    let names: Vec<_> = names.into_iter().flatten().collect();
                    assert_eq!(names, ["CONTAINER_ID", "CONTAINER_NAMESPACE", "PATH"]);
                    assert!(env.contains(&format!("CONTAINER_ID={id}\n")), "{env}");
                    let namespace = format!("CONTAINER_NAMESPACE={}\n", shim.namespace);
                    assert!(env.contains(&namespace), "{env}");
                    let fds = read("fds");
                    let foreign: Vec<_> = fds
                        .lines()
                        .filter_map(|line| line.split_once(" -> "))
                        .filter(|(_, to)| {
                            let script = logger.path.to_string_lossy();
                            !to.starts_with("pipe:")
                                && *to != "/dev/null"
                                && *to != script
                                && **to != format!("{out}.fds")
                        })
                        .collect();
                    assert!(foreign.is_empty(), "{foreign:?}");
                }
            }
            let log = shim.log();
            for id in ["c", "x"] {
                let line = format!("of {id}: hello");
                assert!(log.iter().any(|l| l.contains(&line)), "{line}: {log:#?}");
            }
            shim.end().await;
        });
    }
}

#[test]
fn a_logger_that_dies_in_mid_stream_loses_nothing_it_has_not_read() {
    // Takes exactly 3000 bytes in its first life, holding none back, and 1000 in the next two.
    const SCRIPT: &str = "echo >&5; echo >>$2.lives; n=$(wc -l <$2.lives); \
        case $n in 1) dd bs=1 count=3000 <&3 >>$2; kill -9 $$;; \
        2|3) dd bs=1 count=1000 <&3 >>$2; exit 7;; *) exec cat <&3 >>$2;; esac";
    for runtime in RUNTIMES {
        run(async {
            let shim = shim(
                runtime,
                "seq 1 50000",
                &[("COTTER_LIMIT_LOGGER_BACKOFF", "640ms")],
            )
            .await;
            let logger = Logger::new(&shim, "l", SCRIPT);
            start(&shim, &both(&logger.uri("binary-v2"))).await;
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 0);
            shim.delete("c", "").await.unwrap();
            let expected: String = (1..=50000).map(|n| format!("{n}\n")).collect();
            assert!(logger.out() == expected, "{} bytes", logger.out().len());
            let lives = fs::read_to_string(format!("{}.lives", logger.out.display())).unwrap();
            assert_eq!(lives.lines().count(), 4);
            shim.end().await;
        });
    }
}

#[test]
fn a_logger_that_is_killed_is_started_again_and_nothing_of_it_reads_on() {
    // The one that reads, and a child of it that would live on.
    const SCRIPT: &str = "sh -c 'while :; do sleep 1; done' $0 $6 5>&- & \
        exec 5>&-; while read -r line <&3; do echo $line >>$2; done";
    for runtime in RUNTIMES {
        run(async {
            let shim = shim(runtime, "cat", &[]).await;
            let logger = Logger::new(&shim, "l", SCRIPT);
            let input = shim.fifos("f", true);
            let streams = Fifos {
                stdin: input.stdin.clone(),
                ..both(&logger.uri("binary"))
            };
            start(&shim, &streams).await;
            let mut writer = Writer::open(&input.stdin);
            writer.write(b"one\n").await;
            until("one is logged", || logger.out() == "one\n").await;
            let has_two = || logger.pids(&shim).len() == 2;
            until("the reader and its child", has_two).await;
            let before = logger.pids(&shim);
            let reader = before[0].min(before[1]);
            signal(reader, "KILL");
            // It may be woken by the signal and still take what is there (pipe_read).
            until("it is gone", || !logger.pids(&shim).contains(&reader)).await;
            writer.write(b"two\n").await;
            until("two is logged", || logger.out() == "one\ntwo\n").await;
            until("a new reader and its child", has_two).await;
            let after = logger.pids(&shim);
            assert!(
                after.iter().all(|pid| !before.contains(pid)),
                "{before:?} {after:?}"
            );
            drop(writer);
            shim.kill("c", "", 9).await.unwrap();
            shim.wait("c", "").await.unwrap();
            shim.delete("c", "").await.unwrap();
            shim.end().await;
        });
    }
}

#[test]
fn a_logger_that_keeps_failing_is_given_up_and_the_container_goes_on() {
    for (script, scheme) in [("exit 1", "binary"), ("echo >&5; exit 0", "binary-v2")] {
        for runtime in RUNTIMES {
            run(async {
                let environment = [("COTTER_LIMIT_LOGGER_BACKOFF", "64ms")];
                let shim = shim(runtime, "head -c 300000 /dev/zero", &environment).await;
                let logger = Logger::new(&shim, "l", script);
                start(&shim, &both(&logger.uri(scheme))).await;
                assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 0);
                shim.delete("c", "").await.unwrap();
                let log = shim.log();
                let said = log.iter().filter(|l| l.contains("is given up")).count();
                assert_eq!(said, 1, "{log:#?}");
                let lost = log.iter().any(|l| l.contains(": 300000 bytes dropped"));
                assert!(lost, "{log:#?}");
                shim.end().await;
            });
        }
    }
}

fn fds(pid: u32) -> usize {
    crate::common::descriptors(pid).len()
}

/// That Create and Start of an exec fail so, and nothing is left.
async fn refused(shim: &Shim, streams: &Fifos, code: Code, says: &str) {
    let check = |failed: Result<u32>, what: &str| {
        let error = failed.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(says), "{error} lacks {says}");
        let prefix = format!("failed to create {what} process I/O");
        assert!(error.message.contains(&prefix), "{error}");
    };
    let before = fds(shim.pid());
    check(shim.create_with("d", streams).await, "init");
    assert_eq!(shim.state("d", "").await.unwrap_err().code, Code::NotFound);
    check(shim.exec_with("c", "x", &["true"], streams).await, "exec");
    shim.delete("c", "x").await.unwrap();
    until("as many descriptors as before", || {
        fds(shim.pid()) == before
    })
    .await;
}

#[test]
fn a_logger_that_cannot_be_had_is_an_error_and_leaves_nothing() {
    for runtime in RUNTIMES {
        run(async {
            let limits = [("COTTER_LIMIT_LOGGER_READY", "300ms")];
            let mut shim = shim(runtime, "sleep 1000", &limits).await;
            start(&shim, &Fifos::default()).await;
            shim.bundle("d", Spec::new("d", ["true"]));
            let hangs = Logger::new(
                &shim,
                "hangs",
                "trap '' TERM; sh -c 'while :; do sleep 1; done' $0 $6 & wait",
            );
            let dies = Logger::new(&shim, "dies", "exit 3");
            let plain = Logger::new(&shim, "plain", "true");
            fs::set_permissions(&plain.path, PermissionsExt::from_mode(0o644)).unwrap();
            let garbage = Logger::new(&shim, "garbage", "");
            fs::write(&garbage.path, [0x7f, b'E', b'L', b'F', 1, 2, 3]).unwrap();
            let dir = format!("binary://{}", shim.dir().display());
            for (uri, code, says) in [
                (
                    hangs.uri("binary"),
                    Code::DeadlineExceeded,
                    "did not call ready within 300ms",
                ),
                (
                    hangs.uri("binary-v2"),
                    Code::DeadlineExceeded,
                    "did not call ready within 300ms",
                ),
                (
                    dies.uri("binary-v2"),
                    Code::Unknown,
                    "logging binary did not call ready (it may have crashed or exited prematurely)",
                ),
                (
                    "binary:///nonexistent/l".into(),
                    Code::NotFound,
                    "/nonexistent/l",
                ),
                (plain.uri("binary"), Code::Unknown, "permission denied"),
                (dir, Code::Unknown, "permission denied"),
                (garbage.uri("binary-v2"), Code::Unknown, "garbage"),
            ] {
                refused(&shim, &both(&uri), code, says).await;
                let left: Vec<_> = [&hangs, &dies].map(|l| l.pids(&shim)).concat();
                assert!(left.is_empty(), "{left:?}");
            }
            // One that is good does not outlive its companion's failure.
            let good = Logger::new(&shim, "good", CAT);
            let streams = Fifos {
                stdout: good.uri("binary"),
                ..both(&dies.uri("binary-v2"))
            };
            refused(&shim, &streams, Code::Unknown, "did not call ready").await;
            assert!(good.pids(&shim).is_empty());
            finish(shim).await;
        });
    }
}

#[test]
fn only_listed_loggers_run_when_there_is_a_list() {
    run(async {
        let list = [("COTTER_LOGGER_ALLOW", "/nonexistent/:/bin/true")];
        let mut shim = shim("RUNC", "sleep 1000", &list).await;
        start(&shim, &Fifos::default()).await;
        shim.bundle("d", Spec::new("d", ["true"]));
        let logger = Logger::new(&shim, "l", CAT);
        let refusal = (Code::PermissionDenied, "is not in COTTER_LOGGER_ALLOW");
        refused(&shim, &both(&logger.uri("binary")), refusal.0, refusal.1).await;
        let link = shim.dir().join("true");
        std::os::unix::fs::symlink("/bin/true", &link).unwrap();
        shim.create_with("d", &both(&format!("binary://{}", link.display())))
            .await
            .unwrap();
        shim.remove("d").await;
        finish(shim).await;
    });
}

/// A container's own list narrows that of the shim's environment, for its execs too.
#[test]
fn a_list_in_the_options_holds_for_one_container() {
    run(async {
        let mut shim = shim("RUNC", "sleep 1000", &[("COTTER_LOGGER_ALLOW", "/")]).await;
        let [good, other] = ["good", "other"].map(|name| Logger::new(&shim, name, CAT));
        let listed = Some(good.path.to_string_lossy().into_owned());
        shim.options.logger_allow = listed.clone();
        start(&shim, &both(&good.uri("binary"))).await;
        shim.bundle("d", Spec::new("d", ["sleep", "1000"]));
        let streams = both(&other.uri("binary"));
        let code = Code::PermissionDenied;
        refused(&shim, &streams, code, "is not in option logger_allow").await;
        let args = ["sh", "-c", "echo in exec"];
        let streams = both(&good.uri("binary-v2"));
        shim.exec_with("c", "x", &args, &streams).await.unwrap();
        assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 0);
        shim.delete("c", "x").await.unwrap();
        assert_eq!(good.out(), "in exec\n");

        // Another container has its own, which may be none, allow none, or make no sense.
        shim.options.logger_allow = Some(String::new());
        let error = shim.create_with("d", &streams).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        for list in ["good", "/bin/:", "/a:../b"] {
            shim.options.logger_allow = Some(list.into());
            let error = shim.create("d").await.unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{list}: {error}");
            let says = "option logger_allow: ";
            assert!(error.message.starts_with(says), "{error}");
            assert_eq!(shim.state("d", "").await.unwrap_err().code, Code::NotFound);
        }
        shim.options.logger_allow = None;
        let streams = both(&other.uri("binary"));
        shim.create_with("d", &streams).await.unwrap();
        shim.remove("d").await;
        finish(shim).await;
    });
}

/// It may have something to write yet.
#[test]
fn a_logger_that_does_not_end_is_asked_to_first() {
    for runtime in RUNTIMES {
        run(async {
            let shim = shim(runtime, "echo hi", &[("COTTER_LIMIT_IO_DRAIN", "1s")]).await;
            let script = "trap 'echo asked >>$2; exit 0' TERM; echo >&5; \
                 while :; do sleep 1000 & wait $!; done";
            let logger = Logger::new(&shim, "l", script);
            start(&shim, &both(&logger.uri("binary-v2"))).await;
            shim.wait("c", "").await.unwrap();
            shim.delete("c", "").await.unwrap();
            assert_eq!(logger.out(), "asked\n");
            assert!(logger.pids(&shim).is_empty());
            shim.end().await;
        });
    }
}

#[test]
fn a_logger_that_does_not_end_is_killed_and_delays_no_other_call() {
    for runtime in RUNTIMES {
        run(async {
            let limits = [
                ("COTTER_LIMIT_IO_DRAIN", "1s"),
                ("COTTER_LIMIT_LOGGER_EXIT", "500ms"),
            ];
            let mut shim = shim(runtime, "echo hi", &limits).await;
            let stuck = "trap '' TERM; echo >&5; while :; do sleep 1000; done";
            let logger = Logger::new(&shim, "l", stuck);
            start(&shim, &both(&logger.uri("binary-v2"))).await;
            shim.wait("c", "").await.unwrap();
            let mut deleted = Box::pin(shim.delete("c", ""));
            tokio::select! {
                biased;
                _ = &mut deleted => panic!("deleted before its logger was ended"),
                state = shim.state("c", "") => assert_eq!(state.unwrap().exit_status, 0),
            }
            deleted.await.unwrap();
            assert!(logger.pids(&shim).is_empty());
            // The shim is as good as new.
            shim.run("d", &["true"]).await;
            shim.remove("d").await;
            shim.end().await;
        });
    }
}

#[test]
fn an_output_and_its_error_may_have_different_ends() {
    for runtime in RUNTIMES {
        run(async {
            let shim = shim(runtime, "echo o; echo e >&2", &[]).await;
            let first = Logger::new(&shim, "first", CAT);
            let second = Logger::new(&shim, "second", CAT);
            let file = shim.dir().join("deep/er/log");
            for (stdout, stderr) in [
                (first.uri("binary"), second.uri("binary")),
                (first.uri("binary"), format!("file://{}", file.display())),
                (
                    format!("file://{}", file.display()),
                    second.uri("binary-v2"),
                ),
                (format!("file://{}", file.display()), String::new()),
            ] {
                let streams = Fifos {
                    stdin: String::new(),
                    stdout,
                    stderr,
                };
                start(&shim, &streams).await;
                shim.wait("c", "").await.unwrap();
                shim.delete("c", "").await.unwrap();
            }
            assert_eq!((first.out(), first.err()), ("o\no\n".into(), String::new()));
            assert_eq!(
                (second.out(), second.err()),
                (String::new(), "e\ne\n".into())
            );
            let text = fs::read_to_string(&file).unwrap();
            let mut lines: Vec<_> = text.lines().collect();
            assert_eq!(lines[..2], ["e", "o"]);
            lines[2..].sort_unstable();
            assert_eq!(lines[2..], ["e", "o"]);
            let mode =
                |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o644, 0o755));
            shim.end().await;
        });
    }
}
