//! ResizePty: before the start, while it runs, and after the end.

use cotter::error::Code;

use crate::client::{Tty, everywhere, resize};
use crate::common::shim::{RUNTIMES, Shim, run};

#[test]
fn the_size_is_what_was_asked_for_last() {
    everywhere(async |runtime, exec| {
        // A runtime may start an exec's program before its terminal has its size (crun 1.8 does):
        // the first size is asked for when Start has answered. The signal is told once; from then on
        // the size is shown when a line comes.
        let script = "stty -echo; echo ready; read x; stty size; trap 'echo changed' WINCH; echo set; \
             while :; do read x && { trap '' WINCH; stty size; }; done";
        let mut tty = Tty::prepare(runtime, exec, script).await;
        tty.resize(11, 12).await.unwrap();
        tty.resize(132, 43).await.unwrap();
        tty.shim.start_process("c", exec).await.unwrap();
        tty.screen.expect("ready\r\n").await;
        let mut keys = tty.keyboard();
        keys.write(b"\n").await;
        tty.screen.expect("43 132\r\nset\r\n").await;
        tty.resize(80, 25).await.unwrap();
        tty.screen.expect("changed\r\n").await;
        keys.write(b"\n").await;
        tty.screen.expect("25 80\r\n").await;
        tty.resize(u16::MAX.into(), u16::MAX.into()).await.unwrap();
        tty.resize(1000, 7).await.unwrap();
        keys.write(b"\n").await;
        tty.screen.expect("7 1000\r\n").await;
        for (width, height) in [(65536, 1), (1, 65536), (u32::MAX, u32::MAX)] {
            let error = tty.resize(width, height).await.unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{error}");
            assert!(
                error.message.contains(&format!("{width}x{height}")),
                "{error}"
            );
        }
        keys.write(b"\n").await;
        tty.screen.expect("7 1000\r\n").await;

        tty.shim.kill("c", exec, 9).await.unwrap();
        assert_eq!(tty.status().await, 137);
        let after = tty.resize(80, 25).await;
        if exec.is_empty() {
            after.unwrap();
        } else {
            let error = after.unwrap_err();
            assert_eq!(
                (error.code, error.message.as_str()),
                (Code::Unknown, "cannot resize a stopped container")
            );
        }
        assert_eq!(tty.finish().await, (String::new(), 137));
    });
}

#[test]
fn without_a_terminal_and_of_nobody() {
    for runtime in RUNTIMES {
        run(async {
            let shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            let unknown = resize(&shim, "", 1, 1).await.unwrap_err();
            assert_eq!(unknown.code, Code::NotFound, "{unknown}");
            shim.create("c").await.unwrap();
            resize(&shim, "", 80, 25).await.unwrap();
            shim.start_process("c", "").await.unwrap();
            shim.exec("c", "x", &["sleep", "1000"]).await.unwrap();
            for exec in ["", "x"] {
                resize(&shim, exec, 80, 25).await.unwrap();
                assert_eq!(
                    resize(&shim, exec, 80, 1 << 16).await.unwrap_err().code,
                    Code::InvalidArgument
                );
            }
            let unknown = resize(&shim, "y", 1, 1).await.unwrap_err();
            assert_eq!(unknown.message, "process does not exist y: not found");
            shim.remove("c").await;
            shim.end().await;
        });
    }
}
