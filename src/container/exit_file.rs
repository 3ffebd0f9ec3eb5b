//! How an init ended, kept in the bundle for the `delete` action of a shim that has died meanwhile.
//!
//! Invariant: the file is whole or not there, and it is there soon after the reap, whatever becomes of
//! the event; writing it holds up neither the reaper nor an event.
//!
//! Name and content are those of containerd's shim (containerd#14113): either shim's `delete` reads what
//! the other's server has left.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use tokio::time::timeout;

use super::{Container, files};
use crate::blocking::blocking;
use crate::error::{Error, Result};
use crate::monitor::Exit;

/// Its name in the bundle.
pub const NAME: &str = "exitstatus.json";

/// The longest that is read; a sound one has about 80 bytes.
const LONGEST: u64 = 4096;

/// go-runc's `Exit`, as Go's encoding/json writes it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    timestamp: Timestamp,
    pid: i32,
    status: u32,
}

/// Writes an exit into a bundle.
///
/// # Errors
/// What could not be written and why.
pub fn write(bundle: &Path, exit: Exit) -> Result<()> {
    let content = Content {
        timestamp: Timestamp::try_from(exit.at).unwrap_or_default(),
        pid: exit.pid,
        status: exit.status,
    };
    let json = serde_json::to_string(&content)
        .map_err(|e| Error::unknown(format!("encode {NAME}: {e}")))?;
    let path = bundle.join(NAME);
    let new = bundle.join(format!("{NAME}.new"));
    files::write(&new, json.as_bytes())?;
    fs::rename(&new, &path).map_err(|e| Error::io(format!("write {}", path.display()), &e))
}

/// The exit that a bundle tells of; none if it tells of none, or of none that can be.
pub fn read(bundle: &Path) -> Option<Exit> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut open = fs::OpenOptions::new();
    let file = open.read(true).custom_flags(flags).open(bundle.join(NAME));
    let mut json = String::new();
    file.ok()?.take(LONGEST).read_to_string(&mut json).ok()?;
    parse(&json)
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

/// Removes what an earlier container has left in its bundle.
pub fn remove(bundle: &Path) {
    files::remove(&bundle.join(NAME));
}

impl Container {
    /// Init has been reaped: writes its exit down, beside everything else.
    pub(super) fn record_exit(self: &Arc<Self>, exit: Exit) {
        self.recording.send_replace(true);
        let (me, bundle) = (Arc::clone(self), self.bundle.clone());
        self.spawn(async move {
            let written = blocking("exit status", move || write(&bundle, exit)).await;
            if let Err(e) = written.and_then(|done| done) {
                log::warn!("container {}: its exit status is not kept: {e}", me.id);
            }
            me.recording.send_replace(false);
        });
    }

    /// Waits until nothing is being written, or for the limit: whoever asked for the Delete is about
    /// to remove the bundle.
    pub(super) async fn exit_recorded(&self) {
        let mut recording = self.recording.subscribe();
        let over = recording.wait_for(|recording| !recording);
        if timeout(self.shared.limits.bundle, over).await.is_err() {
            log::warn!(
                "container {}: writing {NAME} into {} hangs",
                self.id,
                self.bundle.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn what_is_written_is_read_and_nonsense_is_not() {
        let dir = std::env::temp_dir().join(format!("cotter-exit-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        assert_eq!(read(&dir), None);
        let exit = Exit {
            pid: 77,
            status: 3,
            at: SystemTime::UNIX_EPOCH + Duration::new(1_790_000_000, 123_456_789),
        };
        write(&dir, exit).unwrap();
        assert_eq!(read(&dir), Some(exit));
        write(
            &dir,
            Exit {
                status: 137,
                ..exit
            },
        )
        .unwrap();
        assert_eq!(read(&dir).unwrap().status, 137);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);

        // In one step: what is in its place is replaced, not written to.
        let victim = dir.join("victim");
        fs::write(&victim, "mine").unwrap();
        fs::remove_file(dir.join(NAME)).unwrap();
        std::os::unix::fs::symlink(&victim, dir.join(NAME)).unwrap();
        write(&dir, exit).unwrap();
        assert_eq!(read(&dir), Some(exit));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");

        // As Go writes it, in a time zone and without trailing zeros.
        let go = r#"{"Timestamp":"2026-09-21T16:13:20.5+02:00","Pid":77,"Status":3}"#;
        fs::write(dir.join(NAME), go).unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_500);
        assert_eq!(read(&dir), Some(Exit { at, ..exit }));

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
            assert_eq!(read(&dir), None, "{nonsense}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
