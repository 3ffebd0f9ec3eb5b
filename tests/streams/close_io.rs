//! CloseIO: the process gets the end of its input once the client's end and the shim's are closed,
//! whichever comes first.

use cotter::error::Code;

use crate::client::{Reader, Writer, create_and_begin, inits};
use crate::common::shim::{RUNTIMES, Shim, run};

/// A shim whose init is `cat`, or sleeps and runs `cat` as an exec; with `cat`'s output.
async fn cat(runtime: &str, exec: &str) -> (Shim, String, Reader) {
    let args = inits(exec, &["cat"]);
    let shim = Shim::start(runtime, "c", args).await;
    let fifos = shim.fifos("f", true);
    let out = Reader::open(&fifos.stdout);
    create_and_begin(&shim, exec, &["cat"], &fifos).await;
    (shim, fifos.stdin, out)
}

/// The rest of the output and the exit of `cat`, which has had the end of its input.
async fn ends(shim: Shim, exec: &str, out: Reader) {
    assert_eq!(out.text().await, "");
    assert_eq!(shim.wait("c", exec).await.unwrap().exit_status, 0);
    // After the exit there is nothing to close, and that is no error.
    for stdin in [true, false] {
        shim.close_io("c", exec, stdin).await.unwrap();
    }
    shim.remove("c").await;
    shim.end().await;
}

fn everywhere<F: Future<Output = ()>>(test: impl Fn(&'static str, &'static str) -> F) {
    for runtime in RUNTIMES {
        for exec in ["", "x"] {
            run(test(runtime, exec));
        }
    }
}

#[test]
fn the_client_closes_first() {
    everywhere(async |runtime, exec| {
        let (shim, stdin, mut out) = cat(runtime, exec).await;
        for word in ["one\n", "two\n", "three\n"] {
            // Each time a new client: had the last one's close been the end, nobody would answer.
            Writer::open(&stdin).write(word.as_bytes()).await;
            out.expect(word).await;
            // Not asked to close stdin: nothing happens.
            shim.close_io("c", exec, false).await.unwrap();
        }
        shim.close_io("c", exec, true).await.unwrap();
        ends(shim, exec, out).await;
    });
}

#[test]
fn the_shim_closes_first() {
    everywhere(async |runtime, exec| {
        let (shim, stdin, mut out) = cat(runtime, exec).await;
        let mut writer = Writer::open(&stdin);
        writer.write(b"one\n").await;
        out.expect("one\n").await;
        for word in ["two\n", "three\n"] {
            // Again and again: the client still has its end.
            shim.close_io("c", exec, true).await.unwrap();
            writer.write(word.as_bytes()).await;
            out.expect(word).await;
        }
        drop(writer);
        ends(shim, exec, out).await;
    });
}

#[test]
fn what_was_written_before_the_close_comes_first() {
    everywhere(async |runtime, exec| {
        let (shim, stdin, mut out) = cat(runtime, exec).await;
        // All within the FIFO when both ends close.
        let sent = "0123456789abcde\n".repeat(4000);
        let mut writer = Writer::open(&stdin);
        writer.write(sent.as_bytes()).await;
        drop(writer);
        shim.close_io("c", exec, true).await.unwrap();
        let got = out.exactly(sent.len()).await;
        assert!(got == sent.as_bytes());
        ends(shim, exec, out).await;
    });
}

#[test]
fn without_any_client() {
    everywhere(async |runtime, exec| {
        let (shim, _, out) = cat(runtime, exec).await;
        shim.close_io("c", exec, true).await.unwrap();
        ends(shim, exec, out).await;
    });
}

#[test]
fn before_the_start_of_a_created_init() {
    for runtime in RUNTIMES {
        run(async {
            let shim = Shim::start(runtime, "c", &["cat"]).await;
            let fifos = shim.fifos("f", true);
            let out = Reader::open(&fifos.stdout);
            shim.create_with("c", &fifos).await.unwrap();
            Writer::open(&fifos.stdin).write(b"early\n").await;
            shim.close_io("c", "", true).await.unwrap();
            shim.start_process("c", "").await.unwrap();
            assert_eq!(out.text().await, "early\n");
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 0);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

#[test]
fn of_what_has_no_stdin_or_does_not_exist() {
    for runtime in RUNTIMES {
        run(async {
            let shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            shim.close_io("c", "", true).await.unwrap();
            shim.exec("c", "x", &["sleep", "1000"]).await.unwrap();
            shim.close_io("c", "x", true).await.unwrap();
            for stdin in [true, false] {
                let unknown = shim.close_io("c", "nope", stdin).await.unwrap_err();
                assert_eq!(unknown.code, Code::NotFound, "{unknown}");
                assert!(
                    unknown.to_string().contains("process does not exist nope"),
                    "{unknown}"
                );
                let unknown = shim.close_io("nope", "", stdin).await.unwrap_err();
                assert_eq!(unknown.code, Code::NotFound, "{unknown}");
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// A process that closes its input, or ends, leaves the client with a broken pipe and nobody stuck.
#[test]
fn a_process_that_does_not_read() {
    everywhere(async |runtime, exec| {
        let args = inits(exec, &["true"]);
        let shim = Shim::start(runtime, "c", args).await;
        let fifos = shim.fifos("f", true);
        if exec.is_empty() {
            shim.create_with("c", &fifos).await.unwrap();
        } else {
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            shim.exec_with("c", exec, &["true"], &fifos).await.unwrap();
        }
        let writer = Writer::open(&fifos.stdin);
        if exec.is_empty() {
            shim.start_process("c", "").await.unwrap();
        }
        shim.wait("c", exec).await.unwrap();
        writer.until_broken().await;
        shim.delete("c", exec).await.unwrap();
        if !exec.is_empty() {
            shim.remove("c").await;
        }
        shim.end().await;
    });
}
