//! What a cgroup uses, as the Go shim tells it (contract 7.3).
//!
//! Invariant: a file that is missing or can't be read takes away the part that would come from it,
//! never the rest. A part of which no file can be read is absent, so that nobody takes it for zero;
//! within a part that is there, all nested messages are, since clients don't look twice.
//!
//! The parsers are pure: text comes from a [`Source`], a cgroup's directories or a test's table.

#[cfg(test)]
mod tests;
mod text;
pub(super) mod v1;
pub(super) mod v2;

pub(super) use text::{keyed, number};

use std::fs;
use std::path::Path;

use super::{Cgroup, Version};
use crate::proto::{cgroups_v1, cgroups_v2};

/// The usage of a cgroup at one moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Metrics {
    /// On the v1 hierarchies.
    V1(cgroups_v1::Metrics),
    /// On the unified hierarchy.
    V2(cgroups_v2::Metrics),
}

/// Where the parsers get their text from.
pub(super) trait Source {
    /// The text of a controller's file; none if it cannot be read.
    fn text(&self, controller: &str, file: &str) -> Option<String>;

    /// The names of the files that the cgroup has for a controller.
    fn files(&self, controller: &str) -> Vec<String>;

    /// The text of `/proc/partitions`.
    fn partitions(&self) -> String;
}

impl Cgroup {
    /// What the cgroup uses now, with what was used by processes that are gone. None when there
    /// is nothing to read: the cgroup has been removed, or is shared with the shim.
    pub fn metrics(&self) -> Option<Metrics> {
        match self.version {
            Version::V1 => told(v1::metrics(self)).map(Metrics::V1),
            Version::V2 => told(v2::metrics(self)).map(Metrics::V2),
        }
    }
}

/// How long all of the machine waits for `cpu`, `memory` or `io`: v1 knows no other pressure. None where
/// the kernel does not keep it.
pub fn host_pressure(resource: &str) -> Option<cgroups_v2::PSIStats> {
    let text = read(&Path::new("/proc/pressure").join(resource))?;
    Some(v2::pressure_of(&text))
}

impl Source for Cgroup {
    fn text(&self, controller: &str, file: &str) -> Option<String> {
        let dir = match controller {
            // Its files are the same on v1 and v2, wherever a hybrid has it.
            "pids" => self.place(controller).ok()?.dir,
            _ => self.dir(controller)?,
        };
        read(&dir.join(file))
    }

    /// Its directory is not read: a container makes as many cgroups there as it likes. Only hugetlb has files
    /// of names that are not known.
    fn files(&self, controller: &str) -> Vec<String> {
        let dir = self.dir(controller).filter(|_| controller == "hugetlb");
        let sizes = fs::read_dir("/sys/kernel/mm/hugepages").ok();
        let files = |dir: &Path| {
            let sizes = sizes.into_iter().flatten().flatten();
            let sizes = sizes.filter_map(|size| page_size(size.file_name().to_str()?));
            let names = sizes
                .flat_map(|size| HUGETLB_USAGE.map(|suffix| format!("hugetlb.{size}{suffix}")));
            names.filter(|name| dir.join(name).exists()).collect()
        };
        dir.map(files).unwrap_or_default()
    }

    fn partitions(&self) -> String {
        read(Path::new("/proc/partitions")).unwrap_or_default()
    }
}

/// The files of v1 and v2 that say what is in use of huge pages of a size.
const HUGETLB_USAGE: [&str; 2] = [".usage_in_bytes", ".current"];

/// The size in the name of a directory of huge pages, `hugepages-2048kB`, as cgroups have it: `2MB`.
fn page_size(name: &str) -> Option<String> {
    let size = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
    let size: u64 = size.parse().ok()?;
    Some(match size {
        0..1_024 => format!("{size}KB"),
        1_024..1_048_576 => format!("{}MB", size >> 10),
        1_048_576.. => format!("{}GB", size >> 20),
    })
}

/// None if every part is absent.
fn told<M: Default + PartialEq>(metrics: M) -> Option<M> {
    (metrics != M::default()).then_some(metrics)
}

fn read(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The page sizes of the files `hugetlb.<size><suffix>`, in the order of their names.
fn page_sizes(source: &impl Source, suffix: &str) -> Vec<String> {
    let size = |name: &String| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
        // `hugetlb.2MB.rsvd.current` counts reservations, of which clients are not told.
        (!size.contains('.')).then(|| size.to_owned())
    };
    let mut sizes: Vec<String> = source.files("hugetlb").iter().filter_map(size).collect();
    sizes.sort_unstable();
    sizes
}
