//! A runtime that prints more than a pipe holds before it ends, or that ends after what it has started
//! has written as much: it is read meanwhile, so that nobody waits for anybody.

use cotter::error::Code;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::{Fifos, collect};
use cotter::proto::task::{CreateTaskRequest, ExecProcessRequest};

use crate::common::LIMIT;
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::runtime::Faulty;
use crate::world::{GOOD, census, good_works, nothing_new, says, world};

/// More than a pipe and a terminal hold, together with a FIFO.
const MUCH: usize = 200 << 10;

/// A call that hangs is told as one soon, and none that works takes as long.
const LIMITS: [(&str, &str); 1] = [("COTTER_LIMIT_RUNTIME_CALL", "20s")];

/// Reads two streams from now on, until they have ended.
fn came(fifos: &Fifos) -> impl Future<Output = [Vec<u8>; 2]> + use<> {
    let collected = [&fifos.stdout, &fifos.stderr].map(|fifo| collect(fifo).unwrap());
    let [out, err] = collected.map(|stream| stream.finish(LIMIT));
    async {
        let (out, err) = tokio::join!(out, err);
        [out.unwrap(), err.unwrap()]
    }
}

/// So many of the runtime's bytes and then the program's.
#[track_caller]
fn is(stream: &[u8], runtime: u8, much: usize, program: &str) {
    let expected: Vec<u8> = std::iter::repeat_n(runtime, much)
        .chain(program.bytes())
        .collect();
    assert_eq!(stream.len(), expected.len());
    assert!(stream == expected, "other bytes, or in another order");
}

fn create_request(shim: &Shim, faulty: &Faulty, fifos: &Fifos) -> CreateTaskRequest {
    CreateTaskRequest {
        stdin: fifos.stdin.clone(),
        stdout: fifos.stdout.clone(),
        stderr: fifos.stderr.clone(),
        ..faulty.create_request(shim, "c")
    }
}

/// Starts exec `exec` of container c.
async fn exec(shim: &Shim, exec: &str, script: &str, fifos: &Fifos) -> cotter::error::Result<u32> {
    let args = ["sh", "-c", script];
    shim.exec_with("c", exec, &args, fifos).await
}

/// The same with a terminal.
async fn on_terminal(
    shim: &Shim,
    exec: &str,
    script: &str,
    fifos: &Fifos,
) -> cotter::error::Result<u32> {
    let mut process = Spec::new("c", ["sh", "-c", script]);
    process.terminal = true;
    let mut request = ExecProcessRequest {
        stdout: fifos.stdout.clone(),
        terminal: true,
        ..shim.exec_request("c", exec, &[])
    };
    request.spec.mut_or_insert_default().value = process.process().to_string().into_bytes();
    shim.tasks.exec(&request).await?;
    shim.start_process("c", exec).await
}

/// All of it arrives, in order, with the program's behind it, and stdin is the program's.
#[test]
fn a_runtime_that_prints_much_is_read() {
    for runtime in RUNTIMES {
        for host_pids in [false, true] {
            run(async {
                let (mut shim, faulty) = world(runtime, &LIMITS).await;
                let mut spec = Spec::new(
                    "c",
                    ["sh", "-c", "read a; echo $a; echo err >&2; exec sleep 1000"],
                );
                spec.host_pids = host_pids;
                shim.bundle("c", spec);

                let prints = format!("prints={MUCH}");
                faulty.set("create", &prints);
                let fifos = shim.fifos("c", true);
                let stdin = typed(&fifos, "typed\n");
                let request = create_request(&shim, &faulty, &fifos);
                let life = async {
                    shim.tasks.create(&request).await.unwrap();
                    shim.start_process("c", "").await.unwrap();

                    faulty.set("exec", &prints);
                    let x = shim.fifos("x", true);
                    let stdin = typed(&x, "more\n");
                    let script = "read a; echo $a; echo err >&2; exit 3";
                    let (ran, [out, err]) = tokio::join!(exec(&shim, "x", script, &x), came(&x));
                    ran.unwrap();
                    drop(stdin);
                    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 3);
                    is(&out, b'o', MUCH, "more\n");
                    is(&err, b'e', MUCH, "err\n");
                    shim.delete("c", "x").await.unwrap();

                    shim.kill("c", "", 9).await.unwrap();
                };
                let ([out, err], (), ()) = tokio::join!(came(&fifos), life, good_works(&shim));
                drop(stdin);
                is(&out, b'o', MUCH, "typed\n");
                is(&err, b'e', MUCH, "err\n");
                shim.remove("c").await;
                shim.remove(GOOD).await;
                shim.end().await;
            });
        }
    }
}

