//! Managers that are away: the container goes on writing, and what it wrote is there for the next
//! reader, or what is missing is told.

use std::fs;
use std::path::PathBuf;

use cotter::error::Code;
use cotter::manager::client::Tasks;
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;
use cotter::proto::task::Status;

use crate::client::{Reader, create_and_begin, inits};
use crate::common::logger::{Logger, READS_LATE};
use crate::common::shim::{RUNTIMES, Shim, a_moment, run, until};
use crate::gaps::with_gaps;
use crate::logger::both;

fn lines(to: u32) -> String {
    (1..=to).map(|n| format!("{n}\n")).collect()
}

/// A shim whose container `c` runs `script`, or sleeps and has it in an exec.
async fn start(
    runtime: &str,
    exec: &str,
    script: &str,
    annotations: &[(&str, &str)],
    environment: &[(&str, &str)],
) -> (Shim, Fifos) {
    let script = ["sh", "-c", script];
    let init = inits(exec, &script);
    let mut spec = Spec::new("c", init.iter().copied());
    let pairs = annotations.iter();
    spec.annotations = pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let shim = Shim::start_with(Dialect::Proto23, runtime, spec, "c", environment).await;
    let fifos = shim.fifos("f", false);
    create_and_begin(&shim, exec, &script, &fifos).await;
    (shim, fifos)
}

fn memory_files(shim: &Shim) -> usize {
    let fds = fs::read_dir(format!("/proc/{}/fd", shim.pid())).unwrap();
    fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter(|to| to.to_string_lossy().contains("cotter-output"))
        .count()
}

/// Memory of the shim's own, in KiB. Not what is called dirty there: of a program that was built a moment ago that
/// is every page nobody else has mapped.
fn own_memory(shim: &Shim) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", shim.pid())).unwrap();
    let own = |line: &str| line.strip_prefix("Anonymous:").map(str::to_owned);
    let own = rollup.lines().find_map(own).unwrap();
    own.trim().split(' ').next().unwrap().parse().unwrap()
}

/// How often the shim's only thread has gone to sleep.
fn sleeps(shim: &Shim) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", shim.pid())).unwrap();
    let line = |line: &str| {
        line.strip_prefix("voluntary_ctxt_switches:")
            .map(str::to_owned)
    };
    let times = status.lines().find_map(line).unwrap();
    times.trim().parse().unwrap()
}

fn logged(shim: &Shim, what: &str) -> usize {
    shim.log().iter().filter(|line| line.contains(what)).count()
}

