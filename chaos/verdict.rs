//! What a fault did to a shim, and whether that is good enough; pure.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::counts::Counts;
use crate::stream::{Facts, Key, Seen, check, exit_of, expected};

/// A call, and the longest that calls of its kind may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Such as `State`.
    pub what: String,
    /// In milliseconds.
    pub took: u64,
    /// In milliseconds.
    pub limit: u64,
}

/// All that was seen of one shim under one fault.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Processes that ran and so had to exit.
    pub expected: usize,
    /// Those whose exit the manager knows, and knows right.
    pub received: usize,
    /// Events that came again, the same in every byte, right after themselves: what a manager sees
    /// whose answer was lost.
    pub again: usize,
    /// What was told in a wrong order or with wrong content.
    pub wrong: Vec<String>,
    /// What is left of the shim, or what it has more than before.
    pub left: Vec<String>,
    /// The call that came nearest to its limit, or went farthest beyond.
    pub call: Option<Call>,
    /// Whatever else was not as it has to be.
    pub failed: Vec<String>,
    /// What the shim had before and after, where nothing may grow.
    pub counts: Option<(Counts, Counts)>,
}

impl Outcome {
    /// Takes in a stream of events and the facts it is judged by.
    pub fn judge(&mut self, mut stream: Vec<Seen>, mut facts: Facts) {
        let all = stream.len();
        stream.dedup_by(|b, a| a.event == b.event && a.stamp == b.stamp && a.topic == b.topic);
        self.again += all - stream.len();
        let exits: BTreeSet<Key> = stream.iter().filter_map(|s| exit_of(&s.event)).collect();
        let expected = expected(&facts);
        self.expected += expected.len();
        self.received += expected.intersection(&exits).count();
        // Counted as lost, and so no more as wrong.
        for lost in expected.difference(&exits) {
            if let Some(fact) = facts.processes.get_mut(lost) {
                fact.unsure = true;
            }
        }
        self.wrong.extend(check(&stream, &facts));
    }

    /// Takes in what one more round has shown.
    pub fn add(&mut self, round: Self) {
        self.expected += round.expected;
        self.received += round.received;
        self.again += round.again;
        self.wrong.extend(round.wrong);
        self.left.extend(round.left);
        self.failed.extend(round.failed);
        self.counts = round.counts.or(self.counts.take());
        if let Some(call) = round.call {
            let ms = Duration::from_millis;
            self.called(&call.what, ms(call.took), ms(call.limit));
        }
    }

    /// Takes in how long a call took.
    pub fn called(&mut self, what: &str, took: Duration, limit: Duration) {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (took, limit) = (ms(took), ms(limit).max(1));
        let worse = |than: &Call| {
            u128::from(took) * u128::from(than.limit) > u128::from(than.took) * u128::from(limit)
        };
        if self.call.as_ref().is_none_or(worse) {
            self.call = Some(Call {
                what: what.into(),
                took,
                limit,
            });
        }
    }

    /// Whether nothing was lost, misordered, left behind or late, and nothing else failed.
    pub fn good(&self) -> bool {
        self.expected == self.received
            && self.wrong.is_empty()
            && self.left.is_empty()
            && self.failed.is_empty()
            && !self.late()
    }

    /// Whether a call went beyond its limit.
    fn late(&self) -> bool {
        self.call
            .as_ref()
            .is_some_and(|call| call.took > call.limit)
    }

    /// What is not good, a line each.
    pub fn complaints(&self) -> Vec<String> {
        let lost = self.expected - self.received.min(self.expected);
        let lost = (lost > 0).then(|| format!("{lost} exits lost"));
        let extra = self.received.saturating_sub(self.expected);
        let extra = (extra > 0).then(|| format!("{extra} exits too many"));
        let late = self.call.as_ref().filter(|call| call.took > call.limit);
        let late =
            late.map(|call| format!("{} took {} ms of {}", call.what, call.took, call.limit));
        let wrong = self.wrong.iter().map(|w| format!("wrong: {w}"));
        let left = self.left.iter().map(|l| format!("left: {l}"));
        let failed = self.failed.iter().map(|f| format!("failed: {f}"));
        let all = lost.into_iter().chain(extra).chain(late).chain(wrong);
        all.chain(left).chain(failed).collect()
    }

