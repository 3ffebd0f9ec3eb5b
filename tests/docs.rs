//! What the documents say of the tests is so: every test they name exists.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

/// The `path::test` references of a document, as (path, test).
fn references(text: &str) -> Vec<(&str, &str)> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once(".rs::"))
        .collect()
}

#[test]
fn every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    for document in fs::read_dir(root.join("docs")).unwrap() {
        let document = document.unwrap().path();
        if document.extension().is_none_or(|kind| kind != "md") {
            continue;
        }
        let text = fs::read_to_string(&document).unwrap();
        for (file, test) in references(&text) {
            let source = root.join(format!("{file}.rs"));
            let source = fs::read_to_string(&source)
                .unwrap_or_else(|e| panic!("{}: {}: {e}", document.display(), source.display()));
            assert!(
                source.contains(&format!("fn {test}(")),
                "{} names {test}, which is not in {file}.rs",
                document.display()
            );
            named += 1;
        }
    }
    assert!(named > 0);
}

/// The variables of limits in a text.
fn limits(text: &str) -> std::collections::BTreeSet<&str> {
    let part = |c: char| c.is_ascii_uppercase() || c == '_';
    text.split(|c| !part(c))
        .filter(|word| word.starts_with("COTTER_LIMIT_"))
        .collect()
}

#[test]
fn every_limit_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let (source, page) = (read("src/limits.rs"), read("docs/operating.md"));
    let (_, table) = page.split_once("## Time limits").unwrap();
    let rows: String = table.lines().filter(|line| line.starts_with('|')).collect();
    assert!(limits(&source).len() > 15);
    assert_eq!(limits(&source), limits(&rows));
}
