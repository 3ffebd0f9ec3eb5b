//! Where the bundles of this machine's containers are, whichever manager made them, and which of them are
//! asked for.
//!
//! Invariant: nothing is made or changed; a directory that is not there holds no bundles, one that may
//! not be read is an error.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use super::dialect::Endpoint;

/// State directories of managers: containerd's own, the one that dockerd starts, k3s's and rke2's,
/// microk8s's.
const STATES: [&str; 4] = [
    "/run/containerd",
    "/run/docker/containerd/daemon",
    "/run/k3s/containerd",
    "/var/snap/microk8s/common/run/containerd",
];

/// Below a state directory: a directory per namespace, in each one per container, the bundle.
const TASKS: &str = "io.containerd.runtime.v2.task";

/// The namespace of the tool's own containers.
pub const NAMESPACE: &str = "cotter";

/// What an address of a shim begins with.
const ADDRESS: &str = "unix://";

/// A container's bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// As managers keep it apart; the tool's own are in [`NAMESPACE`].
    pub namespace: String,
    /// The container's id.
    pub id: String,
    /// The directory.
    pub path: PathBuf,
}

impl Bundle {
    /// The one at a path, named as managers lay them out.
    ///
    /// # Errors
    /// There is none.
    pub fn at(path: &Path) -> Result<Self> {
        let path = fs::canonicalize(path)
            .map_err(|why| Error::io(format_args!("open bundle {}", path.display()), &why))?;
        let name = |path: Option<&Path>| {
            let name = path.and_then(Path::file_name).unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        Ok(Self {
            namespace: name(path.parent()),
            id: name(Some(&path)),
            path,
        })
    }
}

/// The directories to look in.
pub struct Places {
    states: Vec<PathBuf>,
    home: PathBuf,
}

impl Places {
    /// The known ones, `more` state directories, and the tool's own home.
    pub fn new(more: &[PathBuf], home: &Path) -> Self {
        let known = STATES.iter().map(PathBuf::from);
        Self {
            states: known.chain(more.iter().cloned()).collect(),
            home: home.to_owned(),
        }
    }

    /// All bundles, sorted.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn bundles(&self) -> Result<Vec<Bundle>> {
        let mut all = Vec::new();
        for state in &self.states {
            for (namespace, dir) in directories(&state.join(TASKS))? {
                all.extend(bundles(&namespace, &dir)?);
            }
        }
        all.extend(bundles(NAMESPACE, &self.home.join("c"))?);
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all.dedup();
        Ok(all)
    }
}

impl Places {
    /// The bundles that are asked for, and all that there are. A container's id, the beginning of one, the path of its
    /// bundle or the address of its shim; none for all. In one namespace, or in any.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` where several are meant, a directory that cannot be read.
    pub fn asked(
        &self,
        id: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<(Vec<Bundle>, Vec<Bundle>)> {
        let all = self.bundles()?;
        let chosen = match id {
            Some(wanted) if wanted.starts_with(ADDRESS) => {
                let here = |bundle: &&Bundle| address(bundle).as_deref() == Some(wanted);
                let found: Vec<Bundle> = all.iter().filter(here).cloned().collect();
                if found.is_empty() {
                    return Err(Error::not_found(format_args!("container at {wanted}")));
                }
                found
            }
            Some(path) if path.contains('/') => vec![Bundle::at(Path::new(path))?],
            id => choose(&all, namespace, id)?,
        };
        Ok((chosen, all))
    }
}

/// Where the shim of a bundle listens, if the bundle tells.
pub fn address(bundle: &Bundle) -> Option<String> {
    Some(Endpoint::load(&bundle.path).ok()?.address)
}

/// The only one.
///
/// # Errors
/// `InvalidArgument`: which there are.
pub fn only(chosen: &[Bundle], asked: &str) -> Result<Bundle> {
    match chosen {
        [one] => Ok(one.clone()),
        _ => Err(several(asked, chosen)),
    }
}

fn several<'a>(asked: &str, all: impl IntoIterator<Item = &'a Bundle>) -> Error {
    let names = all
        .into_iter()
        .map(|b| format!("{} in {}", b.id, b.namespace));
    let names = names.collect::<Vec<_>>().join(", ");
    Error::invalid_argument(format_args!(
        "{asked} may be {names}: say more of it, or the namespace (-n)"
    ))
}

fn bundles(namespace: &str, dir: &Path) -> Result<Vec<Bundle>> {
    let bundle = |(id, path)| Bundle {
        namespace: namespace.to_owned(),
        id,
        path,
    };
    Ok(directories(dir)?.into_iter().map(bundle).collect())
}

