//! Text of others as people are shown it: by `cotter`, in dumps, in the shim's log and on its standard
//! error.
//!
//! Invariant: pure; what comes out is one line, and no character of it acts on a terminal or changes
//! where or in which order its neighbours are seen. tests/manager/shown.rs has hostile arguments shown by
//! every verb.

use std::fmt::Write;

/// The longest a value in a table is shown, in characters.
const WIDE: usize = 120;

/// Whether a character acts instead of being seen: control characters, those that end lines, and those
/// that change the direction of text (Unicode's Bidi_Control, and the deprecated ones beside them).
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}')
}

/// A text with all that acts written out, as in `\n` and `\u{1b}`.
pub fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match acts(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// As [`line()`], no longer than a value in a table may be.
pub fn short(text: &str) -> String {
    // An escape sequence is longer than what it stands for.
    let some: String = text.chars().take(WIDE + 1).collect();
    let line = line(&some);
    match line.char_indices().nth(WIDE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// JSON that says the same, and keeps its line ends.
pub fn json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // What acts and is left in JSON stands in its strings, and is of two bytes in UTF-16.
        match c != '\n' && acts(c) {
            // Writing to a String cannot fail.
            true => drop(write!(out, "\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_acts_is_written_out() {
        for (text, expected) in [
            ("sh -c 'a b' ö 日本 👩‍🚀", "sh -c 'a b' ö 日本 👩‍🚀"),
            (
                "\u{1b}[2J\r\n\t\0\u{7f}",
                "\\u{1b}[2J\\r\\n\\t\\u{0}\\u{7f}",
            ),
            ("\u{9b}2J\u{85}", "\\u{9b}2J\\u{85}"),
            (
                "a\u{202e}b\u{2066}c\u{61c}",
                "a\\u{202e}b\\u{2066}c\\u{61c}",
            ),
            ("a\u{2028}b\u{2029}", "a\\u{2028}b\\u{2029}"),
        ] {
            assert_eq!(line(text), expected);
        }
    }

    #[test]
    fn long_values_are_cut() {
        for c in ["x", "ö", "\n", "\u{202e}"] {
            let text = short(&c.repeat(500));
            assert_eq!(text.chars().count(), WIDE + 1, "{text}");
            assert!(text.ends_with('…'));
        }
        let exact = "ö".repeat(WIDE);
        assert_eq!(short(&exact), exact);
    }

    proptest! {
        #[test]
        fn whatever_comes(text: String) {
            let text = format!("{text}\u{202e}\u{9b}\n");
            prop_assert!(!line(&text).contains(acts));
            prop_assert!(!short(&text).contains(acts));
            let value = serde_json::json!({ &text: [&text] });
            let shown = json(&serde_json::to_string_pretty(&value).unwrap());
            prop_assert!(!shown.contains(|c| c != '\n' && acts(c)));
            let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
            prop_assert_eq!(read, value);
        }
    }
}
