//! A hundred processes with three streams each, all alive at once: each hears only its own client,
//! and what they cost is given back.

use std::fs;

use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;

use crate::client::{Reader, Writer, begin};
use crate::common::eventually;
use crate::common::shim::{RUNTIMES, Shim, run};

const CONTAINERS: usize = 10;
const EXECS: usize = 9;
const ECHO: [&str; 3] = ["sh", "-c", "read a; echo $a; read b; echo $b >&2"];

fn fds(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

struct Live {
    id: String,
    exec: String,
    fifos: Fifos,
    out: Reader,
    err: Reader,
}

#[test]
fn a_hundred_processes_with_three_streams() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["true"]).await;
            // Once through, so that what is made once is made.
            shim.create("c").await.unwrap();
            shim.remove("c").await;
            let pid = shim.pid();
            let before = fds(pid);
            let mut all = Vec::new();
            for c in 0..CONTAINERS {
                let id = format!("c{c}");
                shim.bundle(&id, Spec::new(&id, ECHO));
                for exec in (0..=EXECS).map(|x| {
                    if x == 0 {
                        String::new()
                    } else {
                        format!("x{x}")
                    }
                }) {
                    let fifos = shim.fifos(&format!("{id}-{exec}"), true);
                    let (out, err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
                    begin(&shim, &id, &exec, &ECHO, &fifos).await;
                    all.push(Live {
                        id: id.clone(),
                        exec,
                        fifos,
                        out,
                        err,
                    });
                }
            }
            // Two for a stream while it is open, two for the watches of a container's limits, and
            // one of the kernel's log.
            assert!(
                fds(pid) <= before + 6 * all.len() + 2 * CONTAINERS + 1,
                "{} of {before}",
                fds(pid)
            );
            // Execs before their init, which would take them with it: last come, first gone.
            for Live {
                id,
                exec,
                fifos,
                out,
                err,
            } in all.into_iter().rev()
            {
                let [said, complained] =
                    ["out", "err"].map(|stream| format!("{id}/{exec} {stream}\n"));
                let words = format!("{said}{complained}");
                Writer::open(&fifos.stdin).write(words.as_bytes()).await;
                assert_eq!((out.text().await, err.text().await), (said, complained));
                assert_eq!(shim.wait(&id, &exec).await.unwrap().exit_status, 0);
                shim.delete(&id, &exec).await.unwrap();
            }
            eventually("as many descriptors as before", || fds(pid) == before);
            shim.end().await;
        });
    }
}