#[test]
fn a_process_ends_while_nobody_reads_and_the_next_manager_gets_all_of_it() {
    for (runtime, exec) in RUNTIMES.into_iter().flat_map(|r| [(r, ""), (r, "x")]) {
        run(async {
            let script = "seq 1 250000; seq 1 200000 >&2; exit 3";
            let (mut shim, fifos) = start(runtime, exec, script, &[], &[]).await;
            shim.disconnect();
            shim.tasks = Tasks::connect(&shim.endpoint).await.unwrap();
            assert_eq!(shim.wait("c", exec).await.unwrap().exit_status, 3);
            let (out, err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
            let (out, err) = tokio::join!(out.text(), err.text());
            assert!(out == lines(250_000), "{} bytes", out.len());
            assert!(err == lines(200_000), "{} bytes", err.len());
            assert_eq!(memory_files(&shim), 0);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

#[test]
fn beyond_its_buffer_a_container_waits_at_no_cost_and_loses_nothing() {
    for runtime in RUNTIMES {
        run(async {
            let size = [("COTTER_STDOUT_BUFFER", "128k")];
            let (shim, fifos) = start(runtime, "", "seq 1 2000000", &[], &size).await;
            until("it is buffered", || memory_files(&shim) == 1).await;
            // Blocked: the shim sleeps and is not woken. No verdict rests on how soon that is.
            until("the shim rests", || {
                let before = sleeps(&shim);
                std::thread::sleep(std::time::Duration::from_millis(500));
                sleeps(&shim) == before
            })
            .await;
            let running = shim.state("c", "").await.unwrap().status;
            assert_eq!(running, Status::RUNNING.into());
            let mut out = Reader::open(&fifos.stdout);
            let expected = lines(2_000_000);
            // A reader that goes, and its successor.
            let mut got = out.exactly(1_000_000).await;
            drop(out);
            for _ in 0..20 {
                a_moment().await;
            }
            got.extend(Reader::open(&fifos.stdout).rest().await);
            assert!(got == expected.as_bytes(), "{} bytes", got.len());
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 0);
            assert_eq!(logged(&shim, "dropp"), 0);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

#[test]
fn where_asked_for_output_is_dropped_and_the_gap_is_told() {
    for (runtime, exec) in RUNTIMES.into_iter().zip(["", "x"]) {
        run(async {
            let policy = [
                ("io.cotter.stdout-buffer", "256k"),
                ("io.cotter.stdout-overflow", "drop"),
            ];
            // The annotations win.
            let environment = [("COTTER_STDOUT_OVERFLOW", "block")];
            let script = "seq 1 3000000; seq 1 9 >&2";
            let (shim, fifos) = start(runtime, exec, script, &policy, &environment).await;
            assert_eq!(shim.wait("c", exec).await.unwrap().exit_status, 0);
            let (out, err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
            let (out, err) = tokio::join!(out.text(), err.text());
            let written = lines(3_000_000);
            let (arrived, missing, gaps) = with_gaps(&out, &written);
            assert_eq!(arrived + missing, written.len() as u64);
            assert_eq!((gaps, err), (1, lines(9)));
            // The FIFO's, the buffer's, and what the pipe held.
            assert!(arrived <= 3 * (256 << 10), "{arrived} were kept");
            let said = format!("{missing} bytes of output dropped");
            until("the gap is logged", || logged(&shim, &said) == 1).await;
            assert_eq!(logged(&shim, "nobody reads, dropping output"), 1);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// A Delete that nobody reads for says what went with it.
#[test]
fn what_nobody_ever_reads_is_counted_in_the_log() {
    for runtime in RUNTIMES {
        run(async {
            let policy = [
                ("COTTER_STDOUT_BUFFER", "64k"),
                ("COTTER_STDOUT_OVERFLOW", "drop"),
            ];
            let (shim, _fifos) = start(runtime, "", "seq 1 200000", &[], &policy).await;
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 0);
            shim.delete("c", "").await.unwrap();
            let numbers = || {
                let log = shim.log();
                let line = log.iter().find(|line| line.contains("closed with "))?;
                let words = line.split(' ').filter_map(|word| word.parse::<u64>().ok());
                Some(words.collect::<Vec<_>>())
            };
            until("it is logged", || numbers().is_some()).await;
            let [unread, dropped] = numbers().unwrap()[..] else {
                panic!("{:?}", shim.log());
            };
            let fifo = lines(200_000).len() as u64 - unread - dropped;
            assert!(unread <= 64 << 10 && fifo <= 64 << 10, "{unread} {fifo}");
            assert_eq!(memory_files(&shim), 0);
            shim.end().await;
        });
    }
}

#[test]
fn what_is_buffered_and_read_leaves_no_memory_behind() {
    for runtime in RUNTIMES {
        run(async {
            let script = "while read x < /run/go; do seq 1 1000000; done";
            let script = format!("mkfifo /run/go; {script}");
            let size = [("COTTER_STDOUT_BUFFER", "8m")];
            let (shim, fifos) = start(runtime, "", &script, &[], &size).await;
            let expected = lines(1_000_000);
            let mut out = Reader::open(&fifos.stdout);
            let mut first = None;
            for n in 0..6 {
                let exec = format!("x{n}");
                let go = ["sh", "-c", "echo go > /run/go"];
                shim.exec("c", &exec, &go).await.unwrap();
                shim.wait("c", &exec).await.unwrap();
                shim.delete("c", &exec).await.unwrap();
                until("it is buffered", || memory_files(&shim) == 1).await;
                let got = out.exactly(expected.len()).await;
                assert!(got == expected.as_bytes());
                until("its memory is given back", || memory_files(&shim) == 0).await;
                let now = own_memory(&shim);
                // The first two rounds bring in what is used for the first time.
                if n == 1 {
                    first = Some(now);
                }
                if let Some(first) = first {
                    assert!(now <= first + 256, "{first} KiB, then {now} KiB");
                }
            }
            shim.kill("c", "", 9).await.unwrap();
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

#[test]
fn an_annotation_that_makes_no_sense_is_refused_and_leaves_nothing() {
    run(async {
        let mut shim = Shim::start("RUNC", "c", &["true"]).await;
        for (key, value) in [
            ("io.cotter.stdout-buffer", "lots"),
            ("io.cotter.stdout-overflow", "lose"),
        ] {
            let mut spec = Spec::new("d", ["true"]);
            spec.annotations = [(key.into(), value.into())].into();
            let id = format!("d{value}");
            shim.bundle(&id, spec);
            let fifos = shim.fifos(&id, false);
            let refused = shim.create_with(&id, &fifos).await.unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument);
            assert!(refused.message.contains(key), "{refused}");
            assert!(refused.message.contains(value), "{refused}");
        }
        shim.create("c").await.unwrap();
        shim.remove("c").await;
        shim.end().await;
    });
}

/// A logger that lives and does not read, until it is told to.
#[test]
fn a_logger_that_does_not_read_stops_no_container_where_output_may_be_dropped() {
    for runtime in RUNTIMES {
        run(async {
            let policy = [("COTTER_STDOUT_OVERFLOW", "drop")];
            let spec = Spec::new("c", ["sh", "-c", "seq 1 2000000; echo e >&2"]);
            let shim = Shim::start_with(Dialect::Proto23, runtime, spec, "c", &policy).await;
            let logger = Logger::new(&shim, "l", READS_LATE);
            shim.create_with("c", &both(&logger.uri("binary")))
                .await
                .unwrap();
            shim.start_process("c", "").await.unwrap();
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 0);
            logger.go();
            shim.delete("c", "").await.unwrap();
            let written = lines(2_000_000);
            let (arrived, missing, gaps) = with_gaps(&logger.out(), &written);
            assert_eq!(arrived + missing, written.len() as u64);
            assert_eq!((gaps, logger.err().as_str()), (1, "e\n"));
            shim.end().await;
        });
    }
}

/// A disk of its own, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    fn new(shim: &Shim, size: &str) -> Self {
        let path = shim.dir().join("disk");
        fs::create_dir(&path).unwrap();
        let (flags, size) = (nix::mount::MsFlags::empty(), format!("size={size}"));
        nix::mount::mount(
            Some("log"),
            &path,
            Some("tmpfs"),
            flags,
            Some(size.as_str()),
        )
        .unwrap();
        Self(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_log_file_on_a_full_disk_stops_no_container() {
    for runtime in RUNTIMES {
        run(async {
            let spec = Spec::new("c", ["sh", "-c", "seq 1 500000; echo e >&2; exit 3"]);
            let shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
            let disk = Disk::new(&shim, "64k");
            let log = disk.0.join("log");
            let streams = both(&format!("file://{}", log.display()));
            shim.create_with("c", &streams).await.unwrap();
            shim.start_process("c", "").await.unwrap();
            assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 3);
            shim.delete("c", "").await.unwrap();
            let kept = fs::read_to_string(&log).unwrap();
            assert_eq!(kept.len(), 64 << 10);
            assert!(lines(500_000).starts_with(&kept));
            let said = "dropping output that cannot be written";
            until("it is logged", || logged(&shim, said) > 0).await;
            drop(disk);
            shim.end().await;
        });
    }
}
