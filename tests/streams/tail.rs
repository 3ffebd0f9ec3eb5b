//! The end of a stream: what was written last arrives, and waiting for it delays nobody else.

use std::time::{Duration, Instant};

use cotter::manager::dialect::Dialect;
use cotter::manager::events::Event;
use cotter::manager::spec::Spec;

use tokio::time::sleep;

use crate::client::{Reader, begin};
use crate::common::LIMIT;
use crate::common::shim::{RUNTIMES, Shim, run};

/// A shim whose container `c` sleeps.
async fn sleeper(runtime: &str, environment: &[(&str, &str)]) -> Shim {
    let spec = Spec::new("c", ["sleep", "1000"]);
    let shim = Shim::start_with(Dialect::Proto23, runtime, spec, "c", environment).await;
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    shim
}

fn lines(to: u32) -> String {
    (1..=to).map(|n| format!("{n}\n")).collect()
}

/// More than the FIFO holds, less than FIFO and pipe hold together: the process ends unread.
const UNREAD: u32 = 18_000;

/// Without it, all of that would soon be in the FIFO, and so delivered.
const UNBUFFERED: [(&str, &str); 1] = [("COTTER_STDOUT_BUFFER", "0")];

#[test]
fn an_exit_before_anything_is_read() {
    for runtime in RUNTIMES {
        run(async {
            let script = format!("seq 1 {UNREAD}; echo end >&2");
            let script = ["sh", "-c", &script];
            let mut shim = sleeper(runtime, &[]).await;
            shim.bundle("d", Spec::new("d", script));
            for (id, exec) in [("c", "x"), ("d", "")] {
                let fifos = shim.fifos(id, false);
                begin(&shim, id, exec, &script, &fifos).await;
                assert_eq!(shim.wait(id, exec).await.unwrap().exit_status, 0);
                // Opened after the exit: all of it, and then the end, without a Delete.
                let (out, err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
                let (out, err) = tokio::join!(out.text(), err.text());
                assert_eq!((out, err.as_str()), (lines(UNREAD), "end\n"));
                shim.delete(id, exec).await.unwrap();
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

#[test]
fn a_delete_at_once_waits_for_a_reader_that_has_not_begun() {
    for runtime in RUNTIMES {
        run(async {
            let script = format!("seq 1 {UNREAD}; echo end >&2");
            let script = ["sh", "-c", &script];
            let mut shim = sleeper(runtime, &UNBUFFERED).await;
            shim.bundle("d", Spec::new("d", script));
            for (id, exec) in [("c", "x"), ("d", "")] {
                let fifos = shim.fifos(id, false);
                let (out, err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
                begin(&shim, id, exec, &script, &fifos).await;
                shim.wait(id, exec).await.unwrap();
                let delete = shim.delete(id, exec);
                tokio::pin!(delete);
                // The Delete is on its way, and the shim has heard it when it answers the State
                // that was asked behind it.
                tokio::select! {
                    biased;
                    deleted = &mut delete => panic!("{deleted:?} with output unread"),
                    state = shim.state("c", "") => assert!(state.unwrap().pid > 0),
                }
                let (deleted, out, err) = tokio::join!(delete, out.text(), err.text());
                assert_eq!(deleted.unwrap().exit_status, 0);
                assert_eq!((out, err.as_str()), (lines(UNREAD), "end\n"));
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// Short outputs of many execs, each deleted as soon as it has ended: no tail is cut off.
#[test]
fn wait_and_delete_at_once() {
    for runtime in RUNTIMES {
        run(async {
            let shim = sleeper(runtime, &[]).await;
            for n in 0..10 {
                let (exec, fifos) = (format!("x{n}"), shim.fifos(&format!("x{n}"), false));
                let (out, err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
                let args = ["sh", "-c", "seq 1 3000; seq 1 200 >&2"];
                shim.exec_with("c", &exec, &args, &fifos).await.unwrap();
                let gone = async {
                    shim.wait("c", &exec).await.unwrap();
                    shim.delete("c", &exec).await.unwrap();
                };
                let (out, err, ()) = tokio::join!(out.text(), err.text(), gone);
                assert_eq!((out, err), (lines(3000), lines(200)));
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

const LEAVES_A_CHILD: [&str; 3] = ["sh", "-c", "sleep 1000 & echo $! >&2; echo hi; exit 3"];

#[test]
fn a_child_that_keeps_stdout_delays_only_the_delete() {
    for runtime in RUNTIMES {
        run(async {
            // As if without limit: the Delete ends because the child does.
            let mut shim = sleeper(runtime, &[("COTTER_LIMIT_IO_DRAIN", "10m")]).await;
            let fifos = shim.fifos("x", false);
            let (mut out, mut err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
            shim.exec_with("c", "x", &LEAVES_A_CHILD, &fifos)
                .await
                .unwrap();
            assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 3);
            let exit = |event: &Event| matches!(event, Event::Exit(exit) if exit.id == "x");
            shim.events_until(exit).await;
            out.expect("hi\n").await;
            let child = String::from_utf8(err.some(100).await).unwrap();

            let tasks = shim.tasks.within(LIMIT);
            let request = cotter::proto::task::DeleteRequest {
                id: "c".into(),
                exec_id: "x".into(),
                ..Default::default()
            };
            let delete = tokio::spawn(async move { tasks.delete(&request).await });
            for n in 0..20 {
                assert_eq!(shim.state("c", "x").await.unwrap().exit_status, 3);
                assert!(shim.state("c", "").await.unwrap().pid > 0);
                assert!(shim.kill("c", "", 0).await.is_ok());
                assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 3);
                if n % 10 == 0 {
                    let other = format!("y{n}");
                    shim.exec("c", &other, &["true"]).await.unwrap();
                    shim.wait("c", &other).await.unwrap();
                    shim.delete("c", &other).await.unwrap();
                }
            }
            assert!(!delete.is_finished());
            shim.exec("c", "killer", &["kill", "-9", child.trim()])
                .await
                .unwrap();
            assert_eq!(delete.await.unwrap().unwrap().exit_status, 3);
            assert_eq!(
                (out.text().await, err.text().await),
                (String::new(), String::new())
            );
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

#[test]
fn a_child_that_keeps_stdout_delays_the_delete_within_its_limit() {
    for runtime in RUNTIMES {
        run(async {
            let shim = sleeper(runtime, &[("COTTER_LIMIT_IO_DRAIN", "300ms")]).await;
            let fifos = shim.fifos("x", false);
            let (out, mut err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
            shim.exec_with("c", "x", &LEAVES_A_CHILD, &fifos)
                .await
                .unwrap();
            shim.wait("c", "x").await.unwrap();
            let child = String::from_utf8(err.some(100).await).unwrap();
            let begun = Instant::now();
            shim.delete("c", "x").await.unwrap();
            let took = begun.elapsed();
            // The default is 10 s.
            assert!(
                (Duration::from_millis(250)..Duration::from_secs(8)).contains(&took),
                "{took:?}"
            );
            // What was written has arrived; the child is none the worse.
            assert_eq!(out.text().await, "hi\n");
            shim.exec("c", "look", &["kill", "-0", child.trim()])
                .await
                .unwrap();
            assert_eq!(shim.wait("c", "look").await.unwrap().exit_status, 0);
            let log = shim.log().concat();
            assert!(log.contains("is closed before its end"), "{log}");
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// Output that nobody will ever read does not hold a Delete up for long.
#[test]
fn a_delete_does_not_wait_for_a_reader_who_never_comes() {
    for runtime in RUNTIMES {
        run(async {
            let shim = sleeper(runtime, &[("COTTER_LIMIT_IO_DRAIN", "10m")]).await;
            let fifos = shim.fifos("x", false);
            shim.exec_with("c", "x", &["echo", "unheard"], &fifos)
                .await
                .unwrap();
            shim.wait("c", "x").await.unwrap();
            // Within the client's limit, which is far below that of the drain.
            shim.delete("c", "x").await.unwrap();
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// A container that is deleted with an exec nobody has deleted: the exec's tail arrives too.
#[test]
fn the_containers_delete_waits_for_the_readers_of_its_execs() {
    for runtime in RUNTIMES {
        run(async {
            let shim = sleeper(runtime, &UNBUFFERED).await;
            let fifos = shim.fifos("x", false);
            let out = Reader::open(&fifos.stdout);
            let script = format!("seq 1 {UNREAD}");
            shim.exec_with("c", "x", &["sh", "-c", &script], &fifos)
                .await
                .unwrap();
            shim.wait("c", "x").await.unwrap();
            {
                let removed = shim.remove("c");
                tokio::pin!(removed);
                // No verdict rests on this time: the Delete cannot end before somebody reads.
                tokio::select! {
                    removed = &mut removed => panic!("{removed:?} with output unread"),
                    () = sleep(Duration::from_millis(500)) => {}
                }
                let (removed, out) = tokio::join!(removed, out.text());
                assert_eq!(removed.exit_status, 137);
                assert!(out == lines(UNREAD), "{} bytes arrived", out.len());
            }
            shim.end().await;
        });
    }
}
