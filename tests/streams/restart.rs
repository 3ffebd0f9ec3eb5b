//! Clients that die and come again, with the connection or without: the process lives, and what
//! nobody had taken is there for the next.

use cotter::manager::client::Tasks;
use cotter::proto::task::Status;

use crate::client::{Reader, Writer, create_and_begin, inits};
use crate::common::shim::{RUNTIMES, Shim, run};

fn lines(to: u32) -> String {
    (1..=to).map(|n| format!("{n}\n")).collect()
}

#[test]
fn readers_come_and_go() {
    for (runtime, exec) in RUNTIMES
        .into_iter()
        .flat_map(|runtime| [(runtime, ""), (runtime, "x")])
    {
        run(async {
            let script = ["sh", "-c", "seq 1 200000; seq 1 1000 >&2"];
            let args = inits(exec, &script);
            let mut shim = Shim::start(runtime, "c", args).await;
            let fifos = shim.fifos("f", false);
            create_and_begin(&shim, exec, &script, &fifos).await;
            let mut got = Vec::new();
            for taken in [10, 100_000, 65_536, 1, 333_333] {
                got.extend(Reader::open(&fifos.stdout).exactly(taken).await);
                // Nobody has it open now; the process writes on until everything is full.
                assert_eq!(
                    shim.state("c", exec).await.unwrap().status,
                    Status::RUNNING.into()
                );
                // A new manager, with a connection of its own.
                shim.tasks = Tasks::connect(&shim.endpoint).await.unwrap();
            }
            let (out, err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
            let (rest, err) = tokio::join!(out.rest(), err.text());
            got.extend(rest);
            assert!(
                got == lines(200_000).as_bytes(),
                "{} bytes are not what was written",
                got.len()
            );
            assert_eq!(err, lines(1000));
            assert_eq!(shim.wait("c", exec).await.unwrap().exit_status, 0);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

#[test]
fn writers_come_and_go() {
    for (runtime, exec) in RUNTIMES
        .into_iter()
        .flat_map(|runtime| [(runtime, ""), (runtime, "x")])
    {
        run(async {
            let args = inits(exec, &["cat"]);
            let mut shim = Shim::start(runtime, "c", args).await;
            let fifos = shim.fifos("f", true);
            let out = Reader::open(&fifos.stdout);
            create_and_begin(&shim, exec, &["cat"], &fifos).await;
            let mut expected = String::new();
            for n in 0..10 {
                let word = format!("{n} ").repeat(2000);
                Writer::open(&fifos.stdin).write(word.as_bytes()).await;
                shim.tasks = Tasks::connect(&shim.endpoint).await.unwrap();
                expected.push_str(&word);
            }
            shim.close_io("c", exec, true).await.unwrap();
            assert!(out.text().await == expected);
            assert_eq!(shim.wait("c", exec).await.unwrap().exit_status, 0);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}
