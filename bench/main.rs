//! `make bench`: cotter beside the Go shims and the Rust one, in one run, on one machine, with the same
//! runtimes and the same client.
//!
//! In each round every contestant is measured once, in an order that turns, so that what disturbs the
//! machine disturbs all alike. Figures are the medians of the rounds. Each part has a budget of time: no
//! round begins that would not fit, and whoever takes longer, or fails, is a gap with a reason in the
//! tables. Nothing else ends the run, and what is known is written after every part.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod board;
mod charged;
mod chart;
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "../tests/common/mod.rs"]
mod common;
mod contestant;
mod figures;
mod machine;
mod measures;
mod proc;
mod report;
mod targets;
mod trace;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cotter::error::{Error, Result};
use cotter::manager::dialect::Dialect;
use cotter::manager::signals::Signals;

use board::Board;
use contestant::{Contestant, Place, Runtime};
use measures::{Scale, Seen, bursts, output, probes, resources, spawns, tasks};
use targets::Sides;

/// The pseudo-contestant that is no shim: the runtime called by hand, the pipe itself.
const BARE: &str = "no shim";
const OURS: &str = "cotter";
/// Ours, where the shim does execs itself.
const DIRECT: &str = "cotter, direct";
/// Whom the targets are held against.
const GO: &str = "Go, containerd 2.1";
/// What a single contestant may take for a round, at the least.
const LEAST: Duration = Duration::from_secs(60);
const PEER: &str = "Rust, containerd-runc-shim";

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime
        .map_err(|e| Error::io("start the client's event loop", &e))
        .and_then(|runtime| runtime.block_on(run_or_stop()));
    match done {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(error) => {
            eprintln!("bench: {error}");
            std::process::exit(1);
        }
    }
}

/// What the command line asks for: `--quick`, `--only PART`, `--rounds N`, `--out DIR`.
struct Asked {
    scale: Scale,
    only: Vec<String>,
    out: PathBuf,
}

fn asked() -> Result<Asked> {
    let mut asked = Asked {
        scale: Scale::FULL,
        only: vec![],
        out: "target/bench".into(),
    };
    let mut rounds = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let wrong = || {
            let usage = "want --quick, --only PART (again for more), --rounds N or --out DIR";
            Error::invalid_argument(format!("{word}: {usage}"))
        };
        match word.as_str() {
            // What cargo passes on its own.
            "--bench" => {}
            "--quick" => asked.scale = Scale::QUICK,
            "--only" => asked.only.push(words.next().ok_or_else(wrong)?),
            "--rounds" => {
                let count = words.next().and_then(|count| count.parse().ok());
                rounds = Some(count.filter(|count| *count > 0).ok_or_else(wrong)?);
            }
            "--out" => asked.out = words.next().ok_or_else(wrong)?.into(),
            _ => return Err(wrong()),
        }
    }
    if let Some(rounds) = rounds {
        asked.scale.rounds = rounds;
    }
    Ok(asked)
}

fn contestants(board: &mut Board) -> Vec<Contestant> {
    let ours = std::env::var("COTTER_BENCH_SHIM")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_containerd-shim-cotter-v2").into());
    let go = |directory: &str| common::tool(directory).join("containerd-shim-runc-v2");
    let peer = common::tool("ROOTFS").join("../rust-peer/bin/containerd-shim-runc-v2-rs");
    let all = [
        (OURS, PathBuf::from(ours), Dialect::Proto23),
        (GO, go("CONTAINERD_2_1"), Dialect::Json17),
        ("Go, containerd 1.7", go("CONTAINERD_1_7"), Dialect::Json17),
        (PEER, peer, Dialect::Proto23),
    ];
    let mut found = vec![];
    for (name, binary, dialect) in all {
        if binary.is_file() {
            found.push(Contestant {
                name: name.into(),
                binary,
                dialect,
                environment: &[],
            });
        } else {
            let why = format!("no {}: run make tools and bench/peer", binary.display());
            board.gap("everything", name, why);
        }
    }
    found
}

/// Those whose probes are compared: ours twice.
fn probers(all: &[Contestant]) -> Vec<Contestant> {
    let ours = all.iter().find(|who| who.name == OURS);
    let direct = ours.map(|who| Contestant {
        name: DIRECT.into(),
        environment: &[("COTTER_EXEC_BY", "direct")],
        ..who.clone()
    });
    let others = all
        .iter()
        .filter(|who| [OURS, GO].contains(&who.name.as_str()));
    direct.into_iter().chain(others.cloned()).collect()
}

/// Until it is done or somebody has enough of it; either way nothing of it is left.
async fn run_or_stop() -> Result<bool> {
    let mut signals = Signals::catch()?;
    tokio::select! {
        done = run() => done,
        Some(signal) = signals.next() => Err(Error::unknown(format!("ended by {signal}"))),
    }
}

