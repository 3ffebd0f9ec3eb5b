//! What the documents say of the tests is so: every test they name exists. And rules of the house that no
//! lint knows.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

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

#[test]
fn what_is_asked_for_is_where_contributing_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    let (_, table) = page.split_once("## Where is").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let mut answered = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let named: Vec<_> = row.split('`').skip(1).step_by(2).collect();
        let Some([.., file, what]) = named.last_chunk::<2>().map(|it| it.as_slice()) else {
            continue;
        };
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{row}: {e}"));
        let is = |line: &str| line.contains(what) && !line.trim_start().starts_with("//");
        assert!(source.lines().any(is), "{row}: no {what}");
        answered += 1;
    }
    assert!(answered >= 10, "{answered}");
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

/// Files of /proc whose reader waits for a lock of the process: of its memory map, or of its execve. A
/// process can keep these for as long as it likes (it waits for a dead disk in mmap, say).
const CAN_HOLD_UP: [&str; 16] = [
    "auxv",
    "clear_refs",
    "cmdline",
    "environ",
    "io",
    "maps",
    "mem",
    "map_files",
    "numa_maps",
    "pagemap",
    "personality",
    "smaps",
    "smaps_rollup",
    "stack",
    "syscall",
    "patch_state",
];

/// Who reads them all the same: a file, what its line contains, and why no stranger can hold it up.
const READ: [(&str, &str, &str); 25] = [
    (
        "bench/proc.rs",
        "/proc/{pid}/smaps_rollup",
        "a shim that the bench has started",
    ),
    (
        "chaos/faults/neighbour.rs",
        "/proc/{shim}/io",
        "the shim of the scene",
    ),
    (
        "chaos/counts.rs",
        "\"smaps_rollup\"",
        "the shim of the scene",
    ),
    (
        "tool/src/dump/outside.rs",
        "file(\"stack\")",
        "the shim that is looked at: it listens there",
    ),
    ("tool/src/dump/outside.rs", "file(\"syscall\")", "the same"),
    (
        "tests/bootstrap/main.rs",
        "read(\"cmdline\")",
        "the shim under test",
    ),
    ("tests/bootstrap/main.rs", "read(\"environ\")", "the same"),
    (
        "tests/common/peek.rs",
        "join(\"cmdline\")",
        "on a thread that can be left to it",
    ),
    ("tests/common/peek.rs", "join(\"environ\")", "the same"),
    (
        "tests/cri/namespaces.rs",
        "</proc/1/cmdline",
        "in a pod of the test, its own first process",
    ),
    (
        "tests/faults/beside.rs",
        "/proc/{shim}/io",
        "the shim under test",
    ),
    (
        "tests/footprint.rs",
        "/proc/{pid}/smaps_rollup",
        "the shim under test",
    ),
    (
        "tests/inherit/facts.rs",
        "read(\"environ\")",
        "a sleep that the test has started",
    ),
    ("tests/inherit/facts.rs", "\"personality\"", "the same"),
    (
        "tests/inherit/compare.rs",
        "/proc/{pid}/environ",
        "the same",
    ),
    (
        "tests/streams/absent.rs",
        "/smaps_rollup",
        "the shim under test",
    ),
    (
        "tests/task/environment.rs",
        "/proc/{}/environ",
        "the shim under test",
    ),
    ("tests/dump/others.rs", "[\"syscall\"]", "a field of a dump"),
    (
        "tests/enter/containers.rs",
        "[\"personality\"]",
        "a field of a spec",
    ),
    (
        "tests/enter/attacker.rs",
        "\"environ\", \"mem\"",
        "in a container of the test, to see that it cannot",
    ),
    (
        "tests/direct/filters.rs",
        "personality",
        "a system call by name",
    ),
    (
        "tests/direct/seen.rs",
        "auxv",
        "what the process reads of its own",
    ),
    (
        "src/direct/kept/tests.rs",
        "personality",
        "a field of what runtimes keep",
    ),
    (
        "tests/direct/steps.rs",
        "/proc/{pid}/cmdline",
        "the stub, which the test has stopped",
    ),
    (
        "tests/common/held_up.rs",
        "/proc/{held}/cmdline",
        "on a thread, to see that it is held up",
    ),
];

#[test]
fn nobody_reads_what_can_hold_up_the_reader() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut used = std::collections::BTreeSet::new();
    let mut read = 0;
    let mut todo: Vec<_> = ["src", "tool", "tests", "bench", "chaos"]
        .map(|dir| root.join(dir))
        .into();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        // This very list.
        if name == "tests/docs.rs" {
            continue;
        }
        read += 1;
        for line in text.lines().filter(|line| can_hold_up(line)) {
            let known = READ
                .iter()
                .find(|(file, part, _)| *file == name && line.contains(part));
            let line = line.trim();
            used.insert(known.unwrap_or_else(|| panic!("{name}: {line}")));
        }
    }
    for known in &READ {
        assert!(used.contains(known), "nobody does so any more: {known:?}");
    }
    assert!(read > 300, "{read} files");
}

/// Whether a line names such a file of a process that is not the reader itself.
fn can_hold_up(line: &str) -> bool {
    let line = line.trim_start();
    if line.starts_with("//") || line.starts_with('#') {
        return false;
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    CAN_HOLD_UP.iter().any(|word| {
        line.match_indices(word).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + word.len()..]);
            let own = ["/proc/self/", "/proc/thread-self/", "/proc/$$/"];
            let whole = !after.starts_with(|c| is_word(c) || c == '-' || c == '.' || c == '/');
            // In a path of /proc, or as a name by itself.
            let in_proc = before.ends_with('/') && before.contains("/proc/");
            let alone = before.ends_with('"') && after.starts_with('"');
            let alone = alone && (*word != "io" || before.ends_with("join(\""));
            whole && (in_proc || alone) && !own.iter().any(|own| before.ends_with(own))
        })
    })
}

/// What is as long as others make it has a form for the event loop, and the rooms of the loop use that.
#[test]
fn the_loop_reads_neither_trees_nor_tables_at_once() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut todo: Vec<PathBuf> = ["container", "service", "lifecycle", "monitor", "events"]
        .iter()
        .map(|room| src.join(room))
        .collect();
    let mut read = 0;
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for word in [
            "Cgroup::of_pid",
            ".procs()",
            ".procs_until(",
            "mountinfo::read",
        ] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
        read += 1;
    }
    assert!(read > 40);
}
