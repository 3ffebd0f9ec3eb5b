//! Opens a path as if a directory were `/`.
//!
//! Invariant: what is opened lies below the directory, whatever links say and whoever renames meanwhile. The
//! kernel sees to it (openat2(2), Linux 5.6); on an older one each name is opened by itself, from the descriptor
//! of the directory that it is in, and no link is followed but by its text, so that `..` leads to where the walk came
//! from and never above its beginning. Both are put to the same tree in a test below.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

/// As many links as the kernel follows.
const LINKS: usize = 40;

/// As deep as a walk by steps goes, which holds a descriptor for each directory.
const DEEPEST: usize = 256;

/// Opens `path`, to be named and not read. Links and `..` in it are followed as if `root` were `/`, but not those
/// that lead nowhere by their text (of a process's descriptors, say).
pub(super) fn open_inside(root: &Path, path: &str) -> nix::Result<OwnedFd> {
    let root = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    if path.trim_matches('/').is_empty() {
        return Ok(root);
    }
    match by_kernel(&root, path) {
        // Not known, or not known to a sandbox's filter.
        Err(Errno::ENOSYS | Errno::EPERM) => by_steps(root, path),
        done => done,
    }
}

fn by_kernel(root: &OwnedFd, path: &str) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // EAGAIN: something was renamed or mounted while `..` was resolved.
    let mut tries = 16;
    loop {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) if tries > 0 => tries -= 1,
            done => return done,
        }
    }
}

fn by_steps(root: OwnedFd, path: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // The directories on the way, from the root to where the walk is.
    let mut way = vec![root];
    let mut left = VecDeque::new();
    prepend(&mut left, OsStr::new(path));
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        let here = way.last().ok_or(Errno::ENOENT)?;
        match name.as_bytes() {
            // Of a file there is none.
            b"" | b"." => is_directory(here)?,
            b".." => {
                is_directory(here)?;
                if way.len() > 1 {
                    way.pop();
                }
            }
            _ => {
                let next = openat(here, name.as_os_str(), flags, Mode::empty())?;
                if kind(&next)? != SFlag::S_IFLNK {
                    if way.len() >= DEEPEST {
                        return Err(Errno::ENAMETOOLONG);
                    }
                    way.push(next);
                    continue;
                }
                links += 1;
                // Which of procfs's lead by their text is not to be seen.
                if links > LINKS || fstatfs(&next)?.filesystem_type() == PROC_SUPER_MAGIC {
                    return Err(Errno::ELOOP);
                }
                let to = readlinkat(&next, "")?;
                if to.as_bytes().starts_with(b"/") {
                    way.truncate(1);
                }
                prepend(&mut left, &to);
            }
        }
    }
    way.pop().ok_or(Errno::ENOENT)
}

/// Puts the names of a path before those that are left. A slash at its end is an empty name.
fn prepend(left: &mut VecDeque<OsString>, path: &OsStr) {
    let path = path.as_bytes();
    let path = path.strip_prefix(b"/").unwrap_or(path);
    for name in path.rsplit(|byte| *byte == b'/') {
        left.push_front(OsStr::from_bytes(name).to_owned());
    }
}

fn is_directory(fd: &OwnedFd) -> nix::Result<()> {
    match kind(fd)? {
        SFlag::S_IFDIR => Ok(()),
        _ => Err(Errno::ENOTDIR),
    }
}

fn kind(fd: &OwnedFd) -> nix::Result<SFlag> {
    let mode = fstat(fd)?.st_mode;
    Ok(SFlag::from_bits_truncate(mode) & SFlag::S_IFMT)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    /// Both ways come to the same place, or to the same error.
    #[test]
    fn both_ways_lead_to_the_same() {
        let dir = std::env::temp_dir().join(format!("cotter-inside-{}", std::process::id()));
        let root = dir.join("root");
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir_all(root.join("tmp")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        fs::write(dir.join("outside"), "").unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), Mode::S_IRWXU).unwrap();
        let deep = ["a", "b", "c"].iter().cycle().take(60);
        let deep = deep.fold(root.join("d"), |path, name| path.join(name));
        fs::create_dir_all(&deep).unwrap();
        for (to, link) in [
            ("b", "a/near"),
            ("b/", "a/slash"),
            ("/a/b", "absolute"),
            ("/", "top"),
            ("../../../../outside", "a/out"),
            ("../../../../..", "a/up"),
            ("loop2", "loop1"),
            ("loop1", "loop2"),
            ("self", "self"),
            ("nowhere", "dangling"),
            ("file/", "file-slash"),
            ("/proc/self/exe", "to-proc"),
        ] {
            symlink(to, root.join(link)).unwrap();
        }
        // As many as are followed, and one more.
        symlink("a", root.join("chain0")).unwrap();
        for n in 1..=40 {
            symlink(format!("chain{}", n - 1), root.join(format!("chain{n}"))).unwrap();
        }
        let at = || open(&root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        let place = |opened: nix::Result<OwnedFd>| {
            let stat = fstat(opened?)?;
            Ok((stat.st_dev, stat.st_ino))
        };
        let of = |path: &Path| {
            let meta = fs::metadata(path).unwrap();
            Ok((meta.dev(), meta.ino()))
        };
        let depth = deep.strip_prefix(&root).unwrap().to_str().unwrap();
        for (path, expected) in [
            ("a/b/c", of(&root.join("a/b/c"))),
            ("/a//b/./c/", of(&root.join("a/b/c"))),
            ("a/../a/b/../b", of(&root.join("a/b"))),
            ("../../..", of(&root)),
            ("a/near/c", of(&root.join("a/b/c"))),
            ("a/near", of(&root.join("a/b"))),
            ("a/slash", of(&root.join("a/b"))),
            ("absolute/c", of(&root.join("a/b/c"))),
            ("absolute/../../a", of(&root.join("a"))),
            ("top", of(&root)),
            ("top/tmp/", of(&root.join("tmp"))),
            ("a/up/a", of(&root.join("a"))),
            ("a/out", Err(Errno::ENOENT)),
            ("file", of(&root.join("file"))),
            ("fifo", of(&root.join("fifo"))),
            ("file/", Err(Errno::ENOTDIR)),
            ("file/.", Err(Errno::ENOTDIR)),
            ("file/..", Err(Errno::ENOTDIR)),
            ("file/x", Err(Errno::ENOTDIR)),
            ("file-slash", Err(Errno::ENOTDIR)),
            ("loop1", Err(Errno::ELOOP)),
            ("self/x", Err(Errno::ELOOP)),
            ("dangling", Err(Errno::ENOENT)),
            ("missing/..", Err(Errno::ENOENT)),
            ("to-proc", Err(Errno::ENOENT)),
            ("chain39", of(&root.join("a"))),
            ("chain40", Err(Errno::ELOOP)),
            (depth, of(&deep)),
        ] {
            assert_eq!(place(by_steps(at(), path)), expected, "{path}");
            assert_eq!(place(by_kernel(&at(), path)), expected, "{path}, openat2");
            assert_eq!(place(open_inside(&root, path)), expected, "{path}");
        }
        // A link of no text.
        let proc = || open("/proc/self", OFlag::O_PATH, Mode::empty()).unwrap();
        for path in ["fd/0", "root", "cwd/x", "exe"] {
            let opened = [by_steps(proc(), path), by_kernel(&proc(), path)];
            assert_eq!(opened.map(Result::err), [Some(Errno::ELOOP); 2], "{path}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
