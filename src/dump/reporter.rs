//! Who fills a dump: a list of named sources, asked in order.
//!
//! Invariant: a source that panics or cannot be encoded costs its own section only.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde_json::Value;

use super::Dump;

type Source = Box<dyn Fn() -> serde_json::Result<Value> + Send + Sync>;

/// The sources of a dump.
#[derive(Default)]
pub struct Reporter(Vec<(&'static str, Source)>);

impl Reporter {
    /// Adds a section. `source` must not block: it runs in the event loop.
    #[must_use]
    pub fn section<T: Serialize>(
        mut self,
        name: &'static str,
        source: impl Fn() -> T + Send + Sync + 'static,
    ) -> Self {
        let source = move || serde_json::to_value(source());
        self.0.push((name, Box::new(source)));
        self
    }

    /// These sections, then those of another.
    #[must_use]
    pub fn followed_by(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Asks all of them now.
    pub fn take(&self) -> Dump {
        let mut dump = Dump::default();
        for (name, source) in &self.0 {
            // Reports only read; what one leaves half-read is seen by nobody.
            let section = match catch_unwind(AssertUnwindSafe(source)) {
                Ok(Ok(section)) => section,
                Ok(Err(why)) => format!("this section cannot be shown: {why}").into(),
                Err(_) => "the shim failed at this section; its log says where".into(),
            };
            dump.add(name, section);
        }
        dump
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_section_that_fails_costs_no_other() {
        let dump = Reporter::default()
            .section("one", || 1)
            .section("bad", || -> u32 { panic!("a bug") })
            .section("worse", || std::collections::BTreeMap::from([((1, 2), 3)]))
            .section("two", || vec![2])
            .take();
        assert_eq!(dump.section("one"), Some(&json!(1)));
        assert_eq!(dump.section("two"), Some(&json!([2])));
        for failed in ["bad", "worse"] {
            let said = dump.section(failed).and_then(Value::as_str);
            assert!(said.unwrap().contains("section"), "{said:?}");
        }
    }
}
