//! How an init ended, kept in the bundle for the `delete` action of a shim that has died meanwhile.
//!
//! Invariant: the file is whole or not there, and there is room for it from Create on, also on a disk that is
//! full by then. Pinned by `tests/faults/told.rs::a_full_tmpfs`. When it is written: [`super::record`].
//!
//! Name and content are those of containerd's shim (containerd#14113): either shim's `delete` reads what
//! the other's server has left.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::files;
use crate::errno::is_absent;
use crate::error::{Error, Result};
use crate::monitor::Exit;

/// Its name in the bundle.
pub const NAME: &str = "exitstatus.json";

/// The longest that is read; a sound one has about 80 bytes.
const LONGEST: u64 = 4096;
/// More than a sound one ever has.
const ROOM: usize = 160;

/// go-runc's `Exit`, as Go's encoding/json writes it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    timestamp: Timestamp,
    pid: i32,
    status: u32,
}

/// A record that is being made.
fn new(bundle: &Path) -> PathBuf {
    bundle.join(format!("{NAME}.new"))
}

/// Removes what an earlier container has left in its bundle, and takes the room that the record will need:
/// the disk may be full by then.
///
/// # Errors
/// What could not be written and why.
pub fn reserve(bundle: &Path) -> Result<()> {
    remove(bundle);
    files::write(&new(bundle), &[b' '; ROOM])
}

/// Writes an exit into a bundle, into the room that was reserved for it, if it still is.
///
/// # Errors
/// What could not be written and why. The bundle is as before.
pub fn write(bundle: &Path, exit: Exit) -> io::Result<()> {
    let content = Content {
        timestamp: Timestamp::try_from(exit.at).unwrap_or_default(),
        pid: exit.pid,
        status: exit.status,
    };
    let json = serde_json::to_string(&content)?;
    let new = new(bundle);
    let mut open = fs::OpenOptions::new();
    open.write(true).mode(0o600);
    // A FIFO in its place must not stop the shim, nor a link lead it elsewhere.
    open.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
    let (file, reserved) = match open.open(&new) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => (open.create_new(true).open(&new)?, false),
        file => (file?, true),
    };
    let written = file
        .write_all_at(json.as_bytes(), 0)
        .and_then(|()| file.set_len(json.len() as u64))
        .and_then(|()| fs::rename(&new, bundle.join(NAME)));
    written.inspect_err(|_| {
        if !reserved {
            let _ = fs::remove_file(&new);
        }
    })
}

/// The exit that a bundle tells of; none if it tells of none, or of none that can be.
///
/// # Errors
/// Why it cannot be told what it tells.
pub fn read(bundle: &Path) -> Result<Option<Exit>> {
    let path = bundle.join(NAME);
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut open = fs::OpenOptions::new();
    let mut json = Vec::new();
    let file = open.read(true).custom_flags(flags).open(&path);
    match file.and_then(|file| file.take(LONGEST).read_to_end(&mut json)) {
        Ok(_) => Ok(std::str::from_utf8(&json).ok().and_then(parse)),
        Err(why) if is_absent(&why) || why.kind() == io::ErrorKind::IsADirectory => Ok(None),
        Err(why) => Err(Error::io(format!("read {}", path.display()), &why)),
    }
}

/// The exit in a file's content.
pub fn parse(json: &str) -> Option<Exit> {
    let content: Content = serde_json::from_str(json).ok()?;
    (content.pid > 0).then(|| Exit {
        pid: content.pid,
        status: content.status,
        at: content.timestamp.into(),
    })
}

/// Removes all that there is of a record.
pub fn remove(bundle: &Path) {
    files::remove(&bundle.join(NAME));
    forget(bundle);
}

/// Removes what was reserved for a record, or half of one.
pub fn forget(bundle: &Path) {
    files::remove(&new(bundle));
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn the_room_is_enough() {
        let most = Content {
            timestamp: Timestamp::MAX,
            pid: i32::MIN,
            status: u32::MAX,
        };
        assert!(serde_json::to_string(&most).unwrap().len() <= ROOM);
    }

    #[test]
    fn a_try_that_fails_leaves_all_as_it_was() {
        let dir = std::env::temp_dir().join(format!("cotter-exit-fail-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        // A directory is in the way of the rename.
        fs::create_dir_all(dir.join(NAME).join("x")).unwrap();
        let exit = Exit {
            pid: 7,
            status: 1,
            at: SystemTime::UNIX_EPOCH,
        };
        write(&dir, exit).unwrap_err();
        assert!(!new(&dir).exists());
        files::write(&new(&dir), b" ").unwrap();
        write(&dir, exit).unwrap_err();
        assert!(new(&dir).exists(), "reserved");
        fs::remove_dir_all(dir.join(NAME)).unwrap();
        write(&dir, exit).unwrap();
        assert_eq!(read(&dir).unwrap(), Some(exit));
        remove(&dir);
        fs::remove_dir(&dir).unwrap();
        let gone = write(&dir, exit).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_written_is_read_and_nonsense_is_not() {
        let dir = std::env::temp_dir().join(format!("cotter-exit-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        assert_eq!(read(&dir).unwrap(), None);
        let exit = Exit {
            pid: 77,
            status: 3,
            at: SystemTime::UNIX_EPOCH + Duration::new(1_790_000_000, 123_456_789),
        };
        reserve(&dir).unwrap();
        write(&dir, exit).unwrap();
        assert_eq!(read(&dir).unwrap(), Some(exit));
        write(
            &dir,
            Exit {
                status: 137,
                ..exit
            },
        )
        .unwrap();
        assert_eq!(read(&dir).unwrap().unwrap().status, 137);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);

        // In one step: what is in its place is replaced, not written to.
        let victim = dir.join("victim");
        fs::write(&victim, "mine").unwrap();
        fs::remove_file(dir.join(NAME)).unwrap();
        std::os::unix::fs::symlink(&victim, dir.join(NAME)).unwrap();
        write(&dir, exit).unwrap();
        assert_eq!(read(&dir).unwrap(), Some(exit));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");

        // As Go writes it, in a time zone and without trailing zeros.
        let go = r#"{"Timestamp":"2026-09-21T16:13:20.5+02:00","Pid":77,"Status":3}"#;
        fs::write(dir.join(NAME), go).unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_500);
        assert_eq!(read(&dir).unwrap(), Some(Exit { at, ..exit }));

        for nonsense in [
            "",
            "{",
            "[]",
            r#"{"Timestamp":"2026-09-21T16:13:20Z","Pid":0,"Status":3}"#,
            r#"{"Timestamp":"2026-09-21T16:13:20Z","Pid":7,"Status":-1}"#,
            r#"{"Timestamp":"yesterday","Pid":7,"Status":1}"#,
            r#"{"Pid":7,"Status":1}"#,
        ] {
            fs::write(dir.join(NAME), nonsense).unwrap();
            assert_eq!(read(&dir).unwrap(), None, "{nonsense}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
