//! Screens that nobody looks at: the program goes on, and what it showed is there for the next.

use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;

use crate::client::{Screen, Tty, create, everywhere, terminal_fifos};
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::gaps::with_gaps;

fn lines(to: u32) -> String {
    (1..=to).map(|n| format!("{n}\r\n")).collect()
}

#[test]
fn a_program_ends_while_nobody_looks_and_all_of_it_is_there() {
    everywhere(async |runtime, exec| {
        let Tty {
            shim,
            exec,
            fifos,
            screen,
        } = Tty::prepare(runtime, exec, "seq 1 200000; exit 3").await;
        drop(screen);
        shim.start_process("c", &exec).await.unwrap();
        assert_eq!(shim.wait("c", &exec).await.unwrap().exit_status, 3);
        let text = Screen::open(&fifos.stdout).text().await;
        assert!(text == lines(200_000), "{} bytes", text.len());
        shim.remove("c").await;
        shim.end().await;
    });
}

#[test]
fn what_is_dropped_is_told_on_a_line_of_its_own() {
    for runtime in RUNTIMES {
        run(async {
            let policy = [
                ("COTTER_STDOUT_BUFFER", "64k"),
                ("COTTER_STDOUT_OVERFLOW", "drop"),
            ];
            let mut spec = Spec::new("c", ["sh", "-c", "seq 1 200000"]);
            spec.terminal = true;
            let shim = Shim::start_with(Dialect::Proto23, runtime, spec, "c", &policy).await;
            let fifos = terminal_fifos(&shim, "f");
            create(&shim, "c", &fifos).await.unwrap();
            shim.start_process("c", "").await.unwrap();
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 0);
            let text = Screen::open(&fifos.stdout).text().await;
            let written = lines(200_000);
            let (arrived, missing, gaps) = with_gaps(&text, &written);
            assert_eq!(arrived + missing, written.len() as u64);
            assert_eq!(gaps, 1);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}
