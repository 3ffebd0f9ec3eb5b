//! A dump for people.
//!
//! Invariant: pure; whatever the document holds, the text has one line per row or fact, and no
//! character in it acts on a terminal.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::Dump;
use crate::shown;

/// The text of a whole dump.
pub fn text(dump: &Dump) -> String {
    let mut out = String::new();
    for (name, section) in dump.sections() {
        if !out.is_empty() {
            out.push('\n');
        }
        self::section(&mut out, name, section);
    }
    out
}

fn section(out: &mut String, name: &str, section: &Value) {
    let name = shown::line(name);
    match section {
        Value::Array(rows) if rows.is_empty() => line(out, format_args!("{name}: none")),
        Value::Array(rows) => {
            line(out, format_args!("{name}: {}", rows.len()));
            table(out, rows);
        }
        Value::Object(facts) => {
            line(out, format_args!("{name}:"));
            let names: Vec<String> = facts.keys().map(|name| title(name)).collect();
            let width = names.iter().map(|name| columns(name)).max().unwrap_or(0);
            for (name, (key, value)) in names.iter().zip(facts) {
                let pad = " ".repeat(width - columns(name));
                line(out, format_args!("  {name}{pad}  {}", told(key, value)));
            }
        }
        value => line(out, format_args!("{name}: {}", told("", value))),
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

/// Rows under their columns; a row that is no object is shown as it is.
fn table(out: &mut String, rows: &[Value]) {
    let mut keys: Vec<&str> = Vec::new();
    for key in rows.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let head: Vec<String> = keys.iter().map(|key| title(key).to_uppercase()).collect();
    let cell = |row: &Value, key: &str| {
        let text = row.get(key).map_or_else(|| "-".into(), |v| told(key, v));
        shown::short(&text)
    };
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| match row.is_object() {
            true => keys.iter().map(|key| cell(row, key)).collect(),
            false => vec![told("", row)],
        })
        .collect();
    let widths: Vec<usize> = (0..keys.len())
        .map(|column| {
            let cells = lines.iter().filter(|line| line.len() == keys.len());
            let cells = cells.chain([&head]).map(|line| columns(&line[column]));
            cells.max().unwrap_or(0)
        })
        .collect();
    let head = (!head.is_empty()).then_some(head);
    for cells in head.into_iter().chain(lines) {
        let mut row = String::from(" ");
        for (column, cell) in cells.iter().enumerate() {
            let width = widths.get(column).copied().unwrap_or(0);
            let pad = " ".repeat(width.saturating_sub(columns(cell)));
            row.push(' ');
            row.push_str(cell);
            row.push_str(&pad);
            row.push(' ');
        }
        line(out, format_args!("{row}"));
    }
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

/// A field's name without its unit, in words.
fn title(key: &str) -> String {
    let bare = key
        .strip_suffix("_ms")
        .or_else(|| key.strip_suffix("_bytes"))
        .unwrap_or(key);
    shown::line(bare).replace('_', " ")
}

/// A value by its field's unit.
fn told(key: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => shown::line(text),
        Value::Number(number) => match number.as_u64() {
            Some(n) if key.ends_with("_ms") => time(n),
            Some(n) if key.ends_with("_bytes") => size(n),
            _ => number.to_string(),
        },
        Value::Array(all) => {
            let all: Vec<String> = all.iter().map(|value| told("", value)).collect();
            all.join(", ")
        }
        Value::Object(_) => shown::line(&value.to_string()),
    }
}

/// A time to two units.
pub fn time(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}.{}s", ms % 1_000 / 100),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A size to one decimal.
fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit < 5 {
        tenths /= 1_024;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!(
            "{}.{} {}",
            tenths / 10,
            tenths % 10,
            ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_and_sizes() {
        for (ms, expected) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1.0s"),
            (59_999, "59.9s"),
            (60_000, "1m00s"),
            (3_599_999, "59m59s"),
            (3_600_000, "1h00m"),
            (86_400_000, "1d00h"),
            (90_000_000, "1d01h"),
            (u64::MAX, "213503982334d14h"),
        ] {
            assert_eq!(time(ms), expected, "{ms}");
        }
        for (bytes, expected) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (65_536, "64.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn facts_tables_and_single_values() {
        let mut dump = Dump::default();
        dump.add(
            "shim",
            json!({"version": "1.0", "uptime_ms": 61_000, "rss_bytes": 2_048}),
        );
        dump.add(
            "processes",
            json!([
                {"container": "web", "pid": 12, "age_ms": 5_000, "busy": false},
                {"container": "a", "pid": null, "note": ""},
            ]),
        );
        dump.add("calls", json!([]));
        dump.add("words", json!(["one", 2]));
        dump.add("answer", json!(42));
        let expected = "\
shim:
  version  1.0
  uptime   1m01s
  rss      2.0 KiB

processes: 2
  CONTAINER  PID  AGE   BUSY  NOTE
  web        12   5.0s  no    -
  a          -    -     -     -

calls: none

words: 2
  one
  2

answer: 42
";
        assert_eq!(text(&dump), expected);
    }

    #[test]
    fn nothing_acts_on_a_terminal() {
        let mut dump = Dump::default();
        let evil = "x\u{1b}[2J\ny\u{9b}";
        dump.add(evil, json!([{evil: evil}, [evil], {"o": {evil: 1}}]));
        dump.add("facts", json!({evil: evil}));
        let text = text(&dump);
        let acts = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(acts), "{text:?}");
        assert_eq!(text.lines().count(), 8, "{text}");
    }

    #[test]
    fn long_values_of_a_table_are_cut() {
        let mut dump = Dump::default();
        dump.add("t", json!([{"a": "ö".repeat(500), "b": 1}]));
        let text = text(&dump);
        assert!(text.contains(&format!("{}…  1", "ö".repeat(120))), "{text}");
    }
}
