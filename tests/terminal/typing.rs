//! What is typed reaches the program, as a terminal passes it on.

use sha2::{Digest, Sha256};

use crate::client::{Tty, everywhere};

#[test]
fn keys_are_echoed_edited_and_are_signals() {
    everywhere(async |runtime, exec| {
        let script = "trap 'echo interrupted' INT; echo ready; until read x && test \"$x\" = end; do echo \"<$x>\"; done; exit 9";
        let mut tty = Tty::start(runtime, exec, script).await;
        tty.screen.expect("ready\r\n").await;
        let mut keys = tty.keyboard();
        keys.write(b"abX\x7fc\n").await;
        tty.screen.expect("abX\x08 \x08c\r\n<abc>\r\n").await;
        keys.write(b"\x03").await;
        tty.screen.expect("^C").await;
        let mut shown = String::new();
        while !shown.contains("interrupted\r\n") {
            shown += &String::from_utf8(tty.screen.some(64).await).unwrap();
        }
        keys.write(b"end\n").await;
        let (_, status) = tty.finish().await;
        assert_eq!(status, 9);
    });
}

#[test]
fn what_is_typed_before_the_start_is_read_after_it() {
    everywhere(async |runtime, exec| {
        let mut tty = Tty::prepare(runtime, exec, "read x; echo got $x").await;
        if exec.is_empty() {
            tty.keyboard().write(b"early\n").await;
            tty.shim.start_process("c", exec).await.unwrap();
        } else {
            // Until then nobody has the FIFO open.
            tty.shim.start_process("c", exec).await.unwrap();
            tty.keyboard().write(b"early\n").await;
        }
        tty.screen.expect("early\r\ngot early\r\n").await;
        assert_eq!(tty.finish().await, (String::new(), 0));
    });
}

/// Much more than a terminal holds; it is a pipe for bytes when its modes say so.
#[test]
fn bulk_is_byte_exact() {
    const BULK: usize = 8 << 20;
    everywhere(async |runtime, exec| {
        let script = format!("stty raw -echo; echo ready; head -c {BULK} | sha256sum");
        let mut tty = Tty::start(runtime, exec, &script).await;
        tty.screen.expect("ready\n").await;
        let mut keys = tty.keyboard();
        let (mut hash, mut state) = (Sha256::new(), 0x9e37_79b9_7f4a_7c15_u64);
        for _ in 0..BULK / 4096 {
            let mut chunk = Vec::with_capacity(4096);
            while chunk.len() < 4096 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                chunk.extend_from_slice(&state.to_ne_bytes());
            }
            hash.update(&chunk);
            keys.write(&chunk).await;
        }
        let expected = format!("{}  -\n", crate::client::hex(hash));
        assert_eq!(tty.finish().await, (expected, 0));
    });
}

/// A full terminal stops its client, not the shim, and goes on when the program reads again.
#[test]
fn a_program_that_does_not_read_for_a_while() {
    everywhere(async |runtime, exec| {
        let script =
            "stty raw -echo; mkfifo /run/go; echo ready; read n </run/go; head -c $n | wc -c";
        let mut tty = Tty::start(runtime, exec, script).await;
        tty.screen.expect("ready\n").await;
        let mut keys = tty.keyboard();
        let typed = keys.until_full().await;
        // The FIFO's 64 KiB and what the terminal takes.
        assert!(typed > 65536, "{typed}");
        let all = typed + 100_000;
        let go = format!("echo {all} >/run/go");
        tty.shim.exec("c", "go", &["sh", "-c", &go]).await.unwrap();
        tty.shim.wait("c", "go").await.unwrap();
        tty.shim.delete("c", "go").await.unwrap();
        keys.write(&[b'.'; 100_000]).await;
        assert_eq!(tty.finish().await, (format!("{all}\n"), 0));
    });
}

/// A program that has exited leaves a client that types with a broken pipe.
#[test]
fn nobody_reads_any_more() {
    everywhere(async |runtime, exec| {
        let tty = Tty::start(runtime, exec, "read x").await;
        let mut keys = tty.keyboard();
        keys.write(b"\n").await;
        assert_eq!(tty.status().await, 0);
        keys.until_broken().await;
        assert_eq!(tty.finish().await, ("\r\n".into(), 0));
    });
}
