//! The tables for people, the JSON for programs; pure.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::board::Board;
use crate::figures::{Ratio, median, shown};
use crate::targets::{Sides, Verdict, verdicts};

fn spread(ratio: Option<Ratio>) -> String {
    ratio.map_or("–".into(), |r| {
        format!("{} ({}–{})", shown(r.median), shown(r.least), shown(r.most))
    })
}

/// Every measure: the middle values of `names`, and ours against each of `others`.
pub fn table(board: &Board, names: &[&str], ours: &str, others: &[&str]) -> String {
    let mut out = String::from("| measure |");
    for name in names {
        let _ = write!(out, " {name} |");
    }
    for other in others {
        let _ = write!(out, " {ours} / {other} (spread) |");
    }
    out.push_str("\n|---|");
    out.push_str(&"---:|".repeat(names.len() + others.len()));
    out.push('\n');
    for (measure, rounds) in board.rows() {
        let _ = write!(out, "| {measure} |");
        for name in names {
            let cell = rounds.get(*name).map(|v| shown(median(v)));
            let _ = write!(out, " {} |", cell.unwrap_or_else(|| "–".into()));
        }
        for other in others {
            let _ = write!(out, " {} |", spread(board.ratio(measure, ours, other)));
        }
        out.push('\n');
    }
    out
}

/// Every target, what came of it, and how many were met.
pub fn targets(board: &Board, sides: Sides) -> String {
    let verdicts = verdicts(board, sides);
    let mut out = format!(
        "| measure | target | {} | {} | ratio (spread) | |\n|---|---|---:|---:|---:|---|\n",
        sides.ours, sides.theirs
    );
    for verdict in &verdicts {
        let Verdict {
            measure,
            goal,
            own,
            other,
            ratio,
            outcome,
        } = verdict;
        let other = other.map_or("–".into(), shown);
        let _ = writeln!(
            out,
            "| {measure} | {goal} | {} | {other} | {} | {} |",
            shown(*own),
            spread(*ratio),
            outcome.text()
        );
    }
    let met = verdicts
        .iter()
        .filter(|v| v.outcome == crate::targets::Outcome::Met);
    let _ = writeln!(out, "\n{} of {} targets met.", met.count(), verdicts.len());
    out
}

/// What is missing and why; nothing if nothing is.
pub fn gaps(board: &Board) -> String {
    let line = |gap: &crate::board::Gap| {
        let why = gap.why.replace('\n', " ");
        format!("- {}, {}: {why}\n", gap.part, gap.who)
    };
    let lines: String = board.gaps().iter().map(line).collect();
    match lines.is_empty() {
        true => lines,
        false => format!("\nNot measured:\n\n{lines}"),
    }
}

/// Everything, round by round.
pub fn json(board: &Board, sides: Sides, machine: &str) -> Value {
    let rows: Vec<Value> = board
        .rows()
        .iter()
        .map(|(measure, rounds)| json!({"measure": measure, "rounds": rounds}))
        .collect();
    let targets: Vec<Value> = verdicts(board, sides)
        .iter()
        .map(|v| json!({"measure": v.measure, "target": v.goal, "outcome": v.outcome.text().replace('*', "")}))
        .collect();
    let gaps: Vec<Value> = board
        .gaps()
        .iter()
        .map(|gap| json!({"part": gap.part, "who": gap.who, "why": gap.why}))
        .collect();
    json!({"machine": machine, "measures": rows, "targets": targets, "gaps": gaps})
}
