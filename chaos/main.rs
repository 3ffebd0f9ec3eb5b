//! `make chaos`: everything around a shim goes wrong, one fault by name after the other, and all
//! that must not get lost is counted. cotter and the Go shim of containerd 2.1 through the same
//! client, in one table.
//!
//! Each fault on each shim runs in a process of its own, so that one that hangs or panics is a row
//! in the table and not the end of the run.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used
)]

#[path = "../tests/common/mod.rs"]
mod common;
mod faults;
#[path = "../tests/order/ledger.rs"]
mod ledger;
mod line;
#[path = "../tests/faults/runtime.rs"]
mod runtime;
mod scene;
#[path = "../tests/order/stream.rs"]
mod stream;
mod verdict;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};

use faults::{FAULTS, Fault};
use verdict::{Outcome, Row, json, table};

/// The columns of the table.
const SHIMS: [&str; 2] = ["cotter", "Go, containerd 2.1"];

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// How long the manager is away.
    pub outage: Duration,
    /// How many execs exit meanwhile.
    pub outage_execs: usize,
    /// How many execs exit under other faults.
    pub execs: usize,
    /// How often a manager comes and goes.
    pub flaps: usize,
    /// How long one fault may take with one shim.
    pub limit: Duration,
    seed: u64,
}

impl Scale {
    const LONG: Self = Self {
        outage: Duration::from_secs(60),
        outage_execs: 5000,
        execs: 200,
        flaps: 40,
        limit: Duration::from_secs(900),
        seed: 0,
    };
    const SHORT: Self = Self {
        outage: Duration::from_secs(5),
        outage_execs: 300,
        execs: 40,
        flaps: 10,
        limit: Duration::from_secs(90),
        seed: 0,
    };

    /// The next number of chance below `end`; the same ones again with the same `--seed`.
    pub fn random(&mut self, end: u64) -> u64 {
        // xorshift64
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % end
    }
}

/// What the command line asks for.
struct Asked {
    /// `--short`: less of everything.
    short: bool,
    /// `--ours`: without the Go shim.
    ours: bool,
    /// `--only TEXT`: the faults whose names contain it.
    only: String,
    /// `--seed N`: for the moments of chance.
    seed: u64,
    /// `--out DIR`.
    out: PathBuf,
    /// `--one NAME FILE`: this fault, here, and its outcome to a file.
    one: Option<(String, PathBuf)>,
}

fn asked() -> Result<Asked, String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mut asked = Asked {
        short: false,
        ours: false,
        only: String::new(),
        seed: now.map_or(1, |now| now.as_secs()),
        out: "target/chaos".into(),
        one: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} what?"));
        match word.as_str() {
            // What cargo passes on its own.
            "--bench" => {}
            "--short" => asked.short = true,
            "--ours" => asked.ours = true,
            "--only" => asked.only = value()?,
            "--seed" => asked.seed = value()?.parse().map_err(|e| format!("{word}: {e}"))?,
            "--out" => asked.out = value()?.into(),
            "--one" => asked.one = Some((value()?, value()?.into())),
            _ => {
                return Err(format!(
                    "{word}: want --short, --ours, --only TEXT, --seed N or --out DIR"
                ));
            }
        }
    }
    Ok(asked)
}

impl Asked {
    fn scale(&self) -> Scale {
        let scale = if self.short {
            Scale::SHORT
        } else {
            Scale::LONG
        };
        // A seed of zero stays zero.
        let seed = self.seed | 1 << 63;
        Scale { seed, ..scale }
    }
}

fn main() -> ExitCode {
    let asked = match asked() {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("chaos: {why}");
            return ExitCode::from(2);
        }
    };
    match &asked.one {
        Some((name, file)) => one(name, file, asked.scale()),
        None => all(&asked),
    }
}

/// Runs one fault in this process, on the shim that `COTTER_TEST_SHIM` names.
fn one(name: &str, file: &Path, scale: Scale) -> ExitCode {
    let fault = FAULTS.iter().find(|fault| fault.name == name);
    let fault = fault.expect("the name of a fault");
    let threads = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    // A panic, which ends the scene in order, unlike the limit of who waits for this process.
    let end = tokio::time::Duration::from_secs(scale.limit.as_secs() * 9 / 10);
    let outcome = threads.unwrap().block_on(async {
        let fault = tokio::time::timeout(end, (fault.run)(scale));
        fault.await.expect("the fault ends")
    });
    let text = serde_json::to_vec(&outcome).unwrap();
    fs::write(file, text).unwrap();
    ExitCode::SUCCESS
}

/// Runs every fault on every shim, and judges.
fn all(asked: &Asked) -> ExitCode {
    fs::create_dir_all(&asked.out).unwrap();
    println!("seed {}", asked.seed);
    let mut rows = Vec::new();
    let mut good = true;
    for fault in FAULTS.iter().filter(|f| f.name.contains(&asked.only)) {
        let mut outcomes = Vec::new();
        for (n, shim) in SHIMS.iter().enumerate() {
            let ours = n == 0;
            if !ours && (asked.ours || fault.ours.is_some()) {
                outcomes.push(None);
                continue;
            }
            let begun = Instant::now();
            let outcome = apart(asked, fault, ours);
            let seconds = begun.elapsed().as_secs_f64();
            let word = if outcome.good() { "good" } else { "BAD" };
            println!("{word:4} {seconds:5.1} s  {}: {shim}", fault.name);
            good &= outcome.good() || !ours;
            outcomes.push(Some(outcome));
        }
        let fault = fault.name.into();
        rows.push(Row { fault, outcomes });
    }
    let table = table(&SHIMS, &rows);
    println!("\n{table}");
    fs::write(asked.out.join("table.md"), &table).unwrap();
    let text = format!("{:#}\n", json(&SHIMS, &rows));
    fs::write(asked.out.join("results.json"), text).unwrap();
    println!("table and results are in {}", asked.out.display());
    for row in &rows {
        if let Some(outcome) = row.outcomes[0].as_ref().filter(|o| !o.good()) {
            println!("\n{}: {}", row.fault, outcome.complaints().join("\n  "));
        }
    }
    ExitCode::from(u8::from(!good))
}

/// Runs one fault on one shim in a process of its own, which is ended when it does not end.
fn apart(asked: &Asked, fault: &Fault, ours: bool) -> Outcome {
    let name: String = fault.name.replace(|c: char| !c.is_alphanumeric(), "-");
    let shim = if ours { "ours" } else { "go" };
    let file = asked.out.join(format!("{name}.{shim}.json"));
    let log = asked.out.join(format!("{name}.{shim}.log"));
    let _ = fs::remove_file(&file);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--seed", &asked.seed.to_string()])
        .args(asked.short.then_some("--short"))
        .args(["--one", fault.name])
        .arg(&file)
        .stdout(File::create(&log).unwrap())
        .stderr(File::options().append(true).open(&log).unwrap())
        .process_group(0);
    if !ours {
        command.env("COTTER_TEST_SHIM", "go");
    }
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + asked.scale().limit;
    let ended = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status.to_string(),
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                break format!("no end within {:?}", asked.scale().limit);
            }
        }
    };
    let told = fs::read(&file).ok();
    told.and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_else(|| Outcome {
            failed: vec![format!("{ended}; see {}", log.display())],
            ..Outcome::default()
        })
}
