//! Whether a cgroup is frozen.

use super::{Cgroup, Version};
use crate::kernel_file;

impl Cgroup {
    /// Whether the cgroup is frozen or about to be, by itself and not by one above it. None when
    /// it cannot be known.
    pub fn is_frozen(&self) -> Option<bool> {
        let file = match self.version {
            // `self_freezing` is asked: `freezer.state` also tells of the cgroups above.
            Version::V1 => "freezer.self_freezing",
            Version::V2 => "cgroup.freeze",
        };
        let text = kernel_file::text(self.dir("freezer")?.join(file)).ok()?;
        match text.trim() {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        }
    }
}
