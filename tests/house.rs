//! How the house stands: which room knows of which, and that no files go round in a ring.
//!
//! A room is a folder or a file directly in `src/`, and `container/operations`. The table begins at the ground.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each room, and all that it imports: only rooms on earlier lines, which are nearer to the ground.
const ROOMS: [(&str, &str); 34] = [
    // Words and single ideas, which know nothing of the house.
    ("errno", ""),
    ("times", ""),
    ("shown", ""),
    ("slices", ""),
    ("awaited", ""),
    ("in_memory", ""),
    ("kernel_file", ""),
    ("proto", ""),
    ("pidfd", ""),
    ("error", "errno"),
    // Processes: how one is started, who reaps, who one is.
    ("program", "errno"),
    ("monitor", "errno kernel_file"),
    ("kin", "error kernel_file monitor pidfd"),
    // What may hang or be long.
    ("blocking", "error times"),
    ("apart", "error pidfd times"),
    // The heart, pure.
    ("lifecycle", "monitor"),
    // The hands.
    ("spec", "errno error"),
    ("options", "apart blocking error proto spec"),
    ("mount", "errno error pidfd program"),
    ("cgroup", "errno error kernel_file mount proto slices"),
    (
        "dump",
        "blocking errno error kernel_file monitor shown times",
    ),
    (
        "runtime",
        "blocking errno error kin monitor pidfd program times",
    ),
    // What is told.
    ("events", "blocking dump errno error in_memory proto"),
    ("limits", "events"),
    ("sensing", "cgroup error events kernel_file monitor proto"),
    (
        "stdio",
        "awaited blocking dump errno error in_memory limits monitor program runtime spec",
    ),
    // An exec without its runtime.
    (
        "direct",
        "blocking cgroup kernel_file monitor pidfd program runtime spec",
    ),
    // What a container is and knows; and what a client may ask of it.
    (
        "container",
        "awaited blocking cgroup direct dump errno error events in_memory kernel_file lifecycle limits \
         monitor mount pidfd proto runtime sensing spec stdio times",
    ),
    (
        "container/operations",
        "blocking cgroup container direct errno error events in_memory kin lifecycle monitor mount program \
         proto runtime sensing slices spec stdio",
    ),
    // Their face to the manager.
    (
        "service",
        "cgroup container container/operations dump error events mount options proto stdio",
    ),
    // The process around it all.
    (
        "shim",
        "apart blocking cgroup container container/operations dump errno error events kernel_file kin limits \
         monitor mount options pidfd program proto runtime sensing service shown spec times",
    ),
    // The other side.
    ("manager", "error events mount pidfd proto shown spec"),
    ("fuzzing", "cgroup limits mount runtime"),
    ("bin", "error program shim shown"),
];

/// All that is linked into the shim, and the macros that write some of it; not what `build.rs` needs. What is new
/// here is new on every host.
const TREE: &str = "\
    async-stream async-stream-impl async-trait bitflags block-buffer byteorder bytes cfg-if const-oid \
    cotter cpufeatures crossbeam crossbeam-channel crossbeam-deque crossbeam-epoch crossbeam-queue \
    crossbeam-utils crypto-common digest env_filter env_logger equivalent errno foldhash futures \
    futures-channel futures-core futures-executor futures-io futures-macro futures-sink futures-task \
    futures-util hashbrown hybrid-array indexmap itoa jiff jiff-core libc log memchr memoffset mio nix \
    once_cell pin-project-lite pin-utils proc-macro2 protobuf protobuf-support quote serde serde_core \
    serde_derive serde_json serde_spanned sha2 signal-hook signal-hook-registry slab socket2 syn \
    thiserror thiserror-impl tokio tokio-macros tokio-vsock toml toml_datetime toml_parser ttrpc typenum \
    unicode-ident vsock winnow zmij \
";

/// The names of modules, from the crate down.
type Module = Vec<String>;

