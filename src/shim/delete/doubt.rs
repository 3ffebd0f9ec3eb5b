//! What keeps a look at processes from being sure.
//!
//! Invariant: that something could not be read is not forgotten until somebody has asked for it.

use std::cell::RefCell;
use std::io;

use crate::errno::is_absent;
use crate::error::Error;
use crate::kin::is_gone;

/// Why it cannot be told who is there: the first reason.
#[derive(Default)]
pub(super) struct Doubt(RefCell<Option<Error>>);

impl Doubt {
    /// What could be read; that a process has ended, or that a file is not there, is no doubt.
    pub(super) fn of<T>(&self, what: impl FnOnce() -> String, read: io::Result<T>) -> Option<T> {
        read.inspect_err(|why| {
            if !is_gone(why) && !is_absent(why) {
                self.because(Error::io(what(), why));
            }
        })
        .ok()
    }

    pub(super) fn because(&self, why: Error) {
        self.0.borrow_mut().get_or_insert(why);
    }

    /// The reason, which is forgotten.
    pub(super) fn take(&self) -> Option<Error> {
        self.0.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_in_doubt() {
        for (number, told) in [
            (libc::ENOENT, None),
            (libc::ESRCH, None),
            (libc::EIO, Some("read x: input/output error")),
            (libc::EMFILE, Some("read x: too many open files")),
        ] {
            let doubt = Doubt::default();
            let read: io::Result<()> = Err(io::Error::from_raw_os_error(number));
            assert_eq!(doubt.of(|| "read x".to_owned(), read), None);
            let why = doubt.take().map(|why| why.message);
            assert_eq!(why.as_deref(), told, "{number}");
        }
    }
}
