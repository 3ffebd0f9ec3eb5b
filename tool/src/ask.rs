//! Which container a person means.

use std::path::{Path, PathBuf};

use cotter::error::Result;
use cotter::manager::places::{Bundle, Places};

/// What is asked for on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// A container's id, the beginning of one, the path of its bundle or the address of its shim; none
    /// for all.
    pub id: Option<String>,
    /// The namespace to look in; none for any.
    pub namespace: Option<String>,
    /// Further state directories of managers.
    pub state: Vec<PathBuf>,
    /// Print JSON.
    pub json: bool,
    /// Write nothing in the shim.
    pub quiet: bool,
}

impl Ask {
    /// The bundles that are meant, and all that there are; `home` is the tool's own.
    pub fn bundles(&self, home: &Path) -> Result<(Vec<Bundle>, Vec<Bundle>)> {
        Places::new(&self.state, home).asked(self.id.as_deref(), self.namespace.as_deref())
    }
}
