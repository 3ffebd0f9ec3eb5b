//! Nothing is left: descriptors, terminals, directories, however the processes ended.

use std::fs;

use cotter::manager::spec::Spec;

use crate::client::{Screen, create, register, terminal_fifos};
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{descriptors, eventually, eventually_some};

/// Terminals on the machine.
fn terminals() -> u32 {
    fs::read_to_string("/proc/sys/kernel/pty/nr")
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

fn spec(id: &str, script: &str) -> Spec {
    Spec {
        terminal: true,
        ..Spec::new(id, ["sh", "-c", script])
    }
}

#[test]
fn after_many_containers_and_execs() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            shim.exec("c", "warm", &["true"]).await.unwrap();
            shim.wait("c", "warm").await.unwrap();
            shim.delete("c", "warm").await.unwrap();
            let (pid, before, machine) = (shim.pid(), descriptors(shim.pid()), terminals());

            for n in 0..25 {
                let (id, script) = (format!("t{n}"), "echo shown; test -e /nothing || read x");
                shim.bundle(&id, spec(&id, script));
                let fifos = terminal_fifos(&shim, &id);
                let mut screen = Screen::open(&fifos.stdout);
                create(&shim, &id, &fifos).await.unwrap();
                // Every fifth is never started.
                if n % 5 > 0 {
                    shim.start_process(&id, "").await.unwrap();
                    screen.expect("shown\r\n").await;
                    shim.kill(&id, "", 9).await.unwrap();
                    shim.wait(&id, "").await.unwrap();
                }
                shim.delete(&id, "").await.unwrap();
            }
            for n in 0..25 {
                let exec = format!("x{n}");
                let fifos = terminal_fifos(&shim, &exec);
                let mut screen = Screen::open(&fifos.stdout);
                register(&shim, &exec, "echo shown; read x", &fifos)
                    .await
                    .unwrap();
                if n % 5 > 0 {
                    shim.start_process("c", &exec).await.unwrap();
                    screen.expect("shown\r\n").await;
                    if n % 2 == 0 {
                        // The reader has gone with bytes unread, and the input ends.
                        drop(screen);
                        shim.close_io("c", &exec, true).await.unwrap();
                    } else {
                        shim.kill("c", &exec, 9).await.unwrap();
                    }
                    shim.wait("c", &exec).await.unwrap();
                }
                shim.delete("c", &exec).await.unwrap();
            }
            eventually("the shim's descriptors are what they were", || {
                descriptors(pid) == before
            });
            // Others on the machine may have some of their own for a while.
            eventually("the terminals are gone", || terminals() <= machine);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// An ended process keeps no terminal, even if nobody reads what it wrote, nor deletes it.
#[test]
fn an_ended_process_has_no_terminal() {
    for runtime in RUNTIMES {
        run(async {
            let shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let fifos = terminal_fifos(&shim, "f");
            register(&shim, "x", "yes | head -c 60000; sleep 1000", &fifos)
                .await
                .unwrap();
            shim.start_process("c", "x").await.unwrap();
            let has = || descriptors(shim.pid()).iter().any(|d| d.contains("ptmx"));
            assert!(has());
            shim.kill("c", "x", 9).await.unwrap();
            shim.wait("c", "x").await.unwrap();
            eventually("its terminal is closed", || !has());
            shim.delete("c", "x").await.unwrap();
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// Every descriptor is close-on-exec, the terminal's too.
#[test]
fn no_descriptor_is_inherited() {
    for runtime in RUNTIMES {
        run(async {
            let shim = Shim::start_as(
                cotter::manager::dialect::Dialect::Proto23,
                runtime,
                spec("c", "sleep 1000"),
                "c",
            )
            .await;
            let fifos = terminal_fifos(&shim, "f");
            create(&shim, "c", &fifos).await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let pid = shim.pid();
            let master = eventually_some("the terminal", || {
                fs::read_dir(format!("/proc/{pid}/fd"))
                    .unwrap()
                    .find_map(|entry| {
                        let entry = entry.unwrap();
                        let target = fs::read_link(entry.path()).ok()?;
                        target
                            .to_string_lossy()
                            .contains("ptmx")
                            .then(|| entry.file_name())
                    })
            });
            let info =
                fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", master.to_string_lossy()))
                    .unwrap();
            let flags = info
                .lines()
                .find_map(|l| l.strip_prefix("flags:"))
                .unwrap()
                .trim()
                .to_owned();
            let flags = i32::from_str_radix(&flags, 8).unwrap();
            assert!(
                flags & nix::libc::O_CLOEXEC != 0 && flags & nix::libc::O_NONBLOCK != 0,
                "{flags:o}"
            );
            shim.remove("c").await;
            shim.end().await;
        });
    }
}
