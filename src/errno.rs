//! Why a system call failed, in words.
//!
//! Invariant: one place has them, and they are Go's, which clients of the Go shim look for in errors:
//! `no such file or directory`, not `No such file or directory (os error 2)`. What says in its own words why
//! it failed is shown as it is. tests/task/words.rs looks into errors of every kind, and at its end each
//! test's shim has its log searched for other words (tests/common/shim.rs).

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
