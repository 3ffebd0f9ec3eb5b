//! What the kernel charges to processes: a memory cgroup for those that are measured.
//!
//! Invariant: nothing that others on the machine take or give back is in a figure. (What the whole machine
//! has less of is not such a figure: what an earlier contestant's containers still held came free in the
//! next one's turn, and a shim seemed to cost less than its own private memory.)

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cotter::error::{Error, Result};

use crate::proc::number;

/// How long a cgroup may still be busy with processes that have ended.
const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// Memory in KB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Charge {
    /// Pages that are no file's.
    pub anonymous: f64,
    /// The kernel's own for these processes: page tables, stacks, descriptors, sockets, namespaces.
    pub kernel: f64,
}

/// A memory cgroup, removed when this is dropped.
#[derive(Debug)]
pub struct Charged {
    dir: PathBuf,
    unified: bool,
}

impl Charged {
    /// A new one below that of this process.
    ///
    /// # Errors
    /// There is no memory controller, or it may not be used.
    pub fn new(name: &str) -> Result<Self> {
        let own = read(Path::new("/proc/self/cgroup"))?;
        let (unified, path) = place(&own)
            .ok_or_else(|| Error::not_found("a memory controller in /proc/self/cgroup"))?;
        let root = match unified {
            true => "/sys/fs/cgroup",
            false => "/sys/fs/cgroup/memory",
        };
        let dir = Path::new(root)
            .join(path.trim_start_matches('/'))
            .join(name);
        fs::create_dir(&dir).map_err(|e| Error::io(format!("mkdir {}", dir.display()), &e))?;
        Ok(Self { dir, unified })
    }

    /// A program that runs `program` in here, written into `into`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn program(&self, program: &Path, into: &Path) -> Result<PathBuf> {
        let wrapper = into.join("charged");
        let script = format!(
            "#!/bin/sh\necho $$ >'{}/cgroup.procs' && exec '{}' \"$@\"\n",
            self.dir.display(),
            program.display()
        );
        let failed = |e| Error::io(format!("write {}", wrapper.display()), &e);
        fs::write(&wrapper, script).map_err(failed)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        Ok(wrapper)
    }

    /// What is charged at this moment.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn now(&self) -> Result<Charge> {
        let stat = read(&self.dir.join("memory.stat"))?;
        let bytes = match self.unified {
            true => [number(&stat, "anon "), number(&stat, "kernel ")],
            false => {
                let kernel = read(&self.dir.join("memory.kmem.usage_in_bytes"))?;
                [number(&stat, "rss "), number(&kernel, "")]
            }
        };
        let [anonymous, kernel] = bytes.map(|bytes| bytes / 1024.0);
        Ok(Charge { anonymous, kernel })
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        let begun = std::time::Instant::now();
        while fs::remove_dir(&self.dir).is_err() && begun.elapsed() < BUSY {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// A process costs at least what it alone has written: a figure below that is no figure.
///
/// # Errors
/// Both, in words.
pub fn plausible(charged: f64, private: f64) -> std::result::Result<(), String> {
    match charged >= private {
        true => Ok(()),
        false => Err(format!(
            "{charged:.0} KB are charged for {private:.0} KB of private memory"
        )),
    }
}

/// Whether memory is accounted on the unified hierarchy, and in which cgroup this process is.
pub fn place(own: &str) -> Option<(bool, &str)> {
    let lines = || own.lines().filter_map(|line| line.split_once(':'));
    let v1 = lines().find_map(|(_, rest)| {
        let (controllers, path) = rest.split_once(':')?;
        let memory = controllers.split(',').any(|name| name == "memory");
        memory.then_some((false, path))
    });
    v1.or_else(|| lines().find_map(|(_, rest)| Some((true, rest.strip_prefix(':')?))))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io(format!("read {}", path.display()), &e))
}