fn directories(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => {
            entries.map_err(|why| Error::io(format_args!("read {}", dir.display()), &why))?
        }
    };
    let directory = |entry: io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_string_lossy().into_owned();
        // A container may be deleted meanwhile.
        path.is_dir().then_some((name, path))
    };
    Ok(entries.filter_map(directory).collect())
}

/// Those that are asked for: all, the one of this id, or the only one whose id begins so.
fn choose(all: &[Bundle], namespace: Option<&str>, id: Option<&str>) -> Result<Vec<Bundle>> {
    let inside = all
        .iter()
        .filter(|bundle| namespace.is_none_or(|only| bundle.namespace == only));
    let Some(id) = id else {
        return Ok(inside.cloned().collect());
    };
    let exact: Vec<&Bundle> = inside.clone().filter(|bundle| bundle.id == id).collect();
    let matching = match exact.is_empty() {
        true => inside.filter(|bundle| bundle.id.starts_with(id)).collect(),
        false => exact,
    };
    match matching[..] {
        [one] => Ok(vec![one.clone()]),
        [] => Err(Error::not_found(format_args!("container {id}"))),
        _ => Err(several(id, matching)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn bundle(namespace: &str, id: &str) -> Bundle {
        Bundle {
            namespace: namespace.into(),
            id: id.into(),
            path: Path::new("/s").join(namespace).join(id),
        }
    }

    #[test]
    fn an_id_names_one_container() {
        let all = [
            bundle("default", "web"),
            bundle("default", "web-2"),
            bundle("moby", "web"),
            bundle("moby", "4f9a"),
        ];
        let ids = |namespace, id| -> Result<Vec<usize>> {
            let chosen = choose(&all, namespace, id)?;
            let place = |c: &Bundle| all.iter().position(|b| b == c).unwrap();
            Ok(chosen.iter().map(place).collect())
        };
        assert_eq!(ids(None, None).unwrap(), [0, 1, 2, 3]);
        assert_eq!(ids(Some("moby"), None).unwrap(), [2, 3]);
        assert_eq!(ids(Some("moby"), Some("web")).unwrap(), [2]);
        assert_eq!(ids(Some("default"), Some("web")).unwrap(), [0], "exact");
        assert_eq!(ids(None, Some("web-")).unwrap(), [1], "a beginning");
        assert_eq!(ids(None, Some("4f")).unwrap(), [3]);
        for (namespace, id, code) in [
            (None, "web", Code::InvalidArgument),
            (Some("default"), "we", Code::InvalidArgument),
            (None, "x", Code::NotFound),
            (Some("none"), "web", Code::NotFound),
        ] {
            assert_eq!(ids(namespace, Some(id)).unwrap_err().code, code, "{id}");
        }
        let why = ids(None, Some("web")).unwrap_err().message;
        assert!(why.contains("web in default, web in moby"), "{why}");
    }

    #[test]
    fn bundles_of_a_state_directory_and_of_the_home() {
        let dir = std::env::temp_dir().join(format!("cotter-places-{}", std::process::id()));
        let state = dir.join("state");
        let home = dir.join("home");
        for path in [
            state.join(TASKS).join("ns/a"),
            state.join(TASKS).join("ns/b"),
            home.join("c/d"),
        ] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(state.join(TASKS).join("ns/file"), "").unwrap();
        let places = Places {
            states: vec![state, dir.join("absent")],
            home,
        };
        let all = places.bundles().unwrap();
        let mut names: Vec<(&str, &str)> = all.iter().map(|b| (&*b.namespace, &*b.id)).collect();
        names.sort_unstable();
        assert_eq!(names, [("cotter", "d"), ("ns", "a"), ("ns", "b")]);

        for (id, socket) in [("a", "1"), ("b", "1")] {
            let file = dir
                .join("state")
                .join(TASKS)
                .join("ns")
                .join(id)
                .join("address");
            fs::write(file, format!("unix:///run/s/{socket}")).unwrap();
        }
        let ids = |asked: &str| -> Result<Vec<String>> {
            let (chosen, all) = places.asked(Some(asked), None)?;
            assert_eq!(all.len(), 3);
            Ok(chosen.into_iter().map(|bundle| bundle.id).collect())
        };
        assert_eq!(ids("unix:///run/s/1").unwrap(), ["a", "b"]);
        assert_eq!(ids("a").unwrap(), ["a"]);
        assert_eq!(ids("unix:///run/s/").unwrap_err().code, Code::NotFound);
        let why = only(&all, "unix:///run/s/1").unwrap_err().message;
        assert!(why.contains("a in ns, b in ns"), "{why}");

        let at = Bundle::at(&dir.join("state").join(TASKS).join("ns/../ns/a")).unwrap();
        assert_eq!((&*at.namespace, &*at.id), ("ns", "a"));
        fs::remove_dir_all(&dir).unwrap();
        assert!(Bundle::at(&dir).is_err());
    }
}