/// A client's end of a process's stdin, with something in it.
fn typed(fifos: &Fifos, text: &str) -> std::fs::File {
    use std::io::Write;
    let mut options = std::fs::File::options();
    // So that nobody is waited for.
    let mut stdin = options.read(true).write(true).open(&fifos.stdin).unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    stdin
}

/// One that returns only after what it has started has written much and ended, to pipes and to a terminal.
#[test]
fn a_program_that_writes_much_before_its_runtime_returns_is_read() {
    let writes = format!("head -c {MUCH} /dev/zero | tr '\\0' t; exit 4");
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &LIMITS).await;
            shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
            shim.tasks
                .create(&faulty.create_request(&shim, "c"))
                .await
                .unwrap();
            shim.start_process("c", "").await.unwrap();
            faulty.set("exec", "until-end");

            let pipes = shim.fifos("pipes", false);
            let terminal = shim.fifos("terminal", false);
            let (a, b, [out, err], shown, ()) = tokio::join!(
                exec(&shim, "pipes", &writes, &pipes),
                on_terminal(&shim, "terminal", &writes, &terminal),
                came(&pipes),
                async {
                    collect(&terminal.stdout)
                        .unwrap()
                        .finish(LIMIT)
                        .await
                        .unwrap()
                },
                good_works(&shim),
            );
            a.unwrap();
            b.unwrap();
            is(&out, b't', MUCH, "");
            is(&err, b't', 0, "");
            is(&shown, b't', MUCH, "");
            for id in ["pipes", "terminal"] {
                assert_eq!(shim.wait("c", id).await.unwrap().exit_status, 4, "{id}");
                shim.delete("c", id).await.unwrap();
            }
            shim.remove("c").await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// One that prints much and fails ends with its words, not at the limit; of one that fails with a few words
/// nothing is written to the container's streams, as by other shims.
#[test]
fn a_runtime_that_prints_and_fails() {
    for runtime in RUNTIMES {
        run(async {
            let (mut shim, faulty) = world(runtime, &LIMITS).await;
            shim.bundle("c", Spec::new("c", ["sleep", "1000"]));
            for much in [MUCH, 4000] {
                let before = census(&shim);
                faulty.set("create", &format!("prints-fails={much}"));
                let fifos = shim.fifos(&format!("failed-{much}"), false);
                let request = create_request(&shim, &faulty, &fifos);
                let (created, streams, ()) =
                    tokio::join!(shim.tasks.create(&request), came(&fifos), good_works(&shim),);
                let error = created.unwrap_err();
                says(
                    &error,
                    Code::Unknown,
                    &["OCI runtime create failed: it broke on purpose"],
                );
                for stream in streams {
                    // What is in the pipes at its end is lost.
                    let some = if much == MUCH {
                        MUCH - (64 << 10)..=MUCH
                    } else {
                        0..=0
                    };
                    assert!(some.contains(&stream.len()), "{}", stream.len());
                }
                nothing_new(&shim, &before, "a failed create").await;
            }

            // What was typed is for the program that comes to run.
            faulty.clear("create");
            shim.tasks
                .create(&faulty.create_request(&shim, "c"))
                .await
                .unwrap();
            shim.start_process("c", "").await.unwrap();
            faulty.set("exec", &format!("prints-fails={MUCH}"));
            let fifos = shim.fifos("x", true);
            let stdin = typed(&fifos, "typed\n");
            let script = "read a; echo $a; exit 5";
            let (started, _) = tokio::join!(exec(&shim, "x", script, &fifos), came(&fifos));
            started.unwrap_err();
            faulty.clear("exec");
            let (started, [out, err]) = tokio::join!(shim.start_process("c", "x"), came(&fifos));
            started.unwrap();
            drop(stdin);
            assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 5);
            is(&out, b'o', 0, "typed\n");
            is(&err, b'e', 0, "");
            shim.delete("c", "x").await.unwrap();
            shim.remove("c").await;
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}
