//! [`crate::fuzzing`]'s door to this room.

use std::collections::BTreeMap;

use protobuf::Message;

use super::metrics::{Source, v1, v2};
use super::oom;

/// Files by `controller/file`; `partitions` is that of `/proc`.
struct Files(BTreeMap<String, String>);

impl Source for Files {
    fn text(&self, controller: &str, file: &str) -> Option<String> {
        self.0.get(&format!("{controller}/{file}")).cloned()
    }

    fn files(&self, controller: &str) -> Vec<String> {
        let names = self.0.keys().filter_map(|name| name.split_once('/'));
        names
            .filter(|(of, _)| *of == controller)
            .map(|(_, file)| file.to_owned())
            .collect()
    }

    fn partitions(&self) -> String {
        self.0.get("partitions").cloned().unwrap_or_default()
    }
}

/// See [`crate::fuzzing::cgroup_metrics`].
pub(crate) fn metrics(files: BTreeMap<String, String>) -> [Vec<u8>; 2] {
    let files = Files(files);
    let sent = [
        v1::metrics(&files).write_to_bytes(),
        v2::metrics(&files).write_to_bytes(),
    ];
    sent.map(Result::unwrap_or_default)
}

/// See [`crate::fuzzing::oom_kills`].
pub(crate) fn oom_kills(text: &str) -> Option<u64> {
    oom::shortage_of(text).map(|s| s.kills)
}
