//! Where the tool keeps its containers: one directory each, which is the bundle, with a note of how
//! the container was started.
//!
//! Invariant: a container is known exactly as long as its directory exists.

use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use cotter::error::{Error, Result};
use cotter::proto::runc_options::Options;
use cotter::spec::read_bounded;

use cotter::manager::dialect::Dialect;
use cotter::manager::launch::Launch;
use cotter::manager::places::NAMESPACE;

/// The longest note of how a container was started.
const LONGEST: u64 = 1 << 20;

/// The directory of all containers.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

/// How a container was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Note {
    /// The shim's binary.
    pub shim: PathBuf,
    /// The dialect it was started in.
    pub dialect: Dialect,
    /// The runtime, if one was named.
    pub runtime: String,
    /// The command, for people to see.
    pub command: Vec<String>,
}

impl Home {
    /// Where nothing else is said.
    pub const DEFAULT: &str = "/run/cotter";

    /// A home at `path`, made if need be, for root only.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let home = Self(path.into());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(home.containers())
            .map_err(|why| Error::io(format_args!("make {}", home.0.display()), &why))?;
        Ok(home)
    }

    fn containers(&self) -> PathBuf {
        self.0.join("c")
    }

    /// The bundle of a container.
    ///
    /// # Errors
    /// When `id` is not one that containerd would allow.
    pub fn bundle(&self, id: &str) -> Result<PathBuf> {
        let allowed =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if id.len() > 76 || !id.split(['.', '_', '-']).all(allowed) {
            return Err(Error::invalid_argument(format_args!("container id {id:?}")));
        }
        Ok(self.containers().join(id))
    }

    /// Where a container's events arrive.
    pub fn events(&self, bundle: &Path) -> PathBuf {
        bundle.join("events.sock")
    }

    /// How to start, or clean up after, a container's shim.
    pub fn launch(&self, id: &str, bundle: &Path, note: &Note) -> Launch {
        let mut launch = Launch::new(&note.shim, note.dialect, id, bundle);
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        launch.namespace = NAMESPACE.into();
        launch.grpc_address = text(self.0.join("cotter.sock"));
        launch.ttrpc_address = text(self.events(bundle));
        launch.options = Some(Options {
            binary_name: note.runtime.clone(),
            root: text(self.0.join("runtime")),
            ..Options::default()
        });
        launch
    }

    /// The ids of all containers, sorted.
    ///
    /// # Errors
    /// When the home cannot be read.
    pub fn ids(&self) -> Result<Vec<String>> {
        let path = self.containers();
        let failed = |why| Error::io(format_args!("read {}", path.display()), &why);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // What is called otherwise is somebody else's.
            ids.extend(name.into_string().ok().filter(|id| self.bundle(id).is_ok()));
        }
        ids.sort();
        Ok(ids)
    }
}

impl Note {
    /// Keeps it in the bundle.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join("cotter.json");
        let failed =
            |why: std::io::Error| Error::io(format_args!("write {}", path.display()), &why);
        let text = serde_json::to_vec(self).map_err(|why| failed(why.into()))?;
        fs::write(&path, text).map_err(failed)
    }

    /// Finds it in the bundle of container `id`.
    ///
    /// # Errors
    /// When there is no such container or the note is unreadable.
    pub fn load(bundle: &Path, id: &str) -> Result<Self> {
        let path = bundle.join("cotter.json");
        if !bundle.exists() {
            return Err(Error::not_found(format_args!("container {id}")));
        }
        let text = read_bounded(&path, LONGEST)?;
        serde_json::from_slice(&text)
            .map_err(|why| Error::unknown(format!("read {}: {why}", path.display())))
    }
}

/// An id that no other container has.
///
/// # Errors
/// When the kernel gives no random bytes.
pub fn random_id() -> Result<String> {
    let mut bytes = [0; 6];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|why| Error::io("read /dev/urandom", &why))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_containerd_and_name_no_other_directory() {
        let home = Home("/h".into());
        for id in ["a", "web-1", "A.b_c", &"x".repeat(76)] {
            assert_eq!(home.bundle(id).unwrap(), Path::new("/h/c").join(id));
        }
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "-a",
            "a-",
            "a..b",
            "ä",
            &"x".repeat(77),
        ] {
            assert!(home.bundle(id).is_err(), "{id}");
        }
    }

    #[test]
    fn random_ids_are_allowed() {
        let id = random_id().unwrap();
        assert_eq!(id.len(), 12);
        assert_ne!(id, random_id().unwrap());
        assert!(Home("/h".into()).bundle(&id).is_ok());
    }
}