#[test]
fn a_room_knows_of_those_above_it_and_of_no_others() {
    let mut known: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (module, file) in modules() {
        let room = room(&module);
        let of_room = ROOMS.iter().find(|(name, _)| *name == room);
        let (name, _) = of_room.unwrap_or_else(|| panic!("{room} is not in the table"));
        let imports = known.entry(name).or_default();
        let paths = paths(&file, &module).into_iter();
        let rooms = paths.map(|path| self::room(&path));
        // Others are inline modules of the file's own.
        let rooms = rooms.filter(|it| it != name && ROOMS.iter().any(|(room, _)| room == it));
        imports.extend(rooms);
    }
    for (at, (name, expected)) in ROOMS.iter().enumerate() {
        let expected: BTreeSet<_> = expected.split_whitespace().map(str::to_owned).collect();
        assert_eq!(known.get(name), Some(&expected), "{name}");
        for import in &expected {
            let above = ROOMS[..at].iter().any(|(room, _)| room == import);
            assert!(above, "{name} imports {import}, which stands below it");
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_ring() {
    let all = modules();
    let mut imports: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for (module, file) in &all {
        // What a folder's own file hands on is everybody's.
        let is_face = |m: &Module| all.keys().any(|of| of.len() > m.len() && of.starts_with(m));
        if is_face(module) {
            continue;
        }
        let to = paths(file, module).into_iter().filter_map(|path| {
            let named = (1..=path.len()).rev().map(|n| &path[..n]);
            let mut named = named.filter_map(|m| all.get_key_value(m));
            named.next().map(|(module, _)| module)
        });
        let to = to.filter(|to| *to != module && !is_face(to));
        imports.insert(module, to.collect());
    }
    // What imports nothing that is left, or is not imported, is no part of a ring.
    loop {
        let left = imports.len();
        let known: BTreeSet<&Module> = imports.keys().copied().collect();
        let used: BTreeSet<&Module> = imports.values().flatten().copied().collect();
        imports.retain(|module, to| {
            to.retain(|to| known.contains(to));
            !to.is_empty() && used.contains(module)
        });
        if imports.len() == left {
            break;
        }
    }
    assert!(
        imports.is_empty(),
        "a ring, and what leads to it: {imports:#?}"
    );
}

#[test]
fn imports_are_read() {
    let module: Module = ["a", "b"].map(str::to_owned).into();
    let text = "//! crate::x\nuse super::c::{self, D, e::{F, g}};\nuse crate::h;\nfn f() { crate::i::j(); \
                self::k(); }\n#[cfg(test)]\nmod tests { use crate::l; }\n";
    let read: BTreeSet<String> = paths_in(text, &module)
        .iter()
        .map(|p| p.join("::"))
        .collect();
    let expected = [
        "a::c::self",
        "a::c::D",
        "a::c::e::F",
        "a::c::e::g",
        "h",
        "i::j",
        "a::b::k",
    ];
    assert_eq!(read, expected.map(str::to_owned).into());
}

#[test]
fn the_shim_s_tree_stays_small() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--locked", "--offline", "--package", "cotter"]);
    cargo.args(["--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let listed = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    let names: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
    let known: BTreeSet<&str> = TREE.split_whitespace().collect();
    let new: Vec<_> = names.difference(&known).collect();
    let gone: Vec<_> = known.difference(&names).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "new: {new:?}; gone: {gone:?}"
    );
}

fn room(module: &[String]) -> String {
    match module {
        [container, operations, ..] if container == "container" && operations == "operations" => {
            format!("{container}/{operations}")
        }
        [first, ..] => first.clone(),
        [] => String::new(),
    }
}

/// All modules of the library and its programs, without tests and the map.
fn modules() -> BTreeMap<Module, PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut todo = vec![src.clone()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let name = path.strip_prefix(&src).unwrap().with_extension("");
            let name = name.to_str().unwrap();
            let name = name.strip_suffix("/mod").unwrap_or(name);
            if name != "lib" && !name.ends_with("tests") {
                found.insert(name.split('/').map(str::to_owned).collect(), path);
            }
        }
    }
    assert!(found.len() > 150, "{}", found.len());
    found
}

fn paths(file: &Path, module: &Module) -> BTreeSet<Module> {
    paths_in(&fs::read_to_string(file).unwrap(), module)
}

/// All paths of this crate that a file names, from the crate down.
fn paths_in(text: &str, module: &Module) -> BTreeSet<Module> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let text = lines.collect::<Vec<_>>().join(" ");
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    for root in ["crate::", "cotter::", "super::", "self::"] {
        for (at, _) in text.match_indices(root) {
            // The end of a word, or further down in a path.
            if text[..at].ends_with(|c| is_word(c) || c == ':') {
                continue;
            }
            let (mut base, mut rest) = (Module::new(), &text[at..]);
            if root == "self::" || root == "super::" {
                base.clone_from(module);
                rest = rest.strip_prefix("self::").unwrap_or(rest);
                while let Some(up) = rest.strip_prefix("super::") {
                    base.pop();
                    rest = up;
                }
            } else {
                rest = &rest[root.len()..];
            }
            tree(rest, &base, &mut found);
        }
    }
    found
}

/// Reads `a::{b, c::d}` behind a path; answers what follows it.
fn tree<'a>(text: &'a str, base: &[String], found: &mut BTreeSet<Module>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = tree(rest, base, found).trim_start();
            match rest.strip_prefix(',') {
                Some(more) if !more.trim_start().starts_with('}') => rest = more,
                Some(end) => return end.trim_start().strip_prefix('}').unwrap_or(end),
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    let mut path = base.to_vec();
    if !name.is_empty() {
        path.push(name.to_owned());
    }
    match rest.strip_prefix("::") {
        Some(rest) if !rest.starts_with('<') => tree(rest, &path, found),
        _ => {
            found.insert(path);
            // `as` another name.
            match rest.trim_start().strip_prefix("as ") {
                Some(renamed) => {
                    renamed.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
                }
                None => rest,
            }
        }
    }
}
