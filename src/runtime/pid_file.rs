//! The pid a runtime reports is read strictly: a garbled one must not become somebody else's.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::monitor::Pid;

/// Longer than any pid, and enough to show what is there instead.
const READ_LIMIT: u64 = 64;

/// What a runtime has written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Of which process.
    pub pid: Pid,
    /// The file's time: when.
    pub written: SystemTime,
}

/// Reads a pid file: digits only, no white space, at least 1, as the Go shim does.
pub fn read_pid_file(path: &Path) -> Result<Pid> {
    read_named(path).map(|named| named.pid)
}

/// The same, with the time at which it was written.
pub fn read_named(path: &Path) -> Result<Named> {
    let mut content = Vec::new();
    let mut read = || {
        let file = OpenOptions::new()
            .read(true)
            // A FIFO in its place must not hang the shim, nor a link have it open what is not its own.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(path)?;
        let written = file.metadata()?.modified()?;
        file.take(READ_LIMIT).read_to_end(&mut content)?;
        Ok(written)
    };
    let written = read().map_err(|e| Error::io(format!("read pid file {}", path.display()), &e))?;
    let pid = parse(&content).ok_or_else(|| {
        let found = content[..content.len().min(32)].escape_ascii();
        Error::unknown(format!("pid file {}: no pid: \"{found}\"", path.display()))
    })?;
    Ok(Named { pid, written })
}

pub(crate) fn parse(content: &[u8]) -> Option<Pid> {
    if !content.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let pid = std::str::from_utf8(content).ok()?.parse().ok()?;
    (pid > 0).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn pids() {
        for (content, expected) in [
            ("1", Some(1)),
            ("4194304", Some(4_194_304)),
            ("2147483647", Some(Pid::MAX)),
            ("2147483648", None),
            (
                "99999999999999999999999999999999999999999999999999999999999999999999",
                None,
            ),
            ("0", None),
            ("-1", None),
            ("+1", None),
            ("12\n", None),
            (" 12", None),
            ("12 34", None),
            ("0x10", None),
            ("", None),
            ("garbage", None),
        ] {
            assert_eq!(parse(content.as_bytes()), expected, "{content:?}");
        }
    }

    #[test]
    fn errors_name_the_file_and_its_content() {
        let path = std::env::temp_dir().join(format!("cotter-pid-file-{}", std::process::id()));
        std::fs::write(&path, "gar\u{7f}bage".repeat(1000)).unwrap();
        let garbage = read_pid_file(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        let missing = read_pid_file(&path).unwrap_err();

        assert_eq!(garbage.code, Code::Unknown);
        let expected = format!("pid file {}: no pid: \"gar\\x7fbage", path.display());
        assert!(garbage.message.starts_with(&expected), "{garbage}");
        assert!(garbage.message.len() < expected.len() + 100, "{garbage}");
        assert_eq!(missing.code, Code::NotFound);
        assert!(
            missing.message.contains(&*path.to_string_lossy()),
            "{missing}"
        );
    }
}
