//! Looking inside: all that a shim knows of itself at one moment, as one document.
//!
//! Invariant: taking a dump waits for nothing and changes nothing. It reads memory under locks that are
//! never held across anything that can block, and files of /proc that need no lock of the process they
//! tell of; so it works while every runtime call, disk and manager hangs. A section that fails is
//! missing and says so; the others are there.
//!
//! | part | module |
//! |---|---|
//! | the document, and how it stays within a message | this one |
//! | its form for people | [`text`] |
//! | who fills it | [`reporter`]; the facts come from where they live |
//! | who takes it | [`Inspector`], for SIGUSR1 and for [`SERVICE`] |
//! | where it is kept | [`keep`] |
//! | what the kernel tells of a process | [`kernel`] |
//! | the latest errors | [`recent`] |
//!
//! A further section is one line in `shim/inspect.rs`: a name, and a closure that answers anything
//! `Serialize`. The form for people needs no change: it follows the names of fields (`_ms` is a time,
//! `_bytes` a size), so that a tool also shows what a newer shim tells it.

mod inspector;
pub mod keep;
pub mod kernel;
pub mod recent;
pub mod reporter;
pub mod text;

use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

pub use inspector::Inspector;
pub use reporter::Reporter;

/// The service by which a shim is asked for its dump. Ours alone: managers do not know it.
pub const SERVICE: &str = "cotter.shim.v1.Introspection";

/// The file in the bundle.
pub const FILE: &str = "cotter-dump.json";

/// The most rows of a table that are told.
pub const MAX_ROWS: usize = 1000;

/// The section that tells how many rows of which table were left out.
const LEFT_OUT: &str = "left_out";

/// What is known at one moment: sections by name, in their order. A section is a table (a list of
/// objects), a few facts (an object), or a single value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dump(Map<String, Value>);

impl Dump {
    /// Appends a section.
    pub fn add(&mut self, name: &str, section: Value) {
        self.0.insert(name.to_owned(), section);
    }

    /// A section.
    pub fn section(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The sections, in order.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0
            .iter()
            .map(|(name, section)| (name.as_str(), section))
    }

    /// As a program reads it.
    pub fn to_value(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// As [`Self::to_value`], one field a line.
    pub fn to_json(&self) -> String {
        // Maps with text keys and plain values cannot fail.
        serde_json::to_string_pretty(&self.0).unwrap_or_default()
    }

    /// Reads [`Self::to_json`].
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_json(text: &str) -> Result<Self> {
        let read = serde_json::from_str(text).map(Self);
        read.map_err(|why| Error::unknown(format!("read a dump: {why}")))
    }

    /// The same within `limit` bytes of JSON, as far as tables can be cut; the first rows, which are the
    /// oldest, stay. What was left out is told.
    #[must_use]
    pub fn bounded(&self, limit: usize) -> Self {
        let mut rows = MAX_ROWS;
        loop {
            let cut = self.cut(rows);
            if rows == 0 || cut.to_json().len() <= limit {
                return cut;
            }
            rows /= 2;
        }
    }

    fn cut(&self, rows: usize) -> Self {
        let mut cut = self.clone();
        let mut left_out = Map::new();
        for (name, section) in &mut cut.0 {
            if let Value::Array(table) = section
                && table.len() > rows
            {
                left_out.insert(name.clone(), (table.len() - rows).into());
                table.truncate(rows);
            }
        }
        if !left_out.is_empty() {
            cut.add(LEFT_OUT, Value::Object(left_out));
        }
        cut
    }
}

/// The age of what began at `since`, in milliseconds.
pub fn age_ms(since: Instant) -> u64 {
    ms(since.elapsed())
}

/// A time in whole milliseconds.
pub fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dump(rows: usize) -> Dump {
        let mut dump = Dump::default();
        dump.add("shim", json!({"pid": 7}));
        let table: Vec<Value> = (0..rows).map(|n| json!({"id": n})).collect();
        dump.add("processes", table.into());
        dump
    }

    fn rows(dump: &Dump) -> usize {
        dump.section("processes").unwrap().as_array().unwrap().len()
    }

    #[test]
    fn json_there_and_back() {
        let dump = dump(3);
        assert_eq!(Dump::from_json(&dump.to_json()).unwrap(), dump);
        let names: Vec<&str> = dump.sections().map(|(name, _)| name).collect();
        assert_eq!(names, ["shim", "processes"], "in their order");
        for bad in ["", "[]", "7", "{", "null"] {
            assert!(Dump::from_json(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_fits_is_whole() {
        assert_eq!(dump(MAX_ROWS).bounded(1 << 20), dump(MAX_ROWS));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_says_so() {
        let many = dump(MAX_ROWS + 5).bounded(1 << 20);
        assert_eq!(rows(&many), MAX_ROWS);
        assert_eq!(many.section(LEFT_OUT), Some(&json!({"processes": 5})));

        let small = dump(MAX_ROWS).bounded(2_000);
        assert!(small.to_json().len() <= 2_000);
        assert!(rows(&small) > 10, "{}", rows(&small));
        let first = &small.section("processes").unwrap()[0];
        assert_eq!(first, &json!({"id": 0}), "the oldest stay");

        // Facts are never cut: they are few.
        let none = dump(MAX_ROWS).bounded(10);
        assert_eq!(rows(&none), 0);
        assert_eq!(none.section("shim"), Some(&json!({"pid": 7})));
    }
}
