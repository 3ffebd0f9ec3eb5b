//! Who a call of the runtime is, for whoever finds its log when its shim is dead.
//!
//! Invariant: a record is there as a whole or not at all, and names one process and no other. It is a
//! link beside the call's log: made and taken away in one step each, and its target is all it holds.
//! Pinned by `tests/faults/gone.rs`.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::errno::{Words, is_absent};
use crate::kin::Stat;
use crate::monitor::Pid;

/// The record of one call; gone when its owner is.
#[derive(Debug)]
pub(super) struct Record(PathBuf);

impl Record {
    /// One that is to be written beside the log of the call.
    pub(super) fn beside(log: &Path) -> Self {
        Self(path(log))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Writes down that a process that is not reaped yet is the call. Best effort: without it a runtime is
/// known by its log, and a program around one is not.
pub(super) fn write(record: &Path, call: Pid) {
    // It has been reaped already, and nothing need be known of it.
    let Some(stat) = Stat::of(call) else { return };
    if let Err(e) = symlink(text(call, stat.since, boot()), record) {
        log::debug!(
            "note runtime call {call} in {}: {}",
            record.display(),
            e.words()
        );
    }
}

/// Writes a record of any process.
#[cfg(test)]
pub(crate) fn write_as(log: &Path, pid: Pid, since: u64) {
    symlink(text(pid, since, boot()), path(log)).unwrap();
}

/// The call that is recorded beside a log, and when it was forked; none of another boot of the machine.
///
/// # Errors
/// Why it cannot be told what is recorded.
pub(crate) fn read(log: &Path) -> io::Result<Option<(Pid, u64)>> {
    match fs::read_link(path(log)) {
        Ok(text) => Ok(text.to_str().and_then(|text| parse(text, boot()))),
        // EINVAL: it is no link, and so no record.
        Err(why) if is_absent(&why) || why.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(why) => Err(why),
    }
}

/// Removes the record beside a log, if there is one.
pub(crate) fn forget(log: &Path) {
    remove(&path(log));
}

pub(super) fn remove(record: &Path) {
    match fs::remove_file(record) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            log::debug!("remove {}: {}", record.display(), e.words());
        }
        _ => {}
    }
}

fn path(log: &Path) -> PathBuf {
    log.with_extension("call")
}

/// What tells this boot of the machine from others: pids and times since boot come again.
fn boot() -> &'static str {
    static BOOT: OnceLock<Box<str>> = OnceLock::new();
    BOOT.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().into()
    })
}

fn text(pid: Pid, since: u64, boot: &str) -> String {
    format!("{pid} {since} {boot}")
}

fn parse(text: &str, boot: &str) -> Option<(Pid, u64)> {
    let mut words = text.splitn(3, ' ');
    let (pid, since) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (words.next() == Some(boot) && pid > 0).then_some((pid, since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_of_this_boot() {
        assert_eq!(parse(&text(7, 4711, "a-b"), "a-b"), Some((7, 4711)));
        for text in [
            "7 4711 b-a",
            "7 4711",
            "7",
            "",
            "x 4711 a-b",
            "0 4711 a-b",
            "-1 4711 a-b",
        ] {
            assert_eq!(parse(text, "a-b"), None, "{text}");
        }
        assert!(!boot().is_empty());
    }

    #[test]
    fn a_record_names_its_process_and_goes() {
        let log = std::env::temp_dir().join(format!("cotter-record-{}.json", std::process::id()));
        let own = std::process::id().cast_signed();
        let record = Record::beside(&log);
        assert_eq!(read(&log).unwrap(), None);
        write(record.path(), own);
        assert_eq!(
            read(&log).unwrap(),
            Some((own, Stat::of(own).unwrap().since))
        );
        drop(record);
        assert_eq!(read(&log).unwrap(), None);
    }
}