    fn cells(&self) -> String {
        let again = match self.again {
            0 => String::new(),
            again => format!(" (+{again} again)"),
        };
        let mut call = "–".to_owned();
        if let Some(c) = &self.call {
            let mark = if c.took > c.limit { "**" } else { "" };
            let seconds = |ms: u64| ms as f64 / 1000.0;
            let (took, limit) = (seconds(c.took), seconds(c.limit));
            call = format!("{mark}{} {took:.2} of {limit:.0} s{mark}", c.what);
        }
        let bold = |count: usize| match count {
            0 => "0".to_owned(),
            count => format!("**{count}**"),
        };
        let exits = match self.expected == self.received {
            true => format!("{}/{}", self.received, self.expected),
            false => format!("**{}/{}**", self.received, self.expected),
        };
        let other = if self.failed.is_empty() {
            ""
        } else {
            ", **failed**"
        };
        format!(
            "{exits}{again} | {} | {} | {call}{other}",
            bold(self.wrong.len()),
            bold(self.left.len())
        )
    }
}

/// One fault and what it did to each shim.
pub struct Row {
    /// The fault.
    pub fault: String,
    /// By shim; none where the fault does not apply to it.
    pub outcomes: Vec<Option<Outcome>>,
}

/// The table of all rows; `shims` are the columns.
pub fn table(shims: &[&str], rows: &[Row]) -> String {
    let mut out = String::from("| fault |");
    for shim in shims {
        let _ = write!(
            out,
            " {shim}: exits | wrong | left | longest call of its limit |"
        );
    }
    out.push_str("\n|---|");
    out.push_str(&"---:|---:|---:|---|".repeat(shims.len()));
    out.push('\n');
    for row in rows {
        let _ = write!(out, "| {} |", row.fault);
        for (_, outcome) in shims.iter().zip(&row.outcomes) {
            let cells = outcome.as_ref().map(Outcome::cells);
            let _ = write!(out, " {} |", cells.unwrap_or("n/a | – | – | –".into()));
        }
        out.push('\n');
    }
    out
}

/// What the shims had before and after the faults in which nothing may grow; empty without any.
pub fn growth(shims: &[&str], rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        for (shim, outcome) in shims.iter().zip(&row.outcomes) {
            let counts = outcome.as_ref().and_then(|o| o.counts.as_ref());
            let Some((before, after)) = counts else {
                continue;
            };
            let pair = |of: fn(&Counts) -> usize| format!("{} → {}", of(before), of(after));
            let _ = writeln!(
                out,
                "| {} | {shim} | {} | {} | {} | {} | {} → {} KiB |",
                row.fault,
                pair(|c| c.open.len()),
                pair(|c| c.threads),
                pair(|c| c.children.len()),
                pair(|c| c.mounts.len()),
                before.memory,
                after.memory,
            );
        }
    }
    if out.is_empty() {
        return out;
    }
    let head =
        "| before → after | shim | open files | threads | children | mounts | private memory |";
    format!("{head}\n|---|---|---:|---:|---:|---:|---:|\n{out}")
}

/// The sums of a column, in words.
pub fn sums(shim: usize, rows: &[Row]) -> String {
    let outcomes = || {
        rows.iter()
            .filter_map(|row| row.outcomes.get(shim)?.as_ref())
    };
    let sum = |of: fn(&Outcome) -> usize| outcomes().map(of).sum::<usize>();
    format!(
        "{} faults, {} of {} exits, {} wrong, {} left, {} beyond a limit, {} failed",
        outcomes().count(),
        sum(|o| o.received),
        sum(|o| o.expected),
        sum(|o| o.wrong.len()),
        sum(|o| o.left.len()),
        sum(|o| usize::from(o.late())),
        sum(|o| usize::from(!o.failed.is_empty())),
    )
}

/// The same for programs.
pub fn json(shims: &[&str], rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let outcomes = shims.iter().zip(&row.outcomes);
        let outcomes: serde_json::Map<String, Value> = outcomes
            .map(|(shim, outcome)| ((*shim).to_owned(), json!(outcome)))
            .collect();
        json!({"fault": row.fault, "outcomes": outcomes})
    };
    json!(rows.iter().map(row).collect::<Vec<_>>())
}
