//! `make bench`: cotter beside the Go shims and the Rust one, in one run, on one machine, with the same
//! runtimes and the same client.
//!
//! In each round every contestant is measured once, in an order that turns, so that what disturbs the
//! machine disturbs all alike. Figures are the medians of the rounds.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod chart;
mod contestant;
mod figures;
mod measures;
mod proc;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use cotter::error::{Error, Result};
use cotter::manager::dialect::Dialect;

use contestant::{Contestant, Place, Runtime};
use measures::{Scale, Seen};
use report::Board;

/// The pseudo-contestant that is the runtime itself, called by hand.
const BARE: &str = "by hand";

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime
        .map_err(|e| Error::io("start the client's event loop", &e))
        .and_then(|runtime| runtime.block_on(run()));
    if let Err(error) = done {
        eprintln!("bench: {error}");
        std::process::exit(1);
    }
}

/// What the command line asks for: `--quick`, `--only PART`, `--out DIR`.
struct Asked {
    scale: Scale,
    only: Option<String>,
    out: PathBuf,
}

fn asked() -> Result<Asked> {
    let mut asked = Asked {
        scale: Scale::FULL,
        only: None,
        out: "target/bench".into(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            // What cargo passes on its own.
            "--bench" => {}
            "--quick" => asked.scale = Scale::QUICK,
            "--only" => asked.only = words.next(),
            "--out" => asked.out = words.next().unwrap_or_default().into(),
            other => {
                return Err(Error::invalid_argument(format!(
                    "{other}: want --quick, --only PART or --out DIR"
                )));
            }
        }
    }
    Ok(asked)
}

/// What tests/setup/tools has listed.
fn tool(list: &str, name: &str) -> Result<PathBuf> {
    list.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .map(PathBuf::from)
        .ok_or_else(|| Error::unknown(format!("{name} is not in the tools' list: run make tools")))
}

fn contestants(tools: &str, directory: &Path, ours: PathBuf) -> Result<Vec<Contestant>> {
    let go = |dir: &str| Ok::<_, Error>(tool(tools, dir)?.join("containerd-shim-runc-v2"));
    let mut all = vec![
        Contestant {
            name: "cotter".into(),
            binary: ours,
            dialect: Dialect::Proto23,
        },
        Contestant {
            name: "Go, containerd 2.1".into(),
            binary: go("CONTAINERD_2_1")?,
            dialect: Dialect::Json17,
        },
        Contestant {
            name: "Go, containerd 1.7".into(),
            binary: go("CONTAINERD_1_7")?,
            dialect: Dialect::Json17,
        },
    ];
    let peer = directory.join("rust-peer/bin/containerd-shim-runc-v2-rs");
    if !peer.exists() {
        let peer = peer.display();
        return Err(Error::unknown(format!("no {peer}: run bench/peer")));
    }
    all.push(Contestant {
        name: "Rust, containerd-runc-shim".into(),
        binary: peer,
        dialect: Dialect::Proto23,
    });
    Ok(all)
}

