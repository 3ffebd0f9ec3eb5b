//! The file in a bundle that holds a container's unpublished events while no manager takes them.
//!
//! Invariant: whatever moment the writer dies in, a reader gets whole events in their order: all that
//! were written but for those that a later record settles. A torn or foreign tail ends the file.
//!
//! Format: [`Record`]s, each behind its length as a varint. [`super::keeper`] writes them, the `delete`
//! action of a dead shim reads them.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use protobuf::{CodedInputStream, Message, MessageField};

use super::event::Event;
use super::link::envelope;
use super::queue::Entry;
use crate::errno::is_absent;
use crate::error::{Error, Result};
use crate::proto::Timestamp;
use crate::proto::journal::Record;

/// Its name in the bundle.
pub const NAME: &str = "events.unpublished";

/// The most that is read of one: twice what the queue holds, exits apart.
const LONGEST: u64 = 2 * super::MAX_BYTES as u64;

/// An event that no manager has taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Unpublished {
    /// When it happened.
    pub at: SystemTime,
    /// What happened.
    pub event: Event,
}

/// The record of an event.
pub(super) fn record(namespace: &str, entry: &Entry) -> Vec<u8> {
    encode(&Record {
        seq: entry.seq,
        envelope: MessageField::some(envelope(namespace, entry)),
        ..Record::default()
    })
}

/// The record that settles all events before `seq`.
pub(super) fn settled(seq: u64) -> Vec<u8> {
    encode(&Record {
        settled: seq,
        ..Record::default()
    })
}

fn encode(record: &Record) -> Vec<u8> {
    // Fails for messages above 2 GiB only, and an event has at most 4 MiB.
    record.write_length_delimited_to_bytes().unwrap_or_default()
}

/// The events in the bytes of a file that are not settled, in their order.
#[must_use]
pub fn parse(bytes: &[u8]) -> Vec<Unpublished> {
    let mut input = CodedInputStream::from_bytes(bytes);
    let mut open = Vec::new();
    let mut settled = 0;
    // By its length first: the parser takes a message that ends early for a shorter one. No record is
    // empty; a tail of zeros (a file system's after a crash) would be one for each byte.
    while let Ok(len @ 1..) = input.read_raw_varint32()
        && let Ok(whole) = input.read_raw_bytes(len)
        && let Ok(record) = Record::parse_from_bytes(&whole)
    {
        settled = settled.max(record.settled);
        let seq = record.seq;
        open.extend(unpublished(record).map(|event| (seq, event)));
    }
    open.retain(|(seq, _)| *seq >= settled);
    open.into_iter().map(|(_, event)| event).collect()
}

fn unpublished(record: Record) -> Option<Unpublished> {
    let envelope = record.envelope.into_option()?;
    let at = envelope.timestamp.into_option()?;
    let event = Event::from_any(&envelope.event.into_option()?).ok()??;
    let at = time(at).unwrap_or(SystemTime::UNIX_EPOCH);
    Some(Unpublished { at, event })
}

/// A time as a file tells it, if it is one.
pub fn time(at: Timestamp) -> Option<SystemTime> {
    let seconds = Duration::from_secs(u64::try_from(at.seconds).ok()?);
    let nanos = u32::try_from(at.nanos)
        .ok()
        .filter(|n| *n < 1_000_000_000)?;
    let since = seconds + Duration::from_nanos(nanos.into());
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// The events that a bundle holds; none if it holds no such file.
///
/// # Errors
/// Why it cannot be told what it holds.
pub fn read(bundle: &Path) -> Result<Vec<Unpublished>> {
    let path = bundle.join(NAME);
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut open = fs::OpenOptions::new();
    let mut bytes = Vec::new();
    let file = open.read(true).custom_flags(flags).open(&path);
    match file.and_then(|file| file.take(LONGEST).read_to_end(&mut bytes)) {
        Ok(_) => Ok(parse(&bytes)),
        Err(why) if is_absent(&why) || why.kind() == io::ErrorKind::IsADirectory => Ok(Vec::new()),
        Err(why) => Err(Error::io(format!("read {}", path.display()), &why)),
    }
}

/// Removes what a writer that died while it wrote a file anew has left.
pub fn forget_new(bundle: &Path) {
    // Mostly there is none.
    let _ = fs::remove_file(new(bundle));
}

/// A file that is being written.
fn new(bundle: &Path) -> PathBuf {
    bundle.join(format!("{NAME}.new"))
}

/// A change of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Bytes are put behind the first `at` that are known to be good.
    Append {
        at: u64,
        bytes: Vec<u8>,
    },
    /// The whole content.
    Rewrite(Vec<u8>),
    Remove,
}

impl Change {
    /// How many bytes are written.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Append { bytes, .. } | Self::Rewrite(bytes) => bytes.len(),
            Self::Remove => 0,
        }
    }

    /// Carries it out on the file of a bundle.
    pub(super) fn carry_out(&self, bundle: &Path) -> io::Result<()> {
        let path = bundle.join(NAME);
        match self {
            Self::Append { at, bytes } => {
                let file = open(&path)?;
                // What a failed write has left behind the good part.
                file.set_len(*at)?;
                file.write_all_at(bytes, *at)
            }
            Self::Rewrite(bytes) => {
                let new = new(bundle);
                let mut file = open(&new)?;
                file.set_len(0)?;
                let written = file.write_all(bytes);
                written
                    .and_then(|()| fs::rename(&new, &path))
                    .inspect_err(|_| {
                        let _ = fs::remove_file(&new);
                    })
            }
            Self::Remove => match fs::remove_file(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
        }
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    let mut open = fs::OpenOptions::new();
    open.write(true).create(true).truncate(false).mode(0o600);
    open.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    open.open(path)
}
