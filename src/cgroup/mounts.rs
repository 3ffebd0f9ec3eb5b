//! The cgroup hierarchies that can be seen: of all cgroup mounts those that nothing is mounted over.
//!
//! Invariant: a mount that is not what its path leads to is never given out, so that no file below it is
//! taken for absent that is only hidden. `visible` is pure. Of a mount that is not of cgroups three numbers
//! are kept while the table is read, since a node may have tens of thousands, and a shim reads it in slices.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::mount::mountinfo::{Entry, Line};
use crate::slices::Slices;

/// The mount table of this process.
const TABLE: &str = "/proc/self/mountinfo";

/// The cgroup mounts of this process that can be seen.
///
/// # Errors
/// The table could not be read.
pub(super) fn read() -> Result<Vec<Entry>> {
    let mut table = Reader::open()?;
    while table.step()? {}
    Ok(table.found.finish())
}

/// As [`read`], in slices.
///
/// # Errors
/// As [`read`].
pub(super) async fn read_in_slices() -> Result<Vec<Entry>> {
    let mut slices = Slices::begin();
    let mut table = Reader::open()?;
    while table.step()? {
        slices.pause().await;
    }
    Ok(table.found.finish())
}

/// The cgroup mounts that can be seen in a table.
pub(super) fn visible(table: &[u8]) -> Vec<Entry> {
    let mut found = Found::default();
    for line in table.split(|&b| b == b'\n') {
        found.take(line);
    }
    found.finish()
}

struct Reader {
    table: BufReader<File>,
    line: Vec<u8>,
    found: Found,
}

impl Reader {
    fn open() -> Result<Self> {
        Ok(Self {
            table: BufReader::new(File::open(TABLE).map_err(|why| failed(&why))?),
            line: Vec::new(),
            found: Found::default(),
        })
    }

    /// Takes one line; whether there may be more.
    fn step(&mut self) -> Result<bool> {
        self.line.clear();
        let read = self.table.read_until(b'\n', &mut self.line);
        let read = read.map_err(|why| failed(&why))?;
        self.found
            .take(self.line.strip_suffix(b"\n").unwrap_or(&self.line));
        Ok(read > 0)
    }
}

fn failed(why: &io::Error) -> Error {
    Error::io(format!("read {TABLE}"), why)
}

/// What has been found so far.
#[derive(Default)]
struct Found {
    /// Every mount.
    all: Vec<Spot>,
    cgroups: Vec<(u32, Entry)>,
}

/// Which mount is mounted on which, and where.
#[derive(Clone, Copy)]
struct Spot {
    id: u32,
    parent: u32,
    /// The mount point's hash.
    at: u64,
}

impl Found {
    fn take(&mut self, line: &[u8]) {
        let Some(line) = Line::parse(line) else {
            return;
        };
        self.all.push(Spot {
            id: line.id,
            parent: line.parent,
            at: hash(Path::new(OsStr::from_bytes(&line.mount_point()))),
        });
        if matches!(line.fs_type(), b"cgroup" | b"cgroup2") {
            self.cgroups.push((line.id, line.entry()));
        }
    }

    /// The cgroup mounts that can be seen, in the order of the table.
    fn finish(self) -> Vec<Entry> {
        let Self { mut all, cgroups } = self;
        let points = cgroups.iter().map(|(_, entry)| entry.mount_point.as_path());
        let mut on_the_way: Vec<u64> = points.flat_map(Path::ancestors).map(hash).collect();
        on_the_way.sort_unstable();
        on_the_way.dedup();
        // Mounts outside of the process's root are not in its table.
        let mut ids: Vec<u32> = all.iter().map(|spot| spot.id).collect();
        ids.sort_unstable();
        all.retain(|spot| on_the_way.binary_search(&spot.at).is_ok());
        let outside = |id: u32| ids.binary_search(&id).is_err();
        let seen = |(id, entry): (u32, Entry)| {
            let there = leads_to(&all, &outside, &entry.mount_point) == Some(id);
            there.then_some(entry)
        };
        cgroups.into_iter().filter_map(seen).collect()
    }
}

