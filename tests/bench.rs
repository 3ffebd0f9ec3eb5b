//! What the comparison makes of its figures, and what it reads from the kernel (bench/).
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

#[path = "../bench/board.rs"]
mod board;
#[path = "../bench/charged.rs"]
mod charged;
#[path = "../bench/figures.rs"]
mod figures;
#[path = "../bench/proc.rs"]
mod proc;
#[path = "../bench/report.rs"]
mod report;
#[path = "../bench/targets.rs"]
mod targets;
#[path = "../bench/trace.rs"]
mod trace;

use std::process::Command;

use board::Board;
use figures::{percentile, ratio};
use targets::{Outcome, Sides, verdicts};
use trace::{Change, Trace, descendants};

const SIDES: Sides = Sides {
    ours: "cotter",
    theirs: "go",
    bare: "none",
};

fn board(values: &[(&str, &str, &[f64])]) -> Board {
    let mut board = Board::default();
    for (measure, who, rounds) in values {
        for value in *rounds {
            board.note(measure, who, *value);
        }
    }
    board
}

#[test]
fn a_ratio_is_the_middle_of_the_rounds() {
    // The machine was slower in the second round, for both.
    let all = ratio(&[1.0, 10.0, 2.0], &[2.0, 40.0, 2.0]).unwrap();
    assert_eq!((all.median, all.least, all.most), (0.5, 0.25, 1.0));
    // A round that only one has does not count, nor one with nothing to divide by.
    assert_eq!(ratio(&[3.0, 9.0], &[6.0]).unwrap().most, 0.5);
    assert_eq!(ratio(&[1.0], &[0.0]), None);
    assert_eq!(percentile(&[3.0, 1.0, 2.0], 0.99), 3.0);
}

/// A measure, what ours, the Go shim and the floor had, and what it says of each of its targets.
type Case = (&'static str, [&'static [f64]; 3], &'static [Outcome]);

#[test]
fn targets_are_held_against_the_right_column() {
    let cases: &[Case] = &[
        (
            "private memory, 1 container (KB)",
            [&[450.0], &[4500.0], &[]],
            &[Outcome::Met, Outcome::Missed(Some(450.0 / 400.0))],
        ),
        ("threads, idle", [&[1.0], &[12.0], &[]], &[Outcome::Met]),
        (
            "wake-ups of an idle shim (1/min)",
            [&[3.0], &[0.0], &[]],
            &[Outcome::Missed(None)],
        ),
        (
            "events (1/s)",
            [&[50.0], &[100.0], &[]],
            &[Outcome::Missed(Some(2.0))],
        ),
        // Against the pipe itself, not against the slower shim.
        (
            "stdout, 64 KiB writes (MiB/s)",
            [&[90.0], &[10.0], &[180.0]],
            &[Outcome::Missed(Some(1.8))],
        ),
        // Nothing to hold it against: no verdict.
        ("State, p50 (ms)", [&[1.0], &[], &[]], &[]),
    ];
    for (measure, [ours, theirs, bare], expected) in cases {
        let board = board(&[
            (measure, SIDES.ours, ours),
            (measure, SIDES.theirs, theirs),
            (measure, SIDES.bare, bare),
        ]);
        let outcomes: Vec<Outcome> = verdicts(&board, SIDES).iter().map(|v| v.outcome).collect();
        assert_eq!(outcomes, *expected, "{measure}");
    }
    assert_eq!(Outcome::Missed(Some(1.125)).text(), "**missed by 12.5 %**");
}

#[test]
fn what_is_missing_is_told_and_ends_nothing() {
    let mut board = board(&[("State, p50 (ms)", "cotter", &[1.0])]);
    board.gap("execs (runc)", "go", "no answer\nin time".into());
    let table = report::table(&board, &["cotter", "go"], "cotter", &["go"]);
    assert!(
        table.contains("| State, p50 (ms) | 1.00 | – | – |"),
        "{table}"
    );
    assert_eq!(
        report::gaps(&board),
        "\nNot measured:\n\n- execs (runc), go: no answer in time\n"
    );
    assert_eq!(report::gaps(&Board::default()), "");
    let json = report::json(&board, SIDES, "here");
    assert_eq!(json["gaps"][0]["who"], "go");
}

#[test]
fn the_floor_is_taken_off_round_by_round() {
    let mut board = board(&[
        ("cycle", "cotter", &[5.0, 9.0, 7.0]),
        ("cycle", "none", &[4.0, 6.0]),
    ]);
    board.above("own part", "cycle", "none");
    let (_, rounds) = board.find("own part").unwrap();
    // The third round of the floor is missing: its middle value stands for it.
    assert_eq!(rounds["cotter"], [1.0, 3.0, 1.0]);
    assert!(!rounds.contains_key("none"));
}

/// Held by who starts processes: one counts those of this process.
static STARTS: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn the_kernel_tells_every_process() {
    let _starts = STARTS.lock().unwrap();
    let trace = Trace::start().unwrap();
    let mut child = Command::new("/bin/sh")
        .args(["-c", "/bin/true; exit 0"])
        .spawn()
        .unwrap();
    let pid = child.id();
    child.wait().unwrap();
    let told = trace.take().unwrap();
    let changes: Vec<Change> = told
        .iter()
        .filter(|one| one.pid == pid)
        .map(|one| one.change)
        .collect();
    let parent = std::process::id();
    assert_eq!(
        changes,
        [Change::Fork { parent }, Change::Exec, Change::Exit]
    );
    let born = descendants(&told, parent);
    assert!(
        born.starts_with(&[pid]) && born.len() == 2,
        "{born:?} of {told:?}"
    );
}

#[test]
fn where_memory_is_accounted() {
    let v1 = "4:memory:/a/b\n3:cpuset:/\n1:name=systemd:/\n0::/\n";
    assert_eq!(charged::place(v1), Some((false, "/a/b")));
    let joined = "5:hugetlb,memory:/\n0::/x\n";
    assert_eq!(charged::place(joined), Some((false, "/")));
    assert_eq!(
        charged::place("0::/user.slice\n"),
        Some((true, "/user.slice"))
    );
    assert_eq!(charged::place("1:name=systemd:/\n"), None);
}

/// What a process has written is charged, in the kernel's part too, and a wrapped program is in there.
#[test]
fn what_a_process_takes_is_charged() {
    let _starts = STARTS.lock().unwrap();
    let dir = std::env::temp_dir().join(format!("cotter-charged-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let charged = charged::Charged::new(&format!("cotter-charged-{}", std::process::id())).unwrap();
    let program = charged.program("/bin/sh".as_ref(), &dir).unwrap();
    // Eight MiB as a string of the shell's, held until its input ends.
    let script = "x=$(head -c 8388608 /dev/zero | tr '\\0' x); echo ready; read y";
    let mut shell = Command::new(program)
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut out = std::io::BufReader::new(shell.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut ready).unwrap();
    let taken = charged.now().unwrap();
    drop(shell.stdin.take());
    shell.wait().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(ready, "ready\n");
    assert!(taken.anonymous > 8192.0 && taken.kernel > 20.0, "{taken:?}");
}

#[test]
fn a_shim_costs_what_it_has_written() {
    assert!(charged::plausible(1500.0, 1400.0).is_ok());
    let told = charged::plausible(122.0, 1404.0).unwrap_err();
    assert_eq!(told, "122 KB are charged for 1404 KB of private memory");
}
