//! Every parser of other people's text, against a corpus bent at random: what `make fuzz` does for as
//! long as one likes and guided by coverage, here for a moment, on any machine and always the same.
//!
//! After a failure `COTTER_SEED` with the seed it names runs that input alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../fuzz/targets.rs"]
mod targets;

#[path = "common/random.rs"]
#[allow(dead_code)]
mod random;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use random::Random;
use targets::{TARGETS, Target};

/// Inputs of each parser besides the corpus.
const INPUTS: u64 = 4_000;

/// No parser may take longer over an input of a few kilobytes; those that should take microseconds.
const FOREVER: Duration = Duration::from_secs(20);

fn below(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(dir);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let files = below(&format!("corpus/{name}"));
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// The input that comes of a seed: mostly one of the corpus, bent once or more often.
fn input(seed: u64, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut random = Random::new(seed);
    if random.below(20) == 0 {
        return random.bytes(200);
    }
    let mut input = random.of(corpus).clone();
    for _ in 0..=random.below(3) {
        let other = random.of(corpus);
        input = random.bend(&input, other);
    }
    input
}

/// Whether the parser survives; what it says when it does not is on standard error.
fn survives((name, parse): Target, input: &[u8], what: &str) {
    let begin = Instant::now();
    let survived = catch_unwind(|| parse(input)).is_ok();
    assert!(survived, "{name} of {what}: {}", input.escape_ascii());
    assert!(begin.elapsed() < FOREVER, "{name} of {what} takes forever");
}

fn run(target: Target) {
    let corpus = corpus(target.0);
    if let Ok(seed) = std::env::var("COTTER_SEED") {
        let seed = seed.parse().expect("a number");
        return survives(target, &input(seed, &corpus), "the given seed");
    }
    survives(target, b"", "nothing");
    for (n, good) in corpus.iter().enumerate() {
        survives(target, good, &format!("corpus file {n}"));
    }
    for seed in 0..INPUTS {
        survives(target, &input(seed, &corpus), &format!("seed {seed}"));
    }
}

#[test]
fn every_parser_survives() {
    std::thread::scope(|scope| {
        for half in TARGETS.chunks(TARGETS.len().div_ceil(2)) {
            scope.spawn(|| half.iter().for_each(|target| run(*target)));
        }
    });
}

/// A parser that is on the list is in every place where it has to be, and nothing else is.
#[test]
fn the_list_is_the_list() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len());
    let stems = |dir: &str| -> BTreeSet<String> {
        let paths = below(dir);
        let stems = paths.iter().map(|path| path.file_stem().unwrap());
        stems
            .map(|stem| stem.to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(stems("fuzz_targets"), names);
    assert_eq!(stems("corpus"), names);
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    let bins = manifest.split("[[bin]]\n").skip(1);
    let bins = bins.map(|bin| bin.split('"').nth(1).unwrap().to_owned());
    assert_eq!(bins.collect::<BTreeSet<_>>(), names);
}
