//! Logging programs: small scripts of the host's busybox.

use std::path::PathBuf;

use super::shim::Shim;
use super::tool;

/// Reads both streams to their end, into the files that its arguments name, after saying "ready".
pub const CAT: &str = "cat <&3 >>$2 5>&- & cat <&4 >>$4 5>&- & echo >&5; exec 5>&-; wait";

/// Does the same once there is a file of the first one's name with `.go` behind it.
pub const READS_LATE: &str = "echo >&5; exec 5>&-; until [ -e $2.go ]; do sleep 0.1; done; \
    cat <&3 >>$2 & cat <&4 >>$4 & wait";

/// A logging program and the files it writes.
pub struct Logger {
    /// The script.
    pub path: PathBuf,
    /// What it had on standard output.
    pub out: PathBuf,
    /// What it had on standard error.
    pub err: PathBuf,
    namespace: String,
}

impl Logger {
    /// Makes a script; its arguments are `out`, the file of that name, `err` and its file.
    pub fn new(shim: &Shim, name: &str, script: &str) -> Self {
        let path = shim.dir().join(name);
        let shebang = format!("#!{} sh\n", tool("BUSYBOX").display());
        super::write_program(&path, shebang + script);
        Self {
            out: shim.dir().join(format!("{name}.out")),
            err: shim.dir().join(format!("{name}.err")),
            namespace: shim.namespace.clone(),
            path,
        }
    }

    /// Its URI; with an argument by which the census knows its process.
    pub fn uri(&self, scheme: &str) -> String {
        format!(
            "{scheme}://{}?out={}&err={}&for={}",
            self.path.display(),
            self.out.display(),
            self.err.display(),
            self.namespace
        )
    }

    /// Has one that [`READS_LATE`] begin.
    pub fn go(&self) {
        std::fs::write(format!("{}.go", self.out.display()), "").unwrap();
    }

    /// What it wrote of standard output.
    pub fn out(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What it wrote of standard error.
    pub fn err(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// The processes that run it.
    pub fn pids(&self, shim: &Shim) -> Vec<u32> {
        let path = self.path.display().to_string();
        let processes = shim.processes().into_iter();
        processes
            .filter(|p| p.argv.contains(&path))
            .map(|p| p.pid)
            .collect()
    }
}
