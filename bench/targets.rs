//! What cotter is to reach, and whether it has; pure.

use crate::board::Board;
use crate::figures::{Ratio, median, shown};

/// What a target is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At most this ratio to the Go shim.
    AtMost(f64),
    /// At least this ratio to the Go shim: more is better.
    AtLeast(f64),
    /// At most this value of its own.
    Own(f64),
    /// At least this ratio to the same without any shim.
    OfBare(f64),
}

/// The targets, by the beginning of the measure's name.
pub const TARGETS: &[(&str, Goal)] = &[
    ("private memory, 1 container (KB)", Goal::AtMost(0.1)),
    ("private memory, 1 container (KB)", Goal::Own(400.0)),
    (
        "private memory per further container, of 100",
        Goal::Own(25.0),
    ),
    ("growth of private memory by execs (%)", Goal::Own(10.0)),
    ("memory charged per shim alone", Goal::AtMost(1.0 / 8.0)),
    ("threads, idle", Goal::Own(1.0)),
    ("wake-ups of an idle shim (1/min)", Goal::Own(0.0)),
    ("start to address, runc, p50 (ms)", Goal::AtMost(1.0 / 3.0)),
    ("start to address, crun, p50 (ms)", Goal::AtMost(1.0 / 3.0)),
    ("own part of an exec cycle, runc (ms)", Goal::AtMost(0.5)),
    ("own part of an exec cycle, crun (ms)", Goal::AtMost(0.5)),
    ("own part of an exec cycle, crun (ms)", Goal::Own(2.0)),
    (
        "exec, 16 at once, runc, wall per exec (ms)",
        Goal::AtMost(0.9),
    ),
    (
        "exec, 16 at once, crun, wall per exec (ms)",
        Goal::AtMost(0.9),
    ),
    ("wall per exec, 64 against 16 at once, runc", Goal::Own(1.1)),
    ("wall per exec, 64 against 16 at once, crun", Goal::Own(1.1)),
    ("exec, 64 at once, runc, p99 (ms)", Goal::AtMost(1.0)),
    ("exec, 64 at once, crun, p99 (ms)", Goal::AtMost(1.0)),
    ("Delete, runc, p50 (ms)", Goal::AtMost(0.5)),
    ("Delete, runc, p99 (ms)", Goal::AtMost(1.0 / 3.0)),
    ("Delete, crun, p50 (ms)", Goal::AtMost(0.5)),
    ("Delete, crun, p99 (ms)", Goal::AtMost(1.0 / 3.0)),
    ("State, p50 (ms)", Goal::AtMost(1.0)),
    ("State under 16 execs at once, p99 (ms)", Goal::AtMost(0.5)),
    ("stdout, 64 KiB writes (MiB/s)", Goal::OfBare(0.9)),
    (
        "shim CPU for stdout, 64 KiB writes (s/GiB)",
        Goal::AtMost(0.2),
    ),
    (
        "shim CPU for stdout, 100 byte writes (s/GiB)",
        Goal::AtMost(0.2),
    ),
    ("exits in a storm (1/s)", Goal::AtLeast(1.0)),
    ("time per exit, ", Goal::Own(1.25)),
    ("events (1/s)", Goal::AtLeast(1.0)),
    // Of a shim that does execs itself.
    ("probe alone, runc, p50 (ms)", Goal::AtMost(1.0 / 8.0)),
    ("probe alone, runc, p50 (ms)", Goal::Own(3.0)),
    (
        "probe alone, runc, processor time (ms)",
        Goal::AtMost(1.0 / 8.0),
    ),
    ("probe alone, crun, p50 (ms)", Goal::AtMost(1.0 / 5.0)),
    ("probe alone, crun, p50 (ms)", Goal::Own(3.0)),
    (
        "probe alone, crun, processor time (ms)",
        Goal::AtMost(1.0 / 3.0),
    ),
    (
        "probe 16 at once, runc, wall per probe (ms)",
        Goal::AtMost(1.0 / 5.0),
    ),
    (
        "probe 16 at once, crun, wall per probe (ms)",
        Goal::AtMost(1.0 / 2.0),
    ),
    (
        "State under 16 probes at once, runc, p99 (ms)",
        Goal::Own(3.0),
    ),
    (
        "State under 16 probes at once, crun, p99 (ms)",
        Goal::Own(3.0),
    ),
];

/// Whose columns a verdict is made of.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// Whose targets they are.
    pub ours: &'a str,
    /// Whom they are held against.
    pub theirs: &'a str,
    /// No shim at all.
    pub bare: &'a str,
}

/// A target and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The measure, by its whole name.
    pub measure: String,
    /// In words.
    pub goal: String,
    /// The middle value of ours.
    pub own: f64,
    /// That of what it is held against, if it is.
    pub other: Option<f64>,
    /// Against that.
    pub ratio: Option<Ratio>,
    /// Reached, missed and by how much.
    pub outcome: Outcome,
}

/// How a target ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Reached.
    Met,
    /// What was measured, as a multiple of what was wanted, the worse the greater; none where nothing was wanted.
    Missed(Option<f64>),
}

impl Outcome {
    /// `got` is to be at most `most`.
    fn at_most(got: f64, most: f64) -> Self {
        if got <= most {
            Self::Met
        } else {
            Self::Missed((most > 0.0).then_some(got / most))
        }
    }

    /// `got` is to be at least `least`.
    fn at_least(got: f64, least: f64) -> Self {
        if got >= least {
            Self::Met
        } else {
            Self::Missed((got > 0.0).then_some(least / got))
        }
    }

    /// For the table.
    pub fn text(self) -> String {
        match self {
            Self::Met => "met".into(),
            Self::Missed(Some(by)) => format!("**missed by {} %**", shown((by - 1.0) * 100.0)),
            Self::Missed(None) => "**missed**".into(),
        }
    }
}

/// Every target whose measure was taken.
pub fn verdicts(board: &Board, sides: Sides) -> Vec<Verdict> {
    let one = |(name, goal): &(&str, Goal)| {
        let (measure, rounds) = board.find(name)?;
        let own = median(rounds.get(sides.ours)?);
        let against = |who: &str| {
            let ratio = board.ratio(measure, sides.ours, who);
            (rounds.get(who).map(|values| median(values)), ratio)
        };
        let (goal, (other, ratio), outcome) = match *goal {
            Goal::Own(most) => {
                let goal = format!("≤ {}", shown(most));
                (goal, (None, None), Outcome::at_most(own, most))
            }
            Goal::AtMost(most) => {
                let against = against(sides.theirs);
                let outcome = Outcome::at_most(against.1?.median, most);
                (format!("≤ {} of Go", shown(most)), against, outcome)
            }
            Goal::AtLeast(least) => {
                let against = against(sides.theirs);
                let outcome = Outcome::at_least(against.1?.median, least);
                (format!("≥ {} of Go", shown(least)), against, outcome)
            }
            Goal::OfBare(least) => {
                let against = against(sides.bare);
                let outcome = Outcome::at_least(against.1?.median, least);
                (format!("≥ {} of no shim", shown(least)), against, outcome)
            }
        };
        Some(Verdict {
            measure: measure.to_owned(),
            goal,
            own,
            other,
            ratio,
            outcome,
        })
    };
    TARGETS.iter().filter_map(one).collect()
}