#[expect(clippy::too_many_lines, reason = "a list of all parts")]
async fn run() -> Result<bool> {
    let Asked { scale, only, out } = asked()?;
    let mut board = Board::default();
    let [mut profiles, mut probed] = [Board::default(), Board::default()];
    let all = contestants(&mut board);
    let [runc, crun] = [("runc", "RUNC_1_3"), ("crun", "CRUN_1_21")].map(|(name, tool)| Runtime {
        name,
        binary: common::tool(tool),
    });
    let machine = machine::describe(&[&runc, &crun]);
    println!("{machine}\n");
    let mut place = Place::new(common::tool("ROOTFS"))
        .map_err(|e| Error::io("make a directory for the run", &e))?;
    let begun = Instant::now();
    let first = all.first().cloned();
    let bare = [Contestant {
        name: BARE.into(),
        ..first.ok_or_else(|| Error::not_found("any shim"))?
    }];
    let probers = probers(&all);
    let names: Vec<&str> = all.iter().map(|who| who.name.as_str()).collect();

    macro_rules! part {
        ($measure:path, $runtime:expr, $rounds:expr, $seconds:expr) => {
            part!($measure, $runtime, $rounds, $seconds, &all, board)
        };
        ($measure:path, $runtime:expr, $rounds:expr, $seconds:expr, $all:expr, $board:expr) => {{
            let name = stringify!($measure).rsplit(' ').next().unwrap_or_default();
            let name = name.rsplit("::").next().unwrap_or_default();
            if only.is_empty() || only.iter().any(|only| only == name) {
                let run = Run {
                    part: name,
                    runtime: $runtime,
                    rounds: $rounds,
                    budget: Duration::from_secs($seconds),
                    scale: &scale,
                };
                run.all($all, &mut place, &mut $board, $measure).await;
                write(&out, [&board, &profiles, &probed], &names, &machine)?;
            }
        }};
    }
    let rounds = scale.rounds;
    for runtime in [&runc, &crun] {
        let name = runtime.name;
        part!(tasks::cycles, runtime, rounds, 65);
        part!(tasks::bare, runtime, rounds, 25, &bare, board);
        part!(
            tasks::execs,
            runtime,
            rounds,
            if name == "runc" { 160 } else { 90 }
        );
        board.above(
            &format!("own part of an exec cycle, {name} (ms)"),
            &format!("exec cycle, {name}, p50 (ms)"),
            BARE,
        );
        board.derive(
            &format!("wall per exec, 64 against 16 at once, {name}"),
            [64, 16].map(|n| format!("exec, {n} at once, {name}, wall per exec (ms)")),
            |many, fewer| many / fewer,
        );
        part!(probes::probes, runtime, rounds, 130, &probers, probed);
        part!(spawns::profile, runtime, rounds.min(3), 40, &all, profiles);
    }
    part!(tasks::calls, &crun, rounds, 45);
    part!(bursts::storm, &crun, rounds, 80);
    part!(bursts::events, &crun, rounds, 40);
    part!(output::bare_stream, &crun, rounds, 15, &bare, board);
    part!(output::stream, &crun, rounds, 100);
    part!(resources::footprint, &crun, rounds.min(3), 130);
    part!(resources::bare_marginal, &crun, 1, 30, &bare, board);
    part!(resources::marginal, &crun, 1, 130);
    board.above(
        "memory charged per shim alone (KB)",
        "memory charged per shim and container",
        BARE,
    );
    if only.is_empty() || only.iter().any(|only| only == "idle") {
        let seen = resources::idle(&all, &crun, &mut place, &scale).await;
        for (who, seen) in all.iter().zip(seen) {
            note(&mut board, "idle", &who.name, seen);
        }
    }
    part!(spawns::spawned, &crun, 1, 15);
    for who in &all {
        let size = fs::metadata(&who.binary).map_or(0, |m| m.len()) as f64 / 1024.0;
        board.note("size of the binary (KB)", &who.name, size);
    }
    write(&out, [&board, &profiles, &probed], &names, &machine)?;
    show(&out, begun.elapsed());
    Ok(!board.gaps().iter().any(|gap| gap.who == OURS))
}

/// What was found, for who waits for it.
fn show(out: &Path, took: Duration) {
    for file in [
        "table.md",
        "targets.md",
        "profile.md",
        "probes.md",
        "probe-targets.md",
        "gaps.md",
    ] {
        println!("{}", fs::read_to_string(out.join(file)).unwrap_or_default());
    }
    let minutes = took.as_secs_f64() / 60.0;
    println!(
        "{minutes:.1} minutes; tables, figures and charts are in {}",
        out.display()
    );
}

fn note(board: &mut Board, part: &str, who: &str, seen: Result<Seen>) -> bool {
    let failed = seen.is_err();
    match seen {
        Ok(seen) => {
            for (name, value) in seen {
                board.note(&name, who, value);
            }
        }
        Err(why) => {
            eprintln!("{part}: {who} failed: {why}");
            board.gap(part, who, why.to_string());
        }
    }
    !failed
}

