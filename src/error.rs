//! The error that crosses the wire: a status code that clients match on and one line that says
//! what was tried, on what, and why it failed.
//!
//! Codes and key phrases follow the Go shim (containerd `errgrpc.ToGRPC`), so that a client which
//! recognises its errors recognises ours.

use crate::errno::Words;
use std::fmt;
use std::io;

/// The status codes a shim answers with, numbered as in gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The caller went away.
    Canceled = 1,
    /// A failure without a class of its own; state-machine refusals use it, as clients expect.
    Unknown = 2,
    /// The request itself is wrong.
    InvalidArgument = 3,
    /// A time limit ran out.
    DeadlineExceeded = 4,
    /// The container, process or file does not exist (any more).
    NotFound = 5,
    /// The id is taken.
    AlreadyExists = 6,
    /// The shim's configuration forbids it.
    PermissionDenied = 7,
    /// There are as many as there may be.
    ResourceExhausted = 8,
    /// The thing exists but is not in a state in which this can be done.
    FailedPrecondition = 9,
    /// The method or option is not supported.
    Unimplemented = 12,
    /// A bug of ours: a task of the shim ended without an answer.
    Internal = 13,
    /// The shim is ending.
    Unavailable = 14,
}

impl Code {
    /// The code of a number; none if it is no code's.
    pub fn numbered(number: u8) -> Option<Self> {
        [
            Self::Canceled,
            Self::Unknown,
            Self::InvalidArgument,
            Self::DeadlineExceeded,
            Self::NotFound,
            Self::AlreadyExists,
            Self::PermissionDenied,
            Self::ResourceExhausted,
            Self::FailedPrecondition,
            Self::Unimplemented,
            Self::Internal,
            Self::Unavailable,
        ]
        .into_iter()
        .find(|code| *code as u8 == number)
    }
}

/// A failure with the code it has on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The wire code.
    pub code: Code,
    /// One line for a person.
    pub message: String,
}

/// What fallible operations of the shim return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a given code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// [`Code::Unknown`].
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(Code::Unknown, message)
    }

    /// [`Code::NotFound`]; the message gets the `: not found` suffix clients know.
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("{what}: not found"))
    }

    /// [`Code::AlreadyExists`]; the message gets the `: already exists` suffix clients know.
    pub fn already_exists(what: impl fmt::Display) -> Self {
        Self::new(Code::AlreadyExists, format!("{what}: already exists"))
    }

    /// [`Code::FailedPrecondition`]; the message gets the `: failed precondition` suffix clients know.
    pub fn failed_precondition(what: impl fmt::Display) -> Self {
        Self::new(
            Code::FailedPrecondition,
            format!("{what}: failed precondition"),
        )
    }

    /// [`Code::InvalidArgument`]; the message gets the `: invalid argument` suffix clients know.
    pub fn invalid_argument(what: impl fmt::Display) -> Self {
        Self::new(Code::InvalidArgument, format!("{what}: invalid argument"))
    }

    /// [`Code::DeadlineExceeded`]; the message gets the `: context deadline exceeded` suffix clients know.
    pub fn deadline_exceeded(what: impl fmt::Display) -> Self {
        Self::new(
            Code::DeadlineExceeded,
            format!("{what}: context deadline exceeded"),
        )
    }

    /// [`Code::Unimplemented`], naming the method.
    pub fn unimplemented(method: &str) -> Self {
        Self::new(
            Code::Unimplemented,
            format!("method {method} is not implemented by this shim: not implemented"),
        )
    }

    /// An I/O failure: what was tried on what, then why. A missing file is [`Code::NotFound`].
    pub fn io(what: impl fmt::Display, why: &io::Error) -> Self {
        let code = if why.kind() == io::ErrorKind::NotFound {
            Code::NotFound
        } else {
            Code::Unknown
        };
        Self::new(code, format!("{what}: {why}", why = why.words()))
    }

    /// The same error with the step that failed put in front.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        Self {
            code: self.code,
            message: format!("{what}: {}", self.message),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
