//! The tool under test, which is a package of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `cotter` program, of this very source: cargo is asked, where there is one (in the virtual machine it was,
/// before).
pub fn cotter() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(cargo) = std::env::var_os("CARGO") {
            // With what tests depend on, as the shim is: nothing is compiled twice.
            let mut build = Command::new(cargo);
            build.args(["test", "--locked", "--quiet", "--no-run"]);
            build.args(["--test", "typed"]);
            let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
            assert!(built.unwrap().success(), "the tool does not build");
        }
        Path::new(env!("CARGO_BIN_EXE_containerd-shim-cotter-v2")).with_file_name("cotter")
    })
}
