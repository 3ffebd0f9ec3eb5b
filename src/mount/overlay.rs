//! Overlay mounts: layers that do not fit in the one page of options that mount(2) takes, and
//! layers with other owners.
//!
//! Invariant: the working directory of the process never changes. Layers are named relative to
//! their common parent, and the call is made from there by a thread that has a working directory
//! of its own and ends with the call, so that neither directory nor mount stays pinned.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::chdir;

use super::tree::Tree;

const LOWER: &str = "lowerdir=";

/// The lower layers as paths; none without the option. Only the last such option counts.
pub(super) fn layers(data: &[String]) -> Vec<PathBuf> {
    let last = data.iter().rev().find_map(|word| word.strip_prefix(LOWER));
    let layers = last.map(split).unwrap_or_default();
    let named = layers.into_iter().filter(|layer| !layer.is_empty());
    named.map(unescape).collect()
}

/// Lays a copy of each layer over it that shows other owners, so that an overlay made next has
/// the layers so, by their own names. For a mount namespace that goes with the overlay made.
pub(super) fn cover(layers: &[PathBuf], users: &OwnedFd) -> Result<(), String> {
    layers.iter().try_for_each(|layer| {
        Tree::copy(layer, false)
            .and_then(|copy| copy.mapped(users))
            .and_then(|cover| cover.move_to(layer))
            .map_err(|why| format!("layer {}: {why}", layer.display()))
    })
}

/// The common parent of all lower layers, and the data with the layers relative to it. `None` when
/// there are none, or one of them is not absolute.
pub(super) fn shorten(data: &[String]) -> Option<(PathBuf, String)> {
    let at = data.iter().rposition(|word| word.starts_with(LOWER))?;
    let layers = split(data.get(at)?.strip_prefix(LOWER)?);
    let parent = common_parent(layers.iter().filter(|layer| !layer.is_empty()))?;
    // Layers stay in their escaped form, in which the parent has another length.
    let skip = components(layers.iter().find(|layer| !layer.is_empty())?)
        .take(parent.len())
        .count();
    let relative: Vec<String> = layers
        .iter()
        .map(|layer| components(layer).skip(skip).collect::<Vec<_>>().join("/"))
        .collect();
    let mut words = data.to_vec();
    *words.get_mut(at)? = format!("{LOWER}{}", relative.join(":"));
    let mut dir = PathBuf::from("/");
    dir.extend(parent.iter().map(|part| unescape(part)));
    Some((dir, words.join(",")))
}

/// mount(2) made with `dir` as working directory.
pub(super) fn mount_from(
    dir: &Path,
    source: &Path,
    target: &Path,
    flags: MsFlags,
    data: &str,
) -> nix::Result<()> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("overlay".into())
            .stack_size(128 * 1024)
            .spawn_scoped(scope, || {
                unshare(CloneFlags::CLONE_FS)?;
                chdir(dir)?;
                mount(Some(source), target, Some("overlay"), flags, Some(data))
            })
            .map_err(|why| Errno::from_raw(why.raw_os_error().unwrap_or(libc::EAGAIN)))?
            .join()
            .unwrap_or(Err(Errno::EIO))
    })
}

/// Splits at colons that are not escaped. Empty parts stay: `::` sets data-only layers off.
fn split(layers: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (at, byte) in layers.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b':' => {
                // A colon is one byte, so both sides of it are character boundaries.
                parts.push(layers.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(layers.get(start..).unwrap_or_default());
    parts
}

fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
}

/// The leading components all paths share, at most all but the last of each, so that what is left
/// of a path is never empty. `None` without paths, and when one is relative or climbs.
fn common_parent<'a>(mut paths: impl Iterator<Item = &'a &'a str>) -> Option<Vec<&'a str>> {
    let parts = |path: &'a str| {
        let parts: Vec<_> = components(path).collect();
        (path.starts_with('/') && !parts.is_empty() && !parts.contains(&"..")).then_some(parts)
    };
    let mut common = parts(paths.next()?)?;
    common.pop();
    for path in paths {
        let path = parts(path)?;
        let shared = common
            .iter()
            .zip(path.iter().take(path.len() - 1))
            .take_while(|(a, b)| a == b)
            .count();
        common.truncate(shared);
    }
    Some(common)
}

/// A path as chdir(2) wants it: overlay reads a backslash as "the next byte as it is".
fn unescape(part: &str) -> PathBuf {
    let mut plain = Vec::with_capacity(part.len());
    let mut bytes = std::ffi::OsStr::new(part).as_bytes().iter();
    while let Some(&byte) = bytes.next() {
        match (byte, bytes.as_slice().first()) {
            (b'\\', Some(_)) => plain.extend(bytes.next()),
            _ => plain.push(byte),
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layers_relative_to_their_parent() {
        for (lower, dir, short) in [
            ("/s/1/fs:/s/2/fs:/s/3/fs", "/s", "1/fs:2/fs:3/fs"),
            ("/s/1/fs", "/s/1", "fs"),
            ("/a/b:/c/d", "/", "a/b:c/d"),
            // A layer inside another: neither name may become empty.
            ("/s/a:/s/a/b", "/s", "a:a/b"),
            ("/s/a/b:/s/a", "/s", "a/b:a"),
            ("/s/10/fs:/s/1/fs", "/s", "10/fs:1/fs"),
            ("//s/./1//fs/:/s/2/fs", "/s", "1/fs:2/fs"),
            ("/s/1::/s/data", "/s", "1::data"),
            ("/s\\:x/1:/s\\:x/2\\\\", "/s:x", "1:2\\\\"),
        ] {
            let data = [
                "index=off".to_owned(),
                format!("{LOWER}{lower}"),
                "b=c".into(),
            ];
            let expected = (dir.into(), format!("index=off,{LOWER}{short},b=c"));
            assert_eq!(shorten(&data), Some(expected), "{lower}");
        }
    }

    #[test]
    fn layers_as_paths() {
        let paths = |layers: &[&str]| layers.iter().map(PathBuf::from).collect::<Vec<_>>();
        for (data, expected) in [
            (&["index=off"][..], &[][..]),
            (&["lowerdir="], &[]),
            (&["lowerdir=/a:/b", "c=d"], &["/a", "/b"]),
            (&["lowerdir=/a\\:b::/c\\\\"], &["/a:b", "/c\\"]),
            (&["lowerdir=/a", "lowerdir=/b"], &["/b"]),
        ] {
            let words: Vec<String> = data.iter().map(|&word| word.into()).collect();
            assert_eq!(layers(&words), paths(expected), "{data:?}");
        }
    }

    #[test]
    fn what_cannot_be_shortened() {
        for data in [
            "index=off",
            "lowerdir=",
            "lowerdir=a:/b/c",
            "lowerdir=/a/b:/a/../c",
        ] {
            assert_eq!(shorten(&[data.into()]), None, "{data}");
        }
        assert_eq!(shorten(&["lowerdir=/".into()]), None);
    }

    proptest! {
        #[test]
        fn no_input_panics(lower in "[/a:.\\\\é]{0,24}") {
            if let Some((dir, data)) = shorten(&[format!("{LOWER}{lower}")]) {
                prop_assert!(dir.is_absolute());
                let short = data.strip_prefix(LOWER).unwrap().to_owned();
                prop_assert!(split(&short).iter().all(|layer| !layer.starts_with('/')));
            }
        }
    }
}