/// The mount that a path leads to, as the kernel walks it: from the root, at each part of the path onto what
/// is mounted there on the mount it is in, and on that again. None where no mount is known.
fn leads_to(all: &[Spot], outside: &dyn Fn(u32) -> bool, path: &Path) -> Option<u32> {
    let root = hash(Path::new("/"));
    // What is mounted over the root is seen by those only who change their root to it.
    let at_root = |spot: &&Spot| spot.at == root && outside(spot.parent);
    let mut here = all.iter().find(at_root).map(|spot| spot.id);
    let mut ways: Vec<&Path> = path.ancestors().collect();
    ways.reverse();
    for way in ways.into_iter().skip(1) {
        let at = hash(way);
        // Each mount is stepped onto once at most: a table that goes round in a circle is none of the kernel's.
        for _ in 0..all.len() {
            let on_here = |spot: &&Spot| {
                spot.at == at
                    && Some(spot.id) != here
                    && match here {
                        Some(here) => spot.parent == here,
                        None => outside(spot.parent),
                    }
            };
            match all.iter().rfind(on_here) {
                Some(spot) => here = Some(spot.id),
                None => break,
            }
        }
    }
    here
}

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.as_os_str().as_bytes().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOT: &str = "20 1 8:1 / / rw - ext4 /dev/sda rw\n";
    const SYS: &str = "22 20 0:5 / /sys rw - sysfs sysfs rw\n";
    const USUAL: &str = "31 22 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n";
    const PIDS: &str = "36 31 0:33 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
    const UNIFIED: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn what_is_mounted_over_hides() {
        let hybrid = [ROOT, SYS, USUAL, PIDS, UNIFIED];
        let with = |more: &[&'static str]| [&hybrid[..], more].concat();
        let over = "50 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (what, table, expected) in [
            ("a hybrid", hybrid.to_vec(), &[36, 41][..]),
            ("v2 over a hybrid", with(&[over]), &[50]),
            // Since Linux 6.8 the table is in the order of numbers, and a mount may have been moved.
            ("in another order", [&[over][..], &hybrid].concat(), &[50]),
            (
                "v2 twice on one path",
                with(&[
                    over,
                    "51 50 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
                ]),
                &[51],
            ),
            (
                "something else over it",
                with(&["52 31 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"]),
                &[],
            ),
            (
                "below what was mounted over it",
                with(&[
                    "52 31 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n",
                    "53 52 0:33 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
                ]),
                &[53],
            ),
            (
                "one of them",
                with(&["54 36 0:40 / /sys/fs/cgroup/pids rw - tmpfs tmpfs rw\n"]),
                &[41],
            ),
            (
                "all of sysfs",
                with(&["55 22 0:41 / /sys rw - tmpfs tmpfs rw\n"]),
                &[],
            ),
            (
                "over the root, which nobody sees",
                with(&["56 20 0:41 / / rw - tmpfs tmpfs rw\n"]),
                &[36, 41],
            ),
            (
                "beside it",
                with(&["57 31 0:42 / /sys/fs/cgroup/p rw - tmpfs tmpfs rw\n"]),
                &[36, 41],
            ),
            ("in a root that is no mount", vec![USUAL, PIDS], &[36]),
            (
                "with a blank in its path",
                vec![ROOT, "58 20 0:33 / /a\\040b rw - cgroup cgroup rw,pids\n"],
                &[58],
            ),
            (
                "hidden with a blank in its path",
                vec![
                    ROOT,
                    "58 20 0:33 / /a\\040b rw - cgroup cgroup rw,pids\n",
                    "59 58 0:50 / /a\\040b rw - tmpfs tmpfs rw\n",
                ],
                &[],
            ),
        ] {
            let text = table.concat();
            let mut all = Found::default();
            text.split('\n').for_each(|line| all.take(line.as_bytes()));
            let ids: Vec<u32> = all.cgroups.iter().map(|(id, _)| *id).collect();
            let mut found = all.finish().into_iter();
            // As many as expected, and the entries of just these.
            let entries: Vec<Entry> = visible(text.as_bytes());
            assert_eq!(found.len(), expected.len(), "{what}: {entries:?}");
            for id in expected {
                assert!(ids.contains(id), "{what}");
                let line = text
                    .lines()
                    .find(|line| line.starts_with(&format!("{id} ")));
                let line = Line::parse(line.unwrap().as_bytes()).unwrap();
                assert_eq!(found.next(), Some(line.entry()), "{what}");
            }
        }
    }

    #[test]
    fn the_own_table_in_slices_and_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let in_slices = runtime.unwrap().block_on(read_in_slices()).unwrap();
        assert!(!in_slices.is_empty());
        assert_eq!(in_slices, read().unwrap());
    }

    proptest! {
        #[test]
        fn no_table_is_without_end(lines in proptest::collection::vec((0u32..6, 0u32..6, "(/[ab]){0,3}"), 0..12)) {
            let line = |(id, parent, path): &(u32, u32, String)| {
                format!("{id} {parent} 0:1 / {path}/ rw - cgroup cgroup rw,pids\n")
            };
            let table: String = lines.iter().map(line).collect();
            prop_assert!(visible(table.as_bytes()).len() <= lines.len());
        }
    }
}