async fn run() -> Result<()> {
    let asked = asked()?;
    let (scale, only) = (asked.scale, asked.only.as_deref());
    let list = std::env::var("COTTER_TOOLS").unwrap_or_else(|_| "target/tools".into());
    let directory = fs::canonicalize(&list).unwrap_or_else(|_| list.into());
    let list = directory.join("env");
    let tools =
        fs::read_to_string(&list).map_err(|e| Error::io(format!("read {}", list.display()), &e))?;
    let ours = std::env::var("COTTER_BENCH_SHIM")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_containerd-shim-cotter-v2").into());
    let all = contestants(&tools, &directory, PathBuf::from(ours))?;
    let names: Vec<&str> = all.iter().map(|who| who.name.as_str()).collect();
    let runc = Runtime {
        name: "runc",
        binary: tool(&tools, "RUNC_1_3")?,
    };
    let crun = Runtime {
        name: "crun",
        binary: tool(&tools, "CRUN_1_21")?,
    };
    let mut place = Place::new(tool(&tools, "ROOTFS")?)
        .map_err(|e| Error::io("make a directory for the run", &e))?;
    let mut board = Board::default();
    let bare = Contestant {
        name: BARE.into(),
        ..all[0].clone()
    };

    macro_rules! part {
        ($part:ident, $runtime:expr, $rounds:expr) => {
            part!($part, $runtime, $rounds, &all)
        };
        ($part:ident, $runtime:expr, $rounds:expr, $all:expr) => {
            let name = concat!(stringify!($part));
            if only.is_none_or(|only| only == name) {
                let run = Run {
                    part: name,
                    runtime: $runtime,
                    rounds: $rounds,
                    scale: &scale,
                };
                run.all($all, &mut place, &mut board, measures::$part)
                    .await?;
            }
        };
    }
    for runtime in [&runc, &crun] {
        part!(cycles, runtime, scale.rounds);
        part!(execs, runtime, scale.rounds);
        part!(bare, runtime, scale.rounds, std::slice::from_ref(&bare));
        let name = runtime.name;
        let from = format!("exec cycle, {name}, p50 (ms)");
        board.above(
            &format!("own part of an exec cycle, {name} (ms)"),
            &from,
            BARE,
        );
    }
    part!(calls, &crun, scale.rounds);
    part!(storm, &crun, scale.rounds);
    part!(stream, &crun, scale.rounds.min(3));
    part!(footprint, &crun, 1);
    let after = format!("private memory after {} execs (KB)", scale.many_execs);
    board.derive(
        "growth of private memory by execs (%)",
        [&after, "private memory, 1 container (KB)"],
        |after, before| (after / before - 1.0) * 100.0,
    );
    part!(marginal, &crun, 1);
    part!(idle, &crun, 1);
    part!(runtime_calls, &crun, 1);
    for who in &all {
        let size = fs::metadata(&who.binary).map_or(0, |m| m.len()) as f64 / 1024.0;
        board.note("size of the binary (KB)", &who.name, size);
    }

    let machine = machine(&runc, &crun);
    let mut columns = names.clone();
    columns.push(BARE);
    let table = board.table(&columns);
    println!("\n{machine}\n\n{table}");
    write(&asked.out, &board, &names, &machine, &table)
}

/// One part of the whole.
struct Run<'a> {
    part: &'a str,
    runtime: &'a Runtime,
    rounds: usize,
    scale: &'a Scale,
}

impl Run<'_> {
    /// Every round, every contestant, in an order that turns.
    async fn all(
        &self,
        all: &[Contestant],
        place: &mut Place,
        board: &mut Board,
        measure: impl AsyncFn(&Contestant, &Runtime, &mut Place, &Scale) -> Result<Seen>,
    ) -> Result<()> {
        let Self { part, rounds, .. } = self;
        for round in 0..*rounds {
            for n in 0..all.len() {
                let who = &all[(n + round) % all.len()];
                let begun = Instant::now();
                let seen = measure(who, self.runtime, place, self.scale)
                    .await
                    .map_err(|e| e.context(format!("{part} with {}", who.name)))?;
                for (name, value) in seen {
                    board.note(&name, &who.name, value);
                }
                eprintln!(
                    "{part} ({}), round {} of {rounds}: {} in {:.1} s",
                    self.runtime.name,
                    round + 1,
                    who.name,
                    begun.elapsed().as_secs_f64()
                );
            }
        }
        Ok(())
    }
}

/// What the figures were made on.
fn machine(runc: &Runtime, crun: &Runtime) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let version = |runtime: &Runtime| {
        let told = std::process::Command::new(&runtime.binary)
            .arg("--version")
            .output();
        let told = told.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        told.unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let cpuinfo = read("/proc/cpuinfo");
    format!(
        "{} x {}, {} of memory, Linux {}, {}, {}",
        cpuinfo.matches("processor\t").count(),
        field(&cpuinfo, "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        version(runc),
        version(crun)
    )
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
        "memory of the machine per shim and container",
        "What the machine has less of per shim and container (KB)",
    ),
    ("threads", "threads, idle", "Threads of an idle shim"),
    (
        "exec",
        "own part of an exec cycle, crun (ms)",
        "What the shim adds to an exec of crun (ms)",
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

fn write(out: &Path, board: &Board, names: &[&str], machine: &str, table: &str) -> Result<()> {
    let failed = |e: &std::io::Error| Error::io(format!("write to {}", out.display()), e);
    fs::create_dir_all(out).map_err(|e| failed(&e))?;
    let put = |name: &str, text: &str| fs::write(out.join(name), text).map_err(|e| failed(&e));
    put("table.md", &format!("{machine}\n\n{table}"))?;
    put("figures.json", &format!("{:#}\n", board.json(machine)))?;
    for (name, measure, title) in CHARTS {
        let values = board.medians(measure, names);
        if !values.is_empty() {
            put(&format!("{name}.svg"), &chart::bars(title, &values))?;
        }
    }
    println!("table, figures and charts are in {}", out.display());
    Ok(())
}