/// One part of the whole.
struct Run<'a> {
    part: &'a str,
    runtime: &'a Runtime,
    rounds: usize,
    budget: Duration,
    scale: &'a Scale,
}

impl Run<'_> {
    /// Every round, every contestant, in an order that turns, for as long as there is time.
    async fn all(
        &self,
        all: &[Contestant],
        place: &mut Place,
        board: &mut Board,
        measure: impl AsyncFn(&Contestant, &Runtime, &mut Place, &Scale) -> Result<Seen>,
    ) {
        let part = format!("{} ({})", self.part, self.runtime.name);
        let begun = Instant::now();
        let mut failed = vec![];
        let mut longest = Duration::ZERO;
        for round in 0..self.rounds {
            if begun.elapsed() + longest > self.budget {
                eprintln!(
                    "{part}: {round} rounds in {:.0} s",
                    begun.elapsed().as_secs_f64()
                );
                return;
            }
            let round_begun = Instant::now();
            for n in 0..all.len() {
                let who = &all[(n + round) % all.len()];
                if failed.contains(&&who.name) {
                    continue;
                }
                let begun = Instant::now();
                let work = measure(who, self.runtime, place, self.scale);
                let limit = self.budget.max(LEAST);
                let seen = tokio::time::timeout(limit, work).await;
                let seen = seen.unwrap_or_else(|_| {
                    Err(Error::deadline_exceeded(format!("not done in {limit:?}")))
                });
                if !note(board, &part, &who.name, seen) {
                    failed.push(&who.name);
                }
                let (round, took) = (round + 1, begun.elapsed().as_secs_f64());
                eprintln!("{part}, round {round}: {} in {took:.1} s", who.name);
            }
            longest = longest.max(round_begun.elapsed());
        }
    }
}

/// The charts: file name, measure, title.
const CHARTS: &[(&str, &str, &str)] = &[
    (
        "memory",
        "private memory, 1 container (KB)",
        "Private memory of a shim with one container (KB)",
    ),
    (
        "machine",
        "memory charged per shim alone",
        "What a shim is charged for, the kernel's part included (KB)",
    ),
    ("threads", "threads, idle", "Threads of an idle shim"),
    (
        "start",
        "start to address, crun, p50 (ms)",
        "A shim's start, until it can be asked (ms)",
    ),
    (
        "exec",
        "own part of an exec cycle, crun (ms)",
        "What the shim adds to an exec of crun (ms)",
    ),
    (
        "parallel",
        "exec, 16 at once, crun, wall per exec (ms)",
        "16 execs at once with crun, time per exec (ms)",
    ),
    (
        "delete",
        "Delete, runc, p99 (ms)",
        "Delete with runc, p99 (ms)",
    ),
    (
        "state",
        "State under 16 execs at once, p99 (ms)",
        "State while 16 execs run at once, p99 (ms)",
    ),
    (
        "stdout",
        "shim CPU for stdout, 64 KiB writes (s/GiB)",
        "CPU of the shim per GiB of output (s)",
    ),
];

fn write(
    out: &Path,
    [board, profiles, probed]: [&Board; 3],
    names: &[&str],
    machine: &str,
) -> Result<()> {
    let failed = |e: &std::io::Error| Error::io(format!("write to {}", out.display()), e);
    fs::create_dir_all(out).map_err(|e| failed(&e))?;
    let put = |name: &str, text: &str| fs::write(out.join(name), text).map_err(|e| failed(&e));
    let sides = Sides {
        ours: OURS,
        theirs: GO,
        bare: BARE,
    };
    let mut columns = names.to_vec();
    columns.push(BARE);
    let table = report::table(board, &columns, OURS, &[GO, PEER]);
    put("table.md", &format!("{machine}\n\n{table}"))?;
    let targets = report::targets(board, sides);
    put("targets.md", &format!("{machine}\n\n{targets}"))?;
    put("profile.md", &report::table(profiles, names, OURS, &[GO]))?;
    let of_probes = Sides {
        ours: DIRECT,
        ..sides
    };
    let table = report::table(probed, &[DIRECT, OURS, GO], DIRECT, &[OURS, GO]);
    put("probes.md", &format!("{machine}\n\n{table}"))?;
    put("probe-targets.md", &report::targets(probed, of_probes))?;
    let gaps = [board, profiles, probed].map(report::gaps);
    put("gaps.md", &gaps.concat())?;
    let json = report::json(board, sides, machine);
    put("figures.json", &format!("{json:#}\n"))?;
    for (name, measure, title) in CHARTS {
        let values = board.medians(measure, names);
        if !values.is_empty() {
            put(&format!("{name}.svg"), &chart::bars(title, &values))?;
        }
    }
    Ok(())
}
