//! What became of an exec, and who did it.

use crate::facts::{Facts, differences};

/// Who did an exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    Shim,
    Runtime(String),
    /// It was not asked.
    Nobody,
}

impl By {
    /// For a reason, none: the shim.
    pub fn of(reason: Option<&str>) -> Self {
        reason.map_or(Self::Shim, |reason| Self::Runtime(reason.into()))
    }
}

/// What became of one.
#[derive(Clone, PartialEq, Eq)]
pub enum Ran {
    /// It ran, with what it told on its outputs or else in a file.
    Done {
        facts: Facts,
        text: String,
        status: u32,
    },
    /// It was refused, with the wire's code.
    Refused { code: String, message: String },
}

impl std::fmt::Debug for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done { text, status, .. } => write!(f, "status {status}, {:?}", rest(text)),
            Self::Refused { code, message } => write!(f, "refused, {code}: {message}"),
        }
    }
}

/// What is no fact.
fn rest(text: &str) -> String {
    let other = |line: &&str| !line.contains('\t');
    text.lines().filter(other).collect::<Vec<_>>().join("\n")
}

/// What differs between two, one a line, the left one's first.
pub fn compare(left: &Ran, right: &Ran) -> Vec<String> {
    match (left, right) {
        (
            Ran::Done {
                facts: of_left,
                text: left,
                status: status_of_left,
            },
            Ran::Done {
                facts: of_right,
                text: right,
                status: status_of_right,
            },
        ) => {
            let mut all = differences(of_left, of_right);
            if status_of_left != status_of_right {
                all.push(format!("exit: {status_of_left} | {status_of_right}"));
            }
            if rest(left) != rest(right) {
                all.push(format!("output: {} | {}", rest(left), rest(right)));
            }
            all
        }
        (left, right) if left == right => Vec::new(),
        (left, right) => vec![format!("{left:?} | {right:?}")],
    }
}

/// What the probe has told, if that was the program.
pub fn facts(text: &str) -> Facts {
    let facts: Facts = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    // Either it was no probe, or all of it has come.
    assert!(facts.is_empty() || facts.contains_key("end"), "{text}");
    facts
}
