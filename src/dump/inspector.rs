//! Takes dumps of a running shim, and has them kept.

use std::path::PathBuf;

use super::keep::Keeper;
use super::{Dump, Reporter};

/// The most bytes of a dump: it is to fit a ttrpc message (4 MiB) escaped as it is.
const MAX_BYTES: usize = 3 << 20;

/// All that is asked when somebody wants to look inside.
pub struct Inspector {
    reporter: Reporter,
    keeper: Keeper,
    bundles: Box<dyn Fn() -> Vec<PathBuf> + Send + Sync>,
}

impl Inspector {
    /// Over these sources; `bundles` answers where a dump may be kept now, best first.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(
        reporter: Reporter,
        bundles: impl Fn() -> Vec<PathBuf> + Send + Sync + 'static,
    ) -> Self {
        Self {
            reporter,
            keeper: Keeper::start(),
            bundles: Box::new(bundles),
        }
    }

    /// The state now.
    pub fn look(&self) -> Dump {
        self.reporter.take().bounded(MAX_BYTES)
    }

    /// Has it logged and written to a bundle.
    pub fn keep(&self, dump: Dump) {
        self.keeper.keep(dump, (self.bundles)());
    }
}
