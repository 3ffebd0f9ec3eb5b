//! What is written to a terminal arrives whole.

use crate::client::{Keyboard, QUIET, Screen, Tty, create, everywhere, register, terminal_fifos};
use crate::common::eventually;
use crate::common::shim::{RUNTIMES, Shim, run};

#[test]
fn it_is_one_and_the_last_byte_arrives() {
    everywhere(async |runtime, exec| {
        // Nothing between the last write and the exit.
        let tty = Tty::start(
            runtime,
            exec,
            "tty; test -t 0 && test -t 1 && test -t 2 && printf 'last' >&2; exit 7",
        )
        .await;
        let (text, status) = tty.finish().await;
        let (name, rest) = text.split_once("\r\n").unwrap();
        assert!(
            name.starts_with("/dev/pts/") || name == "/dev/console",
            "{name}"
        );
        assert_eq!((rest, status), ("last", 7));
    });
}

#[test]
fn what_is_written_just_before_the_exit_is_never_lost() {
    for runtime in RUNTIMES {
        run(async {
            let shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            for n in 0..30 {
                let name = format!("x{n}");
                let fifos = terminal_fifos(&shim, &name);
                let screen = Screen::open(&fifos.stdout);
                // More than the terminal's reader can be given at once, less than is buffered.
                let script = "head -c 6000 /dev/zero | tr '\\0' x; printf end";
                register(&shim, &name, script, &fifos).await.unwrap();
                shim.start_process("c", &name).await.unwrap();
                let text = screen.text().await;
                assert_eq!(
                    (text.len(), text.ends_with("xend")),
                    (6003, true),
                    "{runtime} {n}"
                );
                assert_eq!(shim.wait("c", &name).await.unwrap().exit_status, 0);
                shim.delete("c", &name).await.unwrap();
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// With the translation of line ends off, bytes are bytes.
#[test]
fn bulk_is_byte_exact() {
    everywhere(async |runtime, exec| {
        let mib = if (runtime, exec) == ("CRUN", "") {
            64
        } else {
            8
        };
        let script = format!(
            "stty raw -echo; dd if=/dev/urandom of=/run/b bs=65536 count={} 2>/dev/null; \
             sha256sum </run/b; cat /run/b; echo end",
            mib * 16
        );
        let mut tty = Tty::start(runtime, exec, &script).await;
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(tty.screen.some(1).await);
        }
        let digest = tty.screen.digest(mib << 20).await;
        assert_eq!(String::from_utf8(line).unwrap(), format!("{digest}  -\n"));
        assert_eq!(tty.finish().await, ("end\n".into(), 0));
    });
}

#[test]
fn line_ends_become_those_of_a_terminal() {
    everywhere(async |runtime, exec| {
        let tty = Tty::start(runtime, exec, "seq 20000").await;
        let (text, status) = tty.finish().await;
        let expected: String = (1..=20000).map(|n| format!("{n}\r\n")).collect();
        assert!(
            text == expected,
            "{} of {} bytes",
            text.len(),
            expected.len()
        );
        assert_eq!(status, 0);
    });
}

/// Nobody reads: the exit is told, and the tail is there for the reader that comes.
#[test]
fn a_reader_that_comes_after_the_exit() {
    everywhere(async |runtime, exec| {
        let mut tty = Tty::prepare(
            runtime,
            exec,
            "stty -onlcr; yes | head -c 60000; printf end",
        )
        .await;
        let path = tty.fifos.stdout.clone();
        // A screen that is not looked at.
        tty.screen = Screen::open(&terminal_fifos(&tty.shim, "unused").stdout);
        tty.shim.start_process("c", exec).await.unwrap();
        assert_eq!(tty.status().await, 0);
        let screen = Screen::open(&path);
        let finish = async {
            if !exec.is_empty() {
                tty.shim.delete("c", exec).await.unwrap();
            }
            tty.shim.remove("c").await;
        };
        let (text, ()) = tokio::join!(screen.text(), finish);
        assert_eq!((text.len(), text.ends_with("y\nend")), (60003, true));
        tty.shim.end().await;
    });
}

/// A manager restarts: its reader goes, another comes, and nothing between is lost.
#[test]
fn another_reader_goes_on_where_the_last_one_left() {
    everywhere(async |runtime, exec| {
        let mut tty = Tty::start(
            runtime,
            exec,
            "stty -echo; echo ready; while read x; do echo got $x; done",
        )
        .await;
        tty.screen.expect("ready\r\n").await;
        for word in ["one", "two", "three"] {
            // The client's end of the input goes with it, and nobody asks for the end of the input.
            tty.keyboard().write(format!("{word}\n").as_bytes()).await;
            tty.screen.expect(&format!("got {word}\r\n")).await;
            tty.screen = Screen::open(&terminal_fifos(&tty.shim, word).stdout);
            tty.keyboard()
                .write(format!("{word} alone\n").as_bytes())
                .await;
            tty.screen = Screen::open(&tty.fifos.stdout);
            tty.screen.expect(&format!("got {word} alone\r\n")).await;
        }
        tty.keyboard().write(b"\x04").await;
        assert_eq!(tty.finish().await, (String::new(), 0));
    });
}

/// A process left behind has the terminal open and writes on: that delays neither exit nor end.
#[test]
fn the_exit_ends_it_whoever_has_it_open() {
    for runtime in RUNTIMES {
        run(async {
            let script =
                "trap '' HUP; (trap '' HUP; while echo .; do :; done) & echo started; exit 3";
            let tty = Tty::start(runtime, "x", script).await;
            let (text, status) = tty.finish().await;
            assert!(text.contains("started\r\n"));
            assert_eq!(status, 3);
        });
    }
}

/// getty and systemd close their terminal and open it again.
#[test]
fn a_terminal_that_is_closed_for_a_while() {
    everywhere(async |runtime, exec| {
        let script = "t=$(tty); mkfifo /run/go; echo one; exec </run/go >/dev/null 2>&1; \
             read x; echo two >$t; read x; exec <$t >$t 2>&1; stty -echo; echo three; read x; echo got $x";
        let mut tty = Tty::start(runtime, exec, script).await;
        tty.screen.expect("one\r\n").await;
        tty.shim
            .exec(
                "c",
                "go",
                &["sh", "-c", "exec 3>/run/go; echo >&3; echo >&3; sleep 1000"],
            )
            .await
            .unwrap();
        tty.screen.expect("two\r\nthree\r\n").await;
        tty.keyboard().write(b"typed\n").await;
        tty.screen.expect("got typed\r\n").await;
        // An init's end takes the helper along.
        if !exec.is_empty() {
            tty.shim.kill("c", "go", 9).await.unwrap();
        }
        tty.shim.wait("c", "go").await.unwrap();
        tty.shim.delete("c", "go").await.unwrap();
        assert_eq!(tty.finish().await, (String::new(), 0));
    });
}

/// Without an output the terminal's is discarded, so that the program goes on.
#[test]
fn without_an_output() {
    for runtime in RUNTIMES {
        run(async {
            let mut spec = cotter::manager::spec::Spec::new(
                "c",
                ["sh", "-c", "head -c 1000000 /dev/zero; exit 5"],
            );
            spec.terminal = true;
            let shim = Shim::start_as(
                cotter::manager::dialect::Dialect::Proto23,
                runtime,
                spec,
                "c",
            )
            .await;
            create(&shim, "c", &Default::default()).await.unwrap();
            shim.start_process("c", "").await.unwrap();
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 5);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// However many terminals are open and in use: one thread has them all.
#[test]
fn many_at_once_are_served_by_one_thread() {
    const MANY: usize = 12;
    for runtime in RUNTIMES {
        run(async {
            let shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let script = "stty -echo; echo ready; while read x; do echo got $x; done";
            let mut open = Vec::new();
            for n in 0..MANY {
                let name = format!("x{n}");
                let fifos = terminal_fifos(&shim, &name);
                let mut screen = Screen::open(&fifos.stdout);
                register(&shim, &name, script, &fifos).await.unwrap();
                shim.start_process("c", &name).await.unwrap();
                screen.expect("ready\r\n").await;
                open.push((name, screen, Keyboard::open(&fifos.stdin)));
            }
            let threads = || {
                let tasks = std::fs::read_dir(format!("/proc/{}/task", shim.pid()));
                tasks.unwrap().count()
            };
            eventually("one thread", || threads() == 1);
            for turn in 0..20 {
                for (_, _, keys) in &mut open {
                    keys.write(format!("{turn}\n").as_bytes()).await;
                }
                for (_, screen, _) in &mut open {
                    screen.expect(&format!("got {turn}\r\n")).await;
                }
                assert_eq!(threads(), 1, "{runtime}");
            }
            for (name, screen, keys) in open {
                drop(keys);
                shim.kill("c", &name, 9).await.unwrap();
                assert_eq!(screen.text().await, "");
                shim.wait("c", &name).await.unwrap();
                shim.delete("c", &name).await.unwrap();
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// An idle terminal costs nothing: no thread, and no processor time that a clock could see.
#[test]
fn idle() {
    everywhere(async |runtime, exec| {
        let mut tty = Tty::start(
            runtime,
            exec,
            "t=$(tty); echo one; exec sh -c 'sleep 1000' </dev/null >/dev/null 2>&1",
        )
        .await;
        tty.screen.expect("one\r\n").await;
        let pid = tty.shim.pid();
        let time = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields: Vec<i64> = stat
                .rsplit_once(") ")
                .unwrap()
                .1
                .split(' ')
                .filter_map(|f| f.parse().ok())
                .collect();
            // The state is no number: user and system time are the 11th and 12th that are left.
            fields[10] + fields[11]
        };
        eventually("one thread", || {
            std::fs::read_dir(format!("/proc/{pid}/task"))
                .unwrap()
                .count()
                == 1
        });
        tokio::time::sleep(QUIET).await;
        let before = time();
        tokio::time::sleep(QUIET).await;
        assert!(time() - before <= 2, "busy while idle");
        tty.shim.kill("c", exec, 9).await.unwrap();
        assert_eq!(tty.finish().await, (String::new(), 137));
    });
}
