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
mod counts;
#[path = "../tests/common/disk.rs"]
mod disk;
mod faults;
#[path = "../tests/common/held_up.rs"]
mod held_up;
#[path = "../tests/order/ledger.rs"]
mod ledger;
mod line;
mod patience;
#[path = "../tests/faults/runtime.rs"]
mod runtime;
mod scene;
#[path = "../tests/order/stream.rs"]
mod stream;
mod sweep;
mod verdict;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};

use faults::{FAULTS, Fault};
use verdict::{Outcome, Row, growth, json, sums, table};

/// How many of what is wrong with one shim under one fault are printed; the rest is in the files.
const COMPLAINTS: usize = 10;

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
    /// How many cycles of an exec are run to see what adds up.
    pub cycles: usize,
    /// How many cycles of a container.
    pub containers: usize,
    /// How many Waits and how many streams are abandoned.
    pub abandoned: usize,
    /// How often a manager comes and goes.
    pub flaps: usize,
    /// How long one fault may take with one shim.
    pub limit: Duration,
    /// How long all may take; what is not begun by then is failed.
    total: Duration,
    seed: u64,
}

impl Scale {
    const LONG: Self = Self {
        outage: Duration::from_secs(60),
        outage_execs: 5000,
        execs: 200,
        cycles: 10_000,
        containers: 500,
        abandoned: 1_000,
        flaps: 40,
        limit: Duration::from_secs(540),
        total: Duration::from_secs(45 * 60),
        seed: 0,
    };
    const SHORT: Self = Self {
        outage: Duration::from_secs(5),
        outage_execs: 300,
        execs: 40,
        cycles: 500,
        containers: 25,
        abandoned: 50,
        flaps: 10,
        limit: Duration::from_secs(90),
        total: Duration::from_secs(20 * 60),
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
    /// `--theirs`: the Go shim alone.
    theirs: bool,
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
        theirs: false,
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
            "--theirs" => asked.theirs = true,
            "--only" => asked.only = value()?,
            "--seed" => asked.seed = value()?.parse().map_err(|e| format!("{word}: {e}"))?,
            "--out" => asked.out = value()?.into(),
            "--one" => asked.one = Some((value()?, value()?.into())),
            _ => {
                return Err(format!(
                    "{word}: want --short, --ours, --theirs, --only TEXT, --seed N or --out DIR"
                ));
            }
        }
    }
    Ok(asked)
}

impl Asked {
    fn shims(&self) -> &'static [&'static str] {
        match (self.ours, self.theirs) {
            (true, _) => &SHIMS[..1],
            (false, true) => &SHIMS[1..],
            (false, false) => &SHIMS,
        }
    }

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
    if let Some(file) = std::env::var_os(held_up::FILE) {
        held_up::held(&file);
        return ExitCode::SUCCESS;
    }
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
    let whole = || {
        threads.unwrap().block_on(async {
            let fault = tokio::time::timeout(end, (fault.run)(scale));
            fault.await.expect("the fault ends")
        })
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(whole));
    let outcome = outcome.unwrap_or_else(|why| {
        let text = why.downcast_ref::<String>().map(String::as_str);
        let text = text.or(why.downcast_ref::<&str>().copied());
        failed(format!("panicked: {}", text.unwrap_or_default()))
    });
    let text = serde_json::to_vec(&outcome).unwrap();
    fs::write(file, text).unwrap();
    ExitCode::SUCCESS
}

fn failed(why: String) -> Outcome {
    Outcome {
        failed: vec![why],
        ..Outcome::default()
    }
}

/// Runs every fault on every shim, and judges.
fn all(asked: &Asked) -> ExitCode {
    fs::create_dir_all(&asked.out).unwrap();
    println!("seed {}", asked.seed);
    let begun = Instant::now();
    let mut rows = Vec::new();
    let mut good = true;
    let faults = || FAULTS.iter().filter(|f| f.name.contains(&asked.only));
    for (place, fault) in faults().enumerate() {
        let mut outcomes = Vec::new();
        for shim in asked.shims() {
            let ours = *shim == SHIMS[0];
            if !ours && fault.ours.is_some() {
                outcomes.push(None);
                continue;
            }
            print!(
                "{:2}/{} {}: {shim} ",
                place + 1,
                faults().count(),
                fault.name
            );
            let _ = std::io::stdout().flush();
            let now = Instant::now();
            let outcome = match begun.elapsed() < asked.scale().total {
                true => apart(asked, fault, ours),
                false => failed(format!("no time left of {:?}", asked.scale().total)),
            };
            let seconds = now.elapsed().as_secs_f64();
            let (got, of) = (outcome.received, outcome.expected);
            let word = if outcome.good() { "good" } else { "BAD" };
            println!("{word}, {got}/{of} exits, {seconds:.1} s");
            good &= outcome.good() || !ours;
            outcomes.push(Some(outcome));
        }
        let fault = fault.name.into();
        rows.push(Row { fault, outcomes });
    }
    let shims = asked.shims();
    let mut text = format!("{}\n{}", table(shims, &rows), growth(shims, &rows));
    for (n, shim) in shims.iter().enumerate() {
        text += &format!("\n{shim}: {}\n", sums(n, &rows));
    }
    println!("\n{text}{:.0} s", begun.elapsed().as_secs_f64());
    let files = ["md", "json"].map(|kind| asked.out.with_extension(kind));
    fs::write(&files[0], &text).unwrap();
    fs::write(&files[1], format!("{:#}\n", json(shims, &rows))).unwrap();
    println!(
        "the same is in {} and {}",
        files[0].display(),
        files[1].display()
    );
    for row in &rows {
        for (shim, outcome) in shims.iter().zip(&row.outcomes) {
            if let Some(outcome) = outcome.as_ref().filter(|o| !o.good()) {
                let why = outcome.complaints();
                let more = why.len().saturating_sub(COMPLAINTS);
                println!("\n{}: {shim}: ", row.fault);
                why.iter()
                    .take(COMPLAINTS)
                    .for_each(|line| println!("  {line:.300}"));
                if more > 0 {
                    println!("  and {more} more");
                }
            }
        }
    }
    ExitCode::from(u8::from(!good))
}

/// Runs one fault on one shim in a process of its own, which is ended when it does not end, and
/// clears away what it has left, so that the next fault starts clean.
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
    sweep::after(child.id());
    let told = fs::read(&file).ok();
    told.and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_else(|| failed(format!("{ended}; see {}", log.display())))
}
