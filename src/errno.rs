//! Why a system call failed, in words.
//!
//! Invariant: one place has them, and they are Go's, which clients of the Go shim look for in errors:
//! `no such file or directory`, not `No such file or directory (os error 2)`. What says in its own words why
//! it failed is shown as it is. tests/task/words.rs looks into errors of every kind, and at its end each
//! test's shim has its log searched for other words (tests/common/shim.rs).

use std::borrow::Cow;
use std::io;

use nix::errno::Errno;

/// What has failed at a system call.
pub trait Words {
    /// Why, as Go says it.
    fn words(&self) -> String;
}

impl Words for io::Error {
    fn words(&self) -> String {
        match self.raw_os_error() {
            Some(number) => of(number),
            None => self.to_string(),
        }
    }
}

impl Words for Errno {
    fn words(&self) -> String {
        of(*self as i32)
    }
}

/// Whether this says that there is no such file: not there, or a link that leads nowhere or was not to be
/// followed, or a name that none can have. All else (`EIO`, `EACCES`, `ESTALE`, `ENOTDIR`, …) says nothing of what
/// is there.
pub fn is_absent(why: &io::Error) -> bool {
    let number = why.raw_os_error();
    matches!(
        number,
        Some(libc::ENOENT | libc::ELOOP | libc::ENAMETOOLONG)
    )
}

/// A text in which the standard library's words for a number, as libraries log them, are Go's.
pub fn put_right(text: &str) -> Cow<'_, str> {
    const MARK: &str = " (os error ";
    let mut right = Cow::Borrowed(text);
    let mut from = 0;
    while let Some(mark) = right.get(from..).and_then(|rest| rest.find(MARK)) {
        from += mark + MARK.len();
        let digits = right[from..].bytes().take_while(u8::is_ascii_digit);
        let end = from + digits.count();
        let Ok(number) = right[from..end].parse::<i32>() else {
            continue;
        };
        let theirs = io::Error::from_raw_os_error(number).to_string();
        let end = end + ")".len();
        // Not where the words before it are others.
        if let Some(start) = end.checked_sub(theirs.len())
            && right.get(start..end) == Some(theirs.as_str())
        {
            let ours = of(number);
            right.to_mut().replace_range(start..end, &ours);
            from = start + ours.len();
        }
    }
    right
}

/// The words of a number. Go's table is libc's, each entry beginning with a small letter unless it begins
/// with two capitals.
fn of(number: i32) -> String {
    let text = io::Error::from_raw_os_error(number).to_string();
    let text = text.strip_suffix(&format!(" (os error {number})"));
    let mut chars = text.unwrap_or_default().chars();
    match (chars.next(), chars.next()) {
        // What libc says of a number that is none.
        (Some('U'), Some('n')) => format!("errno {number}"),
        (Some(first), Some(second)) if second.is_ascii_lowercase() => {
            let rest = chars.as_str();
            format!("{}{second}{rest}", first.to_ascii_lowercase())
        }
        (Some(first), Some(second)) => format!("{first}{second}{}", chars.as_str()),
        _ => format!("errno {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_and_what_cannot_be_told() {
        for (number, absent) in [
            (libc::ENOENT, true),
            (libc::ELOOP, true),
            (libc::ENAMETOOLONG, true),
            (libc::EIO, false),
            (libc::EACCES, false),
            (libc::EPERM, false),
            (libc::ESTALE, false),
            (libc::ENOTDIR, false),
            (libc::EMFILE, false),
        ] {
            let why = io::Error::from_raw_os_error(number);
            assert_eq!(is_absent(&why), absent, "{number}");
        }
        assert!(!is_absent(&io::Error::other("x")));
    }

    #[test]
    fn what_libraries_say_is_put_right() {
        for (text, expected) in [
            ("", ""),
            ("ready", "ready"),
            (
                "got error: Socket(\"Broken pipe (os error 32)\")",
                "got error: Socket(\"broken pipe\")",
            ),
            (
                "a: Broken pipe (os error 32), b: No such file or directory (os error 2)",
                "a: broken pipe, b: no such file or directory",
            ),
            ("my own (os error 32)", "my own (os error 32)"),
            (" (os error 2)", " (os error 2)"),
            ("x (os error ", "x (os error "),
            ("x (os error 32", "x (os error 32"),
            ("x (os error 99999999999)", "x (os error 99999999999)"),
            (
                "ä (os error ß) (os error 32)",
                "ä (os error ß) (os error 32)",
            ),
        ] {
            assert_eq!(put_right(text), expected, "{text}");
        }
    }

    /// Of Go's syscall/zerrors_linux_*.go.
    #[test]
    fn as_go_writes_them() {
        for (number, expected) in [
            (libc::EPERM, "operation not permitted"),
            (libc::ENOENT, "no such file or directory"),
            (libc::ESRCH, "no such process"),
            (libc::EINTR, "interrupted system call"),
            (libc::EIO, "input/output error"),
            (libc::ENXIO, "no such device or address"),
            (libc::E2BIG, "argument list too long"),
            (libc::ENOEXEC, "exec format error"),
            (libc::EBADF, "bad file descriptor"),
            (libc::EAGAIN, "resource temporarily unavailable"),
            (libc::ENOMEM, "cannot allocate memory"),
            (libc::EACCES, "permission denied"),
            (libc::EBUSY, "device or resource busy"),
            (libc::EEXIST, "file exists"),
            (libc::ENOTDIR, "not a directory"),
            (libc::EISDIR, "is a directory"),
            (libc::EINVAL, "invalid argument"),
            (libc::EMFILE, "too many open files"),
            (libc::ETXTBSY, "text file busy"),
            (libc::EFBIG, "file too large"),
            (libc::ENOSPC, "no space left on device"),
            (libc::EROFS, "read-only file system"),
            (libc::EPIPE, "broken pipe"),
            (libc::ERANGE, "numerical result out of range"),
            (libc::ENAMETOOLONG, "file name too long"),
            (libc::ENOSYS, "function not implemented"),
            (libc::ELOOP, "too many levels of symbolic links"),
            (libc::EDOTDOT, "RFS specific error"),
            (libc::ECONNREFUSED, "connection refused"),
            (libc::ETIMEDOUT, "connection timed out"),
            (libc::EDQUOT, "disk quota exceeded"),
            (libc::EHWPOISON, "memory page has hardware error"),
            (9999, "errno 9999"),
        ] {
            assert_eq!(io::Error::from_raw_os_error(number).words(), expected);
        }
        assert_eq!(
            Errno::ENOTCONN.words(),
            "transport endpoint is not connected"
        );
    }

    #[test]
    fn none_has_the_standard_librarys_and_what_has_words_of_its_own_keeps_them() {
        for number in 1..200 {
            let words = of(number);
            assert!(!words.contains("os error") && !words.is_empty(), "{words}");
        }
        let own = io::Error::other("It says: so");
        assert_eq!(own.words(), "It says: so");
        let early = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(early.words(), early.to_string());
    }
}
