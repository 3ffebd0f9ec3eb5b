//! The table for people, the JSON for programs, and whether each target is met; pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::figures::{Ratio, median, ratio, shown};

/// What cotter is to reach, against the Go shim of the newest containerd at hand.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// At most this ratio.
    AtMost(f64),
    /// At least this ratio: more is better.
    AtLeast(f64),
    /// At most this value of its own.
    Below(f64),
}

/// The targets, by the measure's name.
const TARGETS: &[(&str, Target)] = &[
    (
        "start to address, runc, p50 (ms)",
        Target::AtMost(1.0 / 3.0),
    ),
    (
        "start to address, crun, p50 (ms)",
        Target::AtMost(1.0 / 3.0),
    ),
    ("Delete, runc, p50 (ms)", Target::AtMost(0.5)),
    ("Delete, runc, p99 (ms)", Target::AtMost(1.0 / 3.0)),
    ("Delete, crun, p50 (ms)", Target::AtMost(0.5)),
    ("Delete, crun, p99 (ms)", Target::AtMost(1.0 / 3.0)),
    ("own part of an exec cycle, runc (ms)", Target::AtMost(0.5)),
    ("own part of an exec cycle, crun (ms)", Target::AtMost(0.5)),
    (
        "exec, 16 at once, runc, wall per exec (ms)",
        Target::AtMost(0.9),
    ),
    (
        "exec, 16 at once, crun, wall per exec (ms)",
        Target::AtMost(0.9),
    ),
    ("State, p50 (ms)", Target::AtMost(1.0)),
    (
        "State under 16 execs at once, p99 (ms)",
        Target::AtMost(0.5),
    ),
    (
        "shim CPU for stdout, 64 KiB writes (s/GiB)",
        Target::AtMost(0.2),
    ),
    ("private memory, 1 container (KB)", Target::AtMost(0.1)),
    ("private memory, 1 container (KB)", Target::Below(400.0)),
    (
        "private memory per further container (KB)",
        Target::Below(25.0),
    ),
    ("growth of private memory by execs (%)", Target::Below(10.0)),
    (
        "memory of the machine per shim and container",
        Target::AtMost(1.0 / 8.0),
    ),
    ("threads, idle", Target::Below(1.0)),
    ("wake-ups of an idle shim (1/min)", Target::Below(0.0)),
    ("exits in a storm (1/s)", Target::AtLeast(1.0)),
    ("stdout, 64 KiB writes (MiB/s)", Target::AtLeast(1.0)),
];

/// One measure: a value per round for each contestant that has it.
pub type Rounds = BTreeMap<String, Vec<f64>>;

/// All that was measured, in the order of measuring.
#[derive(Clone, Debug, Default)]
pub struct Board {
    rows: Vec<(String, Rounds)>,
}

impl Board {
    /// Notes what `who` showed of `measure` in one more round.
    pub fn note(&mut self, measure: &str, who: &str, value: f64) {
        let place = self.rows.iter().position(|(name, _)| name == measure);
        let place = place.unwrap_or_else(|| {
            self.rows.push((measure.into(), Rounds::new()));
            self.rows.len() - 1
        });
        let rounds = self.rows[place].1.entry(who.into()).or_default();
        rounds.push(value);
    }

    /// The rounds of one measure.
    pub fn rounds(&self, measure: &str) -> Option<&Rounds> {
        self.rows
            .iter()
            .find(|(name, _)| name == measure)
            .map(|(_, rounds)| rounds)
    }

    /// Adds a measure made of two others of the same contestant, round by round.
    pub fn derive(&mut self, measure: &str, from: [&str; 2], make: impl Fn(f64, f64) -> f64) {
        let (Some(a), Some(b)) = (self.rounds(from[0]), self.rounds(from[1])) else {
            return;
        };
        let (a, b) = (a.clone(), b.clone());
        for (who, values) in &a {
            for (n, value) in values.iter().enumerate() {
                if let Some(other) = b.get(who).and_then(|b| b.get(n)) {
                    self.note(measure, who, make(*value, *other));
                }
            }
        }
    }

    /// Adds a measure that is another less what `floor` showed of it.
    pub fn above(&mut self, measure: &str, from: &str, floor: &str) {
        let Some(rounds) = self.rounds(from).cloned() else {
            return;
        };
        let Some(least) = rounds.get(floor) else {
            return;
        };
        for (who, values) in rounds.iter().filter(|(who, _)| *who != floor) {
            for (value, least) in values.iter().zip(least) {
                self.note(measure, who, value - least);
            }
        }
    }

    fn ratio(&self, rounds: &Rounds, ours: &str, theirs: &str) -> Option<Ratio> {
        ratio(rounds.get(ours)?, rounds.get(theirs)?)
    }

    /// The table, with the contestants in the order given, the first against the second.
    pub fn table(&self, names: &[&str]) -> String {
        let mut out = String::from("| measure |");
        for name in names {
            let _ = write!(out, " {name} |");
        }
        let _ = write!(
            out,
            " {} / {} (spread) | target |\n|---|",
            names[0], names[1]
        );
        out.push_str(&"---:|".repeat(names.len() + 1));
        out.push_str("---|\n");
        for (measure, rounds) in &self.rows {
            let _ = write!(out, "| {measure} |");
            for name in names {
                let cell = rounds.get(*name).map(|v| shown(median(v)));
                let _ = write!(out, " {} |", cell.unwrap_or_else(|| "–".into()));
            }
            let ratio = self.ratio(rounds, names[0], names[1]);
            let cell = ratio.map_or("–".into(), |r| {
                format!("{} ({}–{})", shown(r.median), shown(r.least), shown(r.most))
            });
            let verdicts: Vec<String> = self.verdicts(measure, rounds, names).collect();
            let _ = writeln!(out, " {cell} | {} |", verdicts.join(", "));
        }
        out
    }

    fn verdicts<'a>(
        &'a self,
        measure: &'a str,
        rounds: &'a Rounds,
        names: &'a [&str],
    ) -> impl Iterator<Item = String> + 'a {
        let mine = TARGETS.iter().filter(|(name, _)| measure.starts_with(name));
        mine.filter_map(move |(_, target)| {
            let ratio = self.ratio(rounds, names[0], names[1]).map(|r| r.median);
            let (met, text) = match *target {
                Target::AtMost(most) => (ratio? <= most, format!("≤ {}", shown(most))),
                Target::AtLeast(least) => (ratio? >= least, format!("≥ {}", shown(least))),
                Target::Below(most) => {
                    let own = median(rounds.get(names[0])?);
                    (own <= most, format!("own ≤ {}", shown(most)))
                }
            };
            Some(format!("{text} {}", if met { "met" } else { "**missed**" }))
        })
    }

    /// Everything, round by round.
    pub fn json(&self, machine: &str) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(measure, rounds)| json!({"measure": measure, "rounds": rounds}))
            .collect();
        json!({"machine": machine, "measures": rows})
    }

    /// The medians of one measure, in the order of `names`.
    pub fn medians<'a>(&self, measure: &str, names: &[&'a str]) -> Vec<(&'a str, f64)> {
        let rounds = self.rows.iter().find(|(name, _)| name.starts_with(measure));
        let of = |name: &&'a str| {
            let (_, rounds) = rounds?;
            Some((*name, median(rounds.get(*name)?)))
        };
        names.iter().filter_map(of).collect()
    }
}
