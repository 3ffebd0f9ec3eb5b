//! What the runtime logged in one call, and nothing else.

use crate::errno::Words;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Deserialize;

use super::private_file::PrivateFile;

/// The most that is read of one call's log, from its end.
const READ_LIMIT: u64 = 256 * 1024;

/// The most that is parsed of it, here and there again and again.
const PARSE_LIMIT: u64 = 8 * READ_LIMIT;

/// The longest that the common log becomes. It is for people, who want what was last: a probe that
/// fails every second must not fill a disk.
const COMMON_LIMIT: u64 = 1 << 20;

/// Ends a call's log: appends it to the common one, which begins anew when it is full, and returns its
/// tail.
pub(super) fn finish(log: &PrivateFile, common: &Path) -> io::Result<Vec<u8>> {
    let mut file = log.file();
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(READ_LIMIT)))?;
    let mut tail = Vec::new();
    file.take(READ_LIMIT).read_to_end(&mut tail)?;
    if !tail.is_empty() {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o644);
        // Somebody may have put a FIFO or a link there.
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
        let appended = options.open(common).and_then(|mut f| {
            if f.metadata()?.len() + tail.len() as u64 > COMMON_LIMIT {
                f.set_len(0)?;
            }
            f.write_all(&tail)
        });
        if let Err(e) = appended {
            log::debug!("append to {}: {e}", common.display(), e = e.words());
        }
    }
    Ok(tail)
}

#[derive(Deserialize)]
struct Record {
    level: String,
    msg: String,
}

/// The message of the last record of level error. What is no record is skipped; what is no text in one (a
/// path as the runtime got it) stands there as U+FFFD.
///
/// A record begins a line; runc and older cruns end it there too, crun 1.28 spreads it over several.
/// So each line may begin one that ends with the last: there is an end to how much is tried.
pub(crate) fn last_error(log: &[u8]) -> Option<String> {
    let log = String::from_utf8_lossy(log);
    let log = log.as_bytes();
    let begins = |&at: &usize| log[at] == b'{' && (at == 0 || log[at - 1] == b'\n');
    let mut left = PARSE_LIMIT;
    (0..log.len())
        .rev()
        .filter(begins)
        .filter_map(|at| record(&log[at..], &mut left))
        .find(|record| record.level == "error")
        .map(|record| record.msg)
}

/// The record that `text` begins with, if it ends within the next `left` bytes, which it takes.
fn record(text: &[u8], left: &mut u64) -> Option<Record> {
    let mut text = text.take(*left);
    let mut records = serde_json::Deserializer::from_reader(&mut text).into_iter();
    let record = records.next();
    *left = text.limit();
    record?.ok()
}

#[cfg(test)]
mod tests {
    use super::last_error;

    #[test]
    fn messages() {
        let runc = r#"{"level":"error","msg":"first","time":"2026-11-21T06:13:54Z"}"#;
        let crun = r#"{"msg":"second \"x\"","level":"error","time":"2026-11-21T06:13:55.26Z"}"#;
        let warning = r#"{"level":"warning","msg":"careful"}"#;
        let spread = "{\n  \"msg\": \"third {\",\n  \"level\": \"error\",\n  \"x\": {\n  }\n}\n";
        for (log, expected) in [
            (String::new(), None),
            (spread.into(), Some("third {")),
            (format!("{runc}\n{spread}{warning}\n"), Some("third {")),
            (format!("{spread}{crun}"), Some("second \"x\"")),
            (format!("{runc}\n{}", &spread[..30]), Some("first")),
            (format!("{}\n{runc}", &spread[..30]), Some("first")),
            ("\n\n".into(), None),
            (warning.into(), None),
            (format!("{runc}\n"), Some("first")),
            (format!("{runc}\n{crun}\n"), Some("second \"x\"")),
            (format!("{runc}\n{warning}\n"), Some("first")),
            (format!("{runc}\nplain text\n[1,2]\nnull\n"), Some("first")),
            (format!("{runc}\n{}", &crun[..20]), Some("first")),
            (format!("{}\n{crun}", &runc[20..]), Some("second \"x\"")),
            (r#"{"level":"error"}"#.into(), None),
            (r#"{"level":7,"msg":"x"}"#.into(), None),
        ] {
            assert_eq!(last_error(log.as_bytes()).as_deref(), expected, "{log}");
        }
        assert_eq!(last_error(b"\xff\xfe\n\0\0"), None);
    }

    #[test]
    fn what_is_no_text_is_told_too() {
        let log = b"\xff\n{\"level\":\"error\",\"msg\":\"no such file: /a\xff\xe4b\"}\n\xfe";
        let told = "no such file: /a\u{fffd}\u{fffd}b";
        assert_eq!(last_error(log).as_deref(), Some(told));
    }
}
