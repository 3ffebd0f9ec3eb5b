//! The end of a terminal's input hangs it up; a client that only goes away does not.

use crate::client::{QUIET, Tty, everywhere};

/// A shell that goes on after the end of its input, and says so when it is hung up.
///
/// Its sleeps are short: reads fail a moment before the kernel sends the signal, so that a
/// sleep may begin between the two, is not hung up itself, and delays the shell's trap to its
/// end (2 of 10,000 hang-ups on a loaded machine, without any shim).
const SHELL: &str = "trap 'exit 77' HUP; echo ready; while :; do read x || sleep 1; done";

#[test]
fn a_client_that_detaches_changes_nothing() {
    everywhere(async |runtime, exec| {
        let mut tty = Tty::start(
            runtime,
            exec,
            "stty -echo; echo ready; while read x; do echo got $x; done; exit 4",
        )
        .await;
        tty.screen.expect("ready\r\n").await;
        for word in ["one", "two"] {
            tty.keyboard().write(format!("{word}\n").as_bytes()).await;
            tty.screen.expect(&format!("got {word}\r\n")).await;
            // Of another stream than stdin: nothing happens.
            tty.shim.close_io("c", exec, false).await.unwrap();
        }
        tokio::time::sleep(QUIET).await;
        tty.keyboard().write(b"three\n\x04").await;
        assert_eq!(tty.finish().await, ("got three\r\n".into(), 4));
    });
}

#[test]
fn the_end_hangs_up() {
    everywhere(async |runtime, exec| {
        for client_first in [true, false] {
            let mut tty = Tty::start(runtime, exec, SHELL).await;
            tty.screen.expect("ready\r\n").await;
            let keys = tty.keyboard();
            if client_first {
                drop(keys);
                tty.close_stdin().await;
            } else {
                tty.close_stdin().await;
                tokio::time::sleep(QUIET).await;
                drop(keys);
            }
            assert_eq!(tty.status().await, 77, "{client_first}");
            tty.close_stdin().await;
            assert_eq!(tty.finish().await, (String::new(), 77));
        }
    });
}

#[test]
fn the_last_line_typed_is_acted_on() {
    everywhere(async |runtime, exec| {
        let mut tty = Tty::start(
            runtime,
            exec,
            "stty -echo; echo ready; read x; echo got $x; exit 5",
        )
        .await;
        tty.screen.expect("ready\r\n").await;
        let mut keys = tty.keyboard();
        keys.write(b"last\n").await;
        drop(keys);
        tty.close_stdin().await;
        assert_eq!(tty.finish().await, ("got last\r\n".into(), 5));
    });
}

/// The screen is full and nobody looks: that must not keep an abandoned program alive.
#[test]
fn it_hangs_up_also_when_nobody_reads() {
    everywhere(async |runtime, exec| {
        let tty = Tty::start(runtime, exec, "trap 'exit 77' HUP; yes & wait").await;
        tokio::time::sleep(QUIET).await;
        tty.close_stdin().await;
        assert_eq!(tty.status().await, 77);
        let (text, _) = tty.finish().await;
        assert!(text.starts_with("y\r\ny\r\n"));
    });
}

/// A program that ignores the hang-up goes on, without a terminal.
#[test]
fn a_hang_up_can_be_survived() {
    everywhere(async |runtime, exec| {
        let script = "trap '' HUP; echo ready; read x; until test -e /run/go; do echo lost; done 2>/dev/null; exit 6";
        let mut tty = Tty::start(runtime, exec, script).await;
        tty.screen.expect("ready\r\n").await;
        tty.close_stdin().await;
        assert_eq!(
            tty.screen.some(1).await,
            b"",
            "the screen ends with the terminal"
        );
        tty.resize(80, 25).await.unwrap();
        tty.shim
            .exec("c", "go", &["touch", "/run/go"])
            .await
            .unwrap();
        tty.shim.wait("c", "go").await.unwrap();
        tty.shim.delete("c", "go").await.unwrap();
        assert_eq!(tty.finish().await, (String::new(), 6));
    });
}
