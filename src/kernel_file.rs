//! Small files that the kernel writes as they are read: of `/proc`, of cgroups.
//!
//! Invariant: what is answered is the whole file. Most are read by one call, where the standard library, which
//! cannot know how long they are, makes four or five.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What is read at once.
const ROOM: usize = 4096;

/// A read that brings no more than this was the last: the kernel leaves out of a read only what does not
/// fit, and a line of such a file is shorter than the room that was left.
const LAST: usize = 1024;

/// The file's text.
///
/// # Errors
/// What the system said; `InvalidData` if it is no text.
pub(crate) fn text(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(bytes(path)?).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
}

/// The file's bytes.
///
/// # Errors
/// What the system said.
pub(crate) fn bytes(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut all = Vec::new();
    let mut room = [0; ROOM];
    loop {
        match file.read(&mut room) {
            Ok(read) => {
                all.extend_from_slice(&room[..read]);
                if read <= LAST {
                    return Ok(all);
                }
            }
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn short_and_long_ones_are_whole() {
        for path in [
            "/proc/self/comm",
            "/proc/version",
            "/proc/filesystems",
            "/proc/kallsyms",
            "/proc/crypto",
        ] {
            let expected = fs::read_to_string(path).unwrap();
            assert_eq!(text(path).unwrap(), expected, "{path}");
        }
        let long = fs::read("/proc/kallsyms").unwrap().len();
        assert!(long > 100 * ROOM, "{long}");
        let missing = text("/proc/nonexistent").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
