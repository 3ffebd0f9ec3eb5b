//! Small files that the kernel writes as they are read: of `/proc`, of cgroups.
//!
//! Invariant: what is answered is the whole file, and a file that is there is an answer: a process may call itself
//! anything, and the kernel cuts a name off after 15 bytes, in the middle of a letter too. Most are read by one call, where the standard library, which
//! cannot know how long they are, makes four or five.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What is read at once.
const ROOM: usize = 4096;

/// A read that brings no more than this was the last: the kernel leaves out of a read only what does not
/// fit, and a line of such a file is shorter than the room that was left.
const LAST: usize = 1024;

/// The file's text; what is none in it stands there as U+FFFD.
///
/// # Errors
/// What the system said.
pub(crate) fn text(path: impl AsRef<Path>) -> io::Result<String> {
    let bytes = bytes(path)?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|why| String::from_utf8_lossy(why.as_bytes()).into_owned()))
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

/// A process that calls itself something that is no text, until it is dropped.
#[cfg(test)]
pub(crate) struct OddlyNamed(std::process::Child);

#[cfg(test)]
impl OddlyNamed {
    pub(crate) fn new() -> Self {
        use std::io::BufRead;
        use std::process::{Command, Stdio};

        let mut sh = Command::new("sh");
        // Thirteen bytes and half a letter.
        sh.args([
            "-c",
            r"printf '\303\274berwachung\303' >/proc/$$/comm; echo; read -r x",
        ]);
        let sh = sh.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = sh.spawn().unwrap();
        let mut said = io::BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut String::new()).unwrap();
        Self(child)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

#[cfg(test)]
impl Drop for OddlyNamed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
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
        let odd = OddlyNamed::new();
        let comm = format!("/proc/{}/comm", odd.pid());
        assert_eq!(text(&comm).unwrap(), "\u{fc}berwachung\u{fffd}\n");
        assert!(fs::read_to_string(comm).is_err());
        let missing = text("/proc/nonexistent").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
