//! What was measured: a value per round for each contestant and measure; pure.
//!
//! Invariant: round `n` of one contestant stands beside round `n` of every other. Who fails a round of
//! a measure has no later ones.

use std::collections::BTreeMap;

use crate::figures::{Ratio, median, ratio};

/// One measure: a value per round for each contestant that has it.
pub type Rounds = BTreeMap<String, Vec<f64>>;

/// Why there is nothing where a figure should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The part of the run.
    pub part: String,
    /// Whose.
    pub who: String,
    /// What it said.
    pub why: String,
}

/// All that was measured, in the order of measuring.
#[derive(Clone, Debug, Default)]
pub struct Board {
    rows: Vec<(String, Rounds)>,
    gaps: Vec<Gap>,
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

    /// Notes that there will be nothing of `who` in this part.
    pub fn gap(&mut self, part: &str, who: &str, why: String) {
        let (part, who) = (part.to_owned(), who.to_owned());
        self.gaps.push(Gap { part, who, why });
    }

    /// Every measure, in order.
    pub fn rows(&self) -> &[(String, Rounds)] {
        &self.rows
    }

    /// What is missing, and why.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// The first measure whose name begins so.
    pub fn find(&self, beginning: &str) -> Option<(&str, &Rounds)> {
        let row = self
            .rows
            .iter()
            .find(|(name, _)| name.starts_with(beginning));
        row.map(|(name, rounds)| (name.as_str(), rounds))
    }

    /// One contestant against another.
    pub fn ratio(&self, measure: &str, ours: &str, theirs: &str) -> Option<Ratio> {
        let (_, rounds) = self.rows.iter().find(|(name, _)| name == measure)?;
        ratio(rounds.get(ours)?, rounds.get(theirs)?)
    }

    /// The middle values of a measure, in the order of `names`.
    pub fn medians<'a>(&self, measure: &str, names: &[&'a str]) -> Vec<(&'a str, f64)> {
        let of = |name: &&'a str| Some((*name, median(self.find(measure)?.1.get(*name)?)));
        names.iter().filter_map(of).collect()
    }

    /// Adds a measure made of two others of the same contestant, round by round.
    pub fn derive(&mut self, measure: &str, from: [String; 2], make: impl Fn(f64, f64) -> f64) {
        let [Some((_, a)), Some((_, b))] = from.map(|name| self.find(&name)) else {
            return;
        };
        let (a, b) = (a.clone(), b.clone());
        for (who, values) in &a {
            for (a, b) in values.iter().zip(b.get(who).map_or(&[][..], Vec::as_slice)) {
                self.note(measure, who, make(*a, *b));
            }
        }
    }

    /// Adds a measure that is another less what `floor` showed of it: its middle value, as it may have had
    /// fewer rounds.
    pub fn above(&mut self, measure: &str, from: &str, floor: &str) {
        let Some((_, rounds)) = self.find(from) else {
            return;
        };
        let mut rounds = rounds.clone();
        let Some(floor) = rounds.remove(floor) else {
            return;
        };
        let middle = median(&floor);
        for (who, values) in rounds {
            for (n, value) in values.iter().enumerate() {
                let least = floor.get(n).copied().unwrap_or(middle);
                self.note(measure, &who, value - least);
            }
        }
    }
}
