//! Paths that are what they say.
//!
//! Invariant: what is opened is exactly the path: no link on the way is followed, whoever puts one there
//! meanwhile. Directories are walked one by one, which every kernel can.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, mkdirat};

/// Opens a path for appending, and makes the file and its directories if they are not there. A link
/// anywhere in it is `ELOOP` or `ENOTDIR`.
pub(super) fn open_append(path: &Path) -> nix::Result<OwnedFd> {
    let mut names: Vec<&OsStr> = Vec::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name),
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::EINVAL),
        }
    }
    let Some((file, directories)) = names.split_last() else {
        return Err(Errno::EISDIR);
    };
    let way = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = open("/", way, Mode::empty())?;
    for name in directories {
        let step = |at: &OwnedFd| openat(at.as_fd(), *name, way, Mode::empty());
        at = match step(&at) {
            Err(Errno::ENOENT) => {
                match mkdirat(at.as_fd(), *name, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(why) => return Err(why),
                }
                step(&at)?
            }
            step => step?,
        };
    }
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOFOLLOW;
    let flags = flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    openat(at.as_fd(), *file, flags, Mode::from_bits_truncate(0o644))
}

/// Where a path leads once all links in the part of it that is there are resolved. None for one with `..`,
/// or that leads nowhere.
pub(super) fn resolve(path: &Path) -> Option<PathBuf> {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    let mut missing = Vec::new();
    for known in path.ancestors() {
        // A link that leads nowhere is something that is there.
        if known.symlink_metadata().is_ok() {
            let mut real = known.canonicalize().ok()?;
            real.extend(missing.iter().rev());
            return Some(real);
        }
        missing.push(known.file_name()?);
    }
    None
}

/// Whether this is a device that all may write to, and that acts on nothing: null, zero, full, random.
pub(super) fn is_everybodys(stat: &FileStat) -> bool {
    let (major, minor) = (libc::major(stat.st_rdev), libc::minor(stat.st_rdev));
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR
        && major == 1
        && [3, 5, 7, 8, 9].contains(&minor)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_lead_where_their_links_lead() {
        let dir = std::env::temp_dir().join(format!("cotter-exact-{}", std::process::id()));
        fs::create_dir_all(dir.join("real")).unwrap();
        let dir = dir.canonicalize().unwrap();
        symlink("real", dir.join("link")).unwrap();
        symlink("nowhere", dir.join("dangling")).unwrap();
        let of = |name: &str| resolve(&dir.join(name));
        assert_eq!(of("real/a/b"), Some(dir.join("real/a/b")));
        assert_eq!(of("link/a"), Some(dir.join("real/a")));
        assert_eq!(of("./link//a"), Some(dir.join("real/a")));
        for none in ["dangling", "dangling/a", "real/../a", "link/.."] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(resolve(Path::new("real/a")), None);

        // Opened exactly, with directories; a link on the way or in its place is none.
        assert!(open_append(&dir.join("real/x/y/z")).is_ok());
        assert!(open_append(&dir.join("real/x/y/z")).is_ok());
        for (name, why) in [
            ("link/a", Errno::ENOTDIR),
            ("dangling", Errno::ELOOP),
            ("real/x/y", Errno::EISDIR),
            ("real/../a", Errno::EINVAL),
        ] {
            assert_eq!(open_append(&dir.join(name)).err(), Some(why), "{name}");
        }
        assert!(!dir.join("real/a").exists() && !dir.join("nowhere").exists());
        assert_eq!(open_append(Path::new("/")).err(), Some(Errno::EISDIR));
        fs::remove_dir_all(&dir).unwrap();
    }
}
