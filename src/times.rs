//! How a moment is written for people: in log lines, errors and dumps.
//!
//! Invariant: RFC 3339 in UTC, so that lines of different machines can be compared.

use std::time::SystemTime;

use jiff::Timestamp;

/// To the nanosecond.
pub(crate) fn timestamp(at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or_default();
    format!("{at:.9}")
}

/// To the second, as errors give it.
pub fn since(at: SystemTime) -> String {
    let mut text = timestamp(at);
    text.truncate("0000-00-00T00:00:00".len());
    text.push('Z');
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            let at = SystemTime::UNIX_EPOCH + Duration::new(seconds, 42);
            assert_eq!(timestamp(at), format!("{expected}.000000042Z"));
        }
    }
}
