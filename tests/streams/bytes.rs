//! Whole, in order, each stream its own.

use sha2::{Digest, Sha256};

use crate::client::{BULK, Noise, RANDOM, Reader, Writer, create_and_begin, inits};
use crate::common::shim::{RUNTIMES, Shim, run};

/// Standard output of an init or an exec, hashed on both sides.
async fn bulk_out(runtime: &str, exec: &str) {
    let script = ["sh", "-c", RANDOM];
    let args = inits(exec, &script);
    let shim = Shim::start(runtime, "c", args).await;
    let fifos = shim.fifos("f", false);
    let (out, err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
    create_and_begin(&shim, exec, &script, &fifos).await;
    let ((len, hash), said) = tokio::join!(out.digest(), err.text());
    assert_eq!(len, BULK);
    assert_eq!(said, format!("{hash}  -\n"));
    assert_eq!(shim.wait("c", exec).await.unwrap().exit_status, 0);
    shim.remove("c").await;
    shim.end().await;
}

#[test]
fn an_inits_64_mib() {
    RUNTIMES
        .iter()
        .for_each(|runtime| run(bulk_out(runtime, "")));
}

#[test]
fn an_execs_64_mib() {
    RUNTIMES
        .iter()
        .for_each(|runtime| run(bulk_out(runtime, "x")));
}

#[test]
fn there_and_back_64_mib() {
    for (runtime, exec) in RUNTIMES.into_iter().zip(["", "x"]) {
        run(async {
            let args = inits(exec, &["cat"]);
            let shim = Shim::start(runtime, "c", args).await;
            let fifos = shim.fifos("f", true);
            let (out, err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
            create_and_begin(&shim, exec, &["cat"], &fifos).await;
            let write = async {
                let (mut noise, mut hash) = (Noise::new(), Sha256::new());
                let mut writer = Writer::open(&fifos.stdin);
                for _ in 0..BULK >> 16 {
                    let chunk = noise.chunk();
                    hash.update(&chunk);
                    writer.write(&chunk).await;
                }
                drop(writer);
                shim.close_io("c", exec, true).await.unwrap();
                hash.finalize()
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect::<String>()
            };
            let (sent, (len, received), said) = tokio::join!(write, out.digest(), err.text());
            assert_eq!(len, BULK);
            assert_eq!(received, sent);
            assert_eq!(said, "");
            assert_eq!(shim.wait("c", exec).await.unwrap().exit_status, 0);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

#[test]
fn a_reader_that_takes_little_at_a_time() {
    for runtime in RUNTIMES {
        run(async {
            let script = "seq 1 150000; seq 1 10000 >&2";
            let shim = Shim::start(runtime, "c", &["sh", "-c", script]).await;
            let fifos = shim.fifos("f", false);
            shim.create_with("c", &fifos).await.unwrap();
            let (mut out, err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
            shim.start_process("c", "").await.unwrap();
            let mut got = Vec::new();
            for sip in (1..1500).cycle() {
                let more = out.some(sip).await;
                if more.is_empty() {
                    break;
                }
                got.extend(more);
            }
            let lines = |to: u32| (1..=to).map(|n| format!("{n}\n")).collect::<String>();
            assert!(
                got == lines(150_000).as_bytes(),
                "{} bytes differ from what was written",
                got.len()
            );
            assert_eq!(err.text().await, lines(10_000));
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 0);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// Standard error flows while standard output is stuck, and neither gets what is the other's.
#[test]
fn each_stream_flows_alone() {
    for runtime in RUNTIMES {
        run(async {
            let script = "yes o | head -c 1000000 & yes e | head -c 1000000 >&2 & wait";
            let shim = Shim::start(runtime, "c", &["sh", "-c", script]).await;
            let fifos = shim.fifos("f", false);
            shim.create_with("c", &fifos).await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let mut readers = Vec::new();
            for (path, line) in [(&fifos.stderr, "e\n"), (&fifos.stdout, "o\n")] {
                readers.push(Reader::open(path));
                let got = readers.last_mut().unwrap().exactly(1_000_000).await;
                assert!(got == line.repeat(500_000).as_bytes(), "{path}");
            }
            for reader in readers {
                assert_eq!(reader.text().await, "");
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// One FIFO for both outputs: every line arrives, unbroken.
#[test]
fn one_fifo_for_both_outputs() {
    for runtime in RUNTIMES {
        run(async {
            let shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let mut fifos = shim.fifos("f", false);
            fifos.stderr.clone_from(&fifos.stdout);
            let out = Reader::open(&fifos.stdout);
            let script = "for n in $(seq 1 300); do echo o$n; echo e$n >&2; done";
            shim.exec_with("c", "x", &["sh", "-c", script], &fifos)
                .await
                .unwrap();
            let text = out.text().await;
            for letter in ["o", "e"] {
                let got: Vec<&str> = text
                    .lines()
                    .filter(|line| line.starts_with(letter))
                    .collect();
                let sent: Vec<String> = (1..=300).map(|n| format!("{letter}{n}")).collect();
                assert_eq!(got, sent);
            }
            assert_eq!(text.lines().count(), 600);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}
