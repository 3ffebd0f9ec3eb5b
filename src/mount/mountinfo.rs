//! `/proc/self/mountinfo`, read line by line.
//!
//! Invariant: no input makes the parser panic; a line it does not understand is skipped. One line
//! is held at a time, since a node's table can be megabytes of overlay options.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount, with the fields the shim needs (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `major:minor` of the file system; the same for all mounts of one cgroup hierarchy.
    pub device: String,
    /// The directory of the file system that is mounted.
    pub root: PathBuf,
    /// Where, as seen from the process's root.
    pub mount_point: PathBuf,
    /// File system type.
    pub fs_type: String,
    /// Per-superblock options, comma separated.
    pub super_options: String,
}

/// The fields of a line as they stand there, for who looks at many lines and wants few.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The mount's number.
    pub id: u32,
    /// The number of the mount that it is mounted on.
    pub parent: u32,
    device: &'a [u8],
    root: &'a [u8],
    mount_point: &'a [u8],
    fs_type: &'a [u8],
    super_options: &'a [u8],
}

impl<'a> Line<'a> {
    /// Takes a line apart; `None` when it is not a mountinfo line.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&b| b == b' ');
        let id = ascii(fields.next()?)?.parse().ok()?;
        let parent = ascii(fields.next()?)?.parse().ok()?;
        let device = fields.next()?;
        let root = fields.next()?;
        let mount_point = fields.next()?;
        let _mount_options = fields.next()?;
        // Any number of optional fields, ended by a lone dash.
        fields.find(|&field| field == b"-")?;
        let fs_type = fields.next()?;
        let _source = fields.next()?;
        let super_options = fields.next()?;
        Some(Self {
            id,
            parent,
            device,
            root,
            mount_point,
            fs_type,
            super_options,
        })
    }

    /// File system type.
    pub fn fs_type(&self) -> &'a [u8] {
        self.fs_type
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> Cow<'a, [u8]> {
        match self.mount_point.contains(&b'\\') {
            false => Cow::Borrowed(self.mount_point),
            true => Cow::Owned(unescape(self.mount_point)),
        }
    }

    /// All that the shim needs of it.
    pub fn entry(&self) -> Entry {
        Entry {
            device: text(self.device),
            root: path(self.root),
            mount_point: path(self.mount_point),
            fs_type: text(self.fs_type),
            super_options: text(self.super_options),
        }
    }
}

/// Reads one line; `None` when it is not a mountinfo line.
pub fn parse_line(line: &[u8]) -> Option<Entry> {
    Line::parse(line).map(|line| line.entry())
}

/// All entries of a table, oldest mount first, as the kernel lists them.
pub fn parse(table: &[u8]) -> impl Iterator<Item = Entry> {
    table.split(|&b| b == b'\n').filter_map(parse_line)
}

/// The process's own table, filtered while it is read.
pub fn read<T>(mut keep: impl FnMut(Entry) -> Option<T>) -> io::Result<Vec<T>> {
    let mut table = BufReader::new(File::open("/proc/self/mountinfo")?);
    let mut line = Vec::new();
    let mut kept = Vec::new();
    loop {
        line.clear();
        if table.read_until(b'\n', &mut line)? == 0 {
            return Ok(kept);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        kept.extend(parse_line(line).and_then(&mut keep));
    }
}

/// Undoes the kernel's escapes: a backslash and three octal digits stand for one byte.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match rest {
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                tail @ ..,
            ] => {
                plain.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = tail;
            }
            _ => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

fn ascii(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines() {
        let line =
            b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,a=b";
        assert_eq!(
            parse_line(line),
            Some(Entry {
                device: "98:0".into(),
                root: "/mnt1".into(),
                mount_point: "/mnt 2".into(),
                fs_type: "ext3".into(),
                super_options: "rw,a=b".into(),
            })
        );
        // An empty source leaves two blanks.
        let empty_source = parse_line(b"1 2 0:3 / /x rw - tmpfs  rw").unwrap();
        assert_eq!(empty_source.super_options, "rw");
        for bad in [
            &b""[..],
            b"1",
            b"1 2 0:3 / /x rw",
            b"1 2 0:3 / /x rw - tmpfs",
            b"x 2 0:3 / /x rw - tmpfs a rw",
        ] {
            assert_eq!(parse_line(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn escapes() {
        for (escaped, plain) in [
            (&b"a\\040b\\011\\012\\134c"[..], &b"a b\t\n\\c"[..]),
            (b"\\377", b"\xff"),
            // Not escapes the kernel writes: left as they are.
            (b"\\400", b"\\400"),
            (b"\\04", b"\\04"),
            (b"\\", b"\\"),
            (b"\\\\040", b"\\ "),
        ] {
            assert_eq!(unescape(escaped), plain, "{escaped:?}");
        }
    }

    #[test]
    fn the_own_table_has_proc() {
        let found = read(|e| (e.mount_point == std::path::Path::new("/proc")).then_some(e.fs_type));
        assert!(found.unwrap().contains(&"proc".to_owned()));
    }

    proptest! {
        #[test]
        fn no_input_panics(table: Vec<u8>) {
            for entry in parse(&table) {
                prop_assert!(!entry.device.contains('\n'));
            }
        }

        #[test]
        fn any_path_survives(path in proptest::collection::vec(1u8.., 1..64)) {
            let mut line = b"1 2 0:3 / ".to_vec();
            for &byte in &path {
                if matches!(byte, b' ' | b'\t' | b'\n' | b'\\') {
                    line.extend(format!("\\{byte:03o}").bytes());
                } else {
                    line.push(byte);
                }
            }
            line.extend(b" rw - tmpfs none rw");
            let entry = parse_line(&line).unwrap();
            prop_assert_eq!(entry.mount_point.into_os_string().into_vec(), path);
        }
    }
}
