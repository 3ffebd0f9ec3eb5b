//! The latest of something that happens again and again.
//!
//! Invariant: bounded, [`ENTRIES`] entries of [`TEXT`] bytes; none costs nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use crate::times::timestamp;

/// How many are kept.
const ENTRIES: usize = 16;
/// How long the text of one may be, in bytes.
const TEXT: usize = 256;

/// The latest, oldest first.
#[derive(Debug)]
pub struct Recent(Mutex<VecDeque<Noted>>);

#[derive(Debug)]
struct Noted {
    at: SystemTime,
    text: Box<str>,
    /// How often it came in a row.
    times: u64,
}

/// One of them, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When it came last.
    pub at: String,
    /// How often it came in a row.
    pub times: u64,
    /// What it says.
    pub text: String,
}

impl Recent {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    /// Takes one down. The same as the one before counts as that one again.
    pub fn note(&self, at: SystemTime, text: &str) {
        let text = cut(text);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = all.back_mut()
            && *last.text == *text
        {
            last.at = at;
            last.times += 1;
            return;
        }
        if all.len() == ENTRIES {
            all.pop_front();
        }
        all.push_back(Noted {
            at,
            text: text.into(),
            times: 1,
        });
    }

    /// All that are kept.
    pub fn report(&self) -> Vec<Entry> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .map(|noted| Entry {
                at: timestamp(noted.at),
                times: noted.times,
                text: noted.text.to_string(),
            })
            .collect()
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self::new()
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_stay_and_repeats_are_counted() {
        let recent = Recent::new();
        assert_eq!(recent.report(), []);
        for n in 0..ENTRIES + 3 {
            recent.note(SystemTime::UNIX_EPOCH, &format!("error {n}"));
        }
        recent.note(SystemTime::UNIX_EPOCH, "error 18");
        let report = recent.report();
        assert_eq!(report.len(), ENTRIES);
        assert_eq!(report[0].text, "error 3");
        assert_eq!((&*report[15].text, report[15].times), ("error 18", 2));
        assert_eq!(report[0].at, "1970-01-01T00:00:00.000000000Z");
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let recent = Recent::new();
        recent.note(SystemTime::UNIX_EPOCH, &format!("x{}", "ö".repeat(TEXT)));
        assert_eq!(recent.report()[0].text.len(), TEXT - 1);
    }
}
