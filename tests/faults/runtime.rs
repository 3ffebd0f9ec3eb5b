//! The fault-injecting runtime: a script around the real one, told by files what to do wrong.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use cotter::proto::pack;
use cotter::proto::runc_options::Options;
use cotter::proto::task::CreateTaskRequest;

use crate::common::shim::{Shim, until};

const SCRIPT: &str = include_str!("runtime.sh");

/// One misbehaving runtime; a test has one per container that shall misbehave.
pub struct Faulty {
    dir: PathBuf,
    gates: BTreeMap<&'static str, File>,
}

/// The faults in which a call is held until it is released, each with a gate of its own.
const HELD: [&str; 4] = ["slow-before", "slow-after", "slow-no-pid", "killed-ahead"];

impl Faulty {
    /// A copy of the script around the runtime of `shim`.
    pub fn new(shim: &Shim, name: &str) -> Self {
        let dir = shim.dir().join(format!("faulty-{name}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("real"), format!("{}\n", shim.options.binary_name)).unwrap();
        fs::write(dir.join("mark"), format!("{}\n", shim.namespace)).unwrap();
        let binary = dir.join("runtime");
        crate::common::write_program(&binary, SCRIPT);
        let gate = |fault| {
            let path = dir.join(format!("gate-{fault}"));
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            // For reading too: a line written stays there until a call comes for it.
            (
                fault,
                File::options().read(true).write(true).open(path).unwrap(),
            )
        };
        let gates = HELD.into_iter().map(gate).collect();
        Self { dir, gates }
    }

    /// From now on `operation` goes wrong in this way.
    pub fn set(&self, operation: &str, fault: &str) {
        let _ = fs::remove_file(self.arrival(operation));
        // In one step: a call may be reading it.
        let new = self.dir.join("new");
        fs::write(&new, format!("{fault}\n")).unwrap();
        fs::rename(new, self.dir.join(operation)).unwrap();
    }

    /// From now on `operation` is the real runtime's.
    pub fn clear(&self, operation: &str) {
        fs::remove_file(self.dir.join(operation)).unwrap();
    }

    /// Until a call of `operation` has come to the point where it is held or hangs.
    pub async fn arrived(&self, operation: &str) {
        until(&format!("{operation} is called"), || {
            self.arrival(operation).exists()
        })
        .await;
    }

    /// Lets one call that is held by this fault go on.
    pub fn release(&self, fault: &str) {
        (&self.gates[fault]).write_all(b"go\n").unwrap();
    }

    fn arrival(&self, operation: &str) -> PathBuf {
        self.dir.join(format!("{operation}.here"))
    }

    /// The options that name it.
    pub fn options(&self, shim: &Shim) -> Options {
        Options {
            binary_name: self.binary().to_string_lossy().into_owned(),
            ..shim.options.clone()
        }
    }

    /// A Create of `id`, whose bundle exists, with this runtime.
    pub fn create_request(&self, shim: &Shim, id: &str) -> CreateTaskRequest {
        CreateTaskRequest {
            options: Some(pack(&self.options(shim)).unwrap()).into(),
            ..shim.create_request(id)
        }
    }

    /// The script.
    pub fn binary(&self) -> PathBuf {
        Path::new(&self.dir).join("runtime")
    }
}
