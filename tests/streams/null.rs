//! Streams that are not asked for are `/dev/null`, for reading and writing; any subset may be.

use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;

use crate::client::{Reader, Writer, begin, only};
use crate::common::shim::{RUNTIMES, Shim, run};

/// Fails unless each of the three can be written to and read from, and is empty.
const BOTH_WAYS: [&str; 3] = [
    "sh",
    "-c",
    "set -e; for fd in 0 1 2; do \
        eval \"echo x >&$fd\"; \
        eval \"cat <&$fd\"; \
        test \"$(stat -Lc %t:%T /proc/$$/fd/$fd)\" = 1:3; \
    done; exit 42",
];

#[test]
fn null_is_read_and_written() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            shim.exec("c", "x", &BOTH_WAYS).await.unwrap();
            assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 42, "exec");
            shim.run("d", &BOTH_WAYS).await;
            assert_eq!(shim.wait("d", "").await.unwrap().exit_status, 42, "init");
            shim.remove("d").await;
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

const SUBSETS: [&str; 8] = ["", "i", "o", "io", "e", "ie", "oe", "ioe"];
const ANSWERS: [&str; 3] = ["sh", "-c", "x=$(cat); echo \"out:$x\"; echo \"err:$x\" >&2"];

/// Plays the client of [`ANSWERS`] with the streams it has.
async fn client(shim: &Shim, id: &str, exec: &str, which: &str, fifos: &Fifos) {
    let reader = |letter, path: &str| which.contains(letter).then(|| Reader::open(path));
    let (out, err) = (reader('o', &fifos.stdout), reader('e', &fifos.stderr));
    let given = only(which, fifos);
    begin(shim, id, exec, &ANSWERS, &given).await;
    let mut said = "";
    if which.contains('i') {
        said = "words";
        Writer::open(&fifos.stdin).write(said.as_bytes()).await;
        shim.close_io(id, exec, true).await.unwrap();
    }
    for (name, reader) in [("out", out), ("err", err)] {
        if let Some(reader) = reader {
            assert_eq!(
                reader.text().await,
                format!("{name}:{said}\n"),
                "with {which:?}"
            );
        }
    }
    assert_eq!(
        shim.wait(id, exec).await.unwrap().exit_status,
        0,
        "with {which:?}"
    );
    shim.delete(id, exec).await.unwrap();
}

#[test]
fn any_subset_of_streams() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            for which in SUBSETS {
                let id = format!("d{which}");
                shim.bundle(&id, Spec::new(&id, ANSWERS));
                let fifos = shim.fifos(&format!("init-{which}"), true);
                client(&shim, &id, "", which, &fifos).await;
                let fifos = shim.fifos(&format!("exec-{which}"), true);
                client(&shim, "c", &format!("x{which}"), which, &fifos).await;
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

#[test]
fn fifo_uris_name_the_same_files() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            shim.bundle("d", Spec::new("d", ANSWERS));
            for (id, exec) in [("c", "x"), ("d", "")] {
                let paths = shim.fifos(&format!("a b%{id}"), true);
                let uri =
                    |path: &str| format!("fifo://{}", path.replace('%', "%25").replace(' ', "%20"));
                let uris = Fifos {
                    stdin: uri(&paths.stdin),
                    stdout: uri(&paths.stdout),
                    stderr: uri(&paths.stderr),
                };
                let (out, err) = (Reader::open(&paths.stdout), Reader::open(&paths.stderr));
                begin(&shim, id, exec, &ANSWERS, &uris).await;
                // State tells them as they were given.
                let state = shim.state(id, exec).await.unwrap();
                assert_eq!(
                    [state.stdin, state.stdout, state.stderr],
                    [uris.stdin, uris.stdout, uris.stderr]
                );
                Writer::open(&paths.stdin).write(b"words").await;
                shim.close_io(id, exec, true).await.unwrap();
                assert_eq!(out.text().await, "out:words\n");
                assert_eq!(err.text().await, "err:words\n");
                shim.wait(id, exec).await.unwrap();
            }
            shim.remove("d").await;
            shim.remove("c").await;
            shim.end().await;
        });
    }
}
