//! What the manager's strings mean. Pure: no file is touched.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::uri::{self, Query};
use super::{Stdio, Stream};
use crate::error::{Error, Result};

/// Where a process's streams go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// No stream at all: the process gets `/dev/null`.
    Null,
    /// A pipe for each stream that has a target; `/dev/null` for the others.
    Pipes {
        /// FIFO the client writes to.
        stdin: Option<PathBuf>,
        /// What gets standard output.
        stdout: Option<Output>,
        /// What gets standard error.
        stderr: Option<Output>,
    },
    /// A terminal for all three.
    Terminal {
        /// FIFO the client types into.
        stdin: Option<PathBuf>,
        /// What gets the output; without one it is discarded.
        stdout: Option<Output>,
    },
}

/// FIFOs that are held and not open yet.
pub(super) type Held = [Option<OwnedFd>; 3];

/// What gets an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A FIFO, file or device that is there.
    Path(PathBuf),
    /// A file that is made if need be, its directories too, and appended to.
    File(PathBuf),
    /// As [`File`](Self::File), with all links resolved and allowed by the lists that there are; only
    /// [`ask`](super::ask) makes it.
    Listed(PathBuf),
    /// A program of its own that reads the container's pipes.
    Logger(Command),
}

/// A logging program, as its URI has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program: an absolute path.
    pub path: PathBuf,
    /// Its arguments: the query's keys, each followed by its value, in the query's order.
    pub args: Vec<String>,
    /// Whether it must say that it is ready (`binary-v2`); else to end saying so is as good.
    pub must_be_ready: bool,
}

impl Plan {
    /// The FIFOs that are to be opened, by [`Stream`], if there is nothing else to be and all can be
    /// held.
    pub(super) fn held(&self, hold: impl Fn(&Path) -> Option<OwnedFd>) -> Option<Held> {
        let path = |output: &Option<Output>| match output {
            Some(Output::Path(path)) => Some(Some(path.clone())),
            Some(Output::File(_) | Output::Listed(_) | Output::Logger(_)) => None,
            None => Some(None),
        };
        let paths = match self {
            Self::Null => [None, None, None],
            Self::Pipes {
                stdin,
                stdout,
                stderr,
            } => [stdin.clone(), path(stdout)?, path(stderr)?],
            Self::Terminal { .. } => return None,
        };
        let mut held = Held::default();
        for (held, path) in held.iter_mut().zip(paths) {
            if let Some(path) = path {
                *held = Some(hold(&path)?);
            }
        }
        Some(held)
    }

    /// What it names, stream by stream, for messages.
    pub fn paths(&self) -> String {
        let mut all = Vec::new();
        let (stdin, outputs) = match self {
            Self::Null => (None, [None, None]),
            Self::Pipes {
                stdin,
                stdout,
                stderr,
            } => (stdin.as_ref(), [stdout.as_ref(), stderr.as_ref()]),
            Self::Terminal { stdin, stdout } => (stdin.as_ref(), [stdout.as_ref(), None]),
        };
        let mut add = |stream: Stream, path: &Path| {
            all.push(format!(
                "{stream} {}",
                path.display().to_string().escape_debug()
            ));
        };
        stdin.inspect(|path| add(Stream::Stdin, path));
        for (stream, output) in [Stream::Stdout, Stream::Stderr].into_iter().zip(outputs) {
            match output {
                Some(Output::Path(path) | Output::File(path) | Output::Listed(path)) => {
                    add(stream, path);
                }
                Some(Output::Logger(command)) => add(stream, &command.path),
                None => {}
            }
        }
        all.join(", ")
    }
}

impl From<PathBuf> for Output {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&str> for Output {
    fn from(path: &str) -> Self {
        Self::Path(path.into())
    }
}

/// Decides from the strings where the streams go: bare absolute paths and `fifo:///path`, in any
/// combination with empty ones; for outputs also `file:///path`, `binary:///path?key=value` and
/// `binary-v2:`.
///
/// A `file` or logger for standard output gets standard error as well when that has no string of its
/// own: with the Go shim these two decide for both. With a terminal, the string for standard
/// error is not looked at: nothing goes there.
///
/// A scheme nobody knows is `unknown STDIO scheme X`, as the Go shim says it; anything else that is not
/// an absolute path is [`Code::InvalidArgument`](crate::error::Code::InvalidArgument).
///
/// # Errors
/// As above; the message names the stream.
pub fn plan(stdio: &Stdio) -> Result<Plan> {
    let stdin = match target(Stream::Stdin, &stdio.stdin)? {
        None => None,
        Some(Output::Path(path)) => Some(path),
        Some(Output::File(_) | Output::Listed(_) | Output::Logger(_)) => {
            return Err(invalid(
                Stream::Stdin,
                &stdio.stdin,
                "a scheme for outputs only",
            ));
        }
    };
    let stdout = target(Stream::Stdout, &stdio.stdout)?;
    if stdio.terminal {
        return Ok(Plan::Terminal { stdin, stdout });
    }
    let stderr = match (&stdout, target(Stream::Stderr, &stdio.stderr)?) {
        (Some(both @ (Output::File(_) | Output::Logger(_))), None) => Some(both.clone()),
        (_, own) => own,
    };
    if stdin.is_none() && stdout.is_none() && stderr.is_none() {
        return Ok(Plan::Null);
    }
    Ok(Plan::Pipes {
        stdin,
        stdout,
        stderr,
    })
}

fn target(stream: Stream, uri: &str) -> Result<Option<Output>> {
    if uri.is_empty() {
        return Ok(None);
    }
    let Some((scheme, rest)) = uri::scheme(uri) else {
        return absolute(stream, uri, uri.to_owned()).map(|path| Some(Output::Path(path)));
    };
    let malformed =
        |form: &str| invalid(stream, uri, &format!("not of the form {scheme}:///{form}"));
    let path = |rest| {
        let path = uri::path(rest).ok_or_else(|| malformed("path"))?;
        absolute(stream, uri, path)
    };
    Ok(Some(match scheme.as_str() {
        "fifo" => Output::Path(path(rest)?),
        "file" => Output::File(path(rest)?),
        "binary" | "binary-v2" => {
            let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
            let path = path(rest)?;
            let args = match uri::query(query) {
                Query::Pairs(pairs) => first_values(pairs),
                Query::Malformed => return Err(malformed("path?key=value")),
                Query::EmptyKey => return Err(invalid(stream, uri, "an empty key in the query")),
            };
            if args.iter().any(|arg| arg.contains('\0')) {
                return Err(invalid(stream, uri, "a NUL byte in the query"));
            }
            Output::Logger(Command {
                path,
                args,
                must_be_ready: scheme == "binary-v2",
            })
        }
        _ => return Err(Error::unknown(format!("unknown STDIO scheme {scheme}"))),
    }))
}

/// Each key and its value; of a key that is there again only the first counts (contract 5.5).
fn first_values(pairs: Vec<(String, String)>) -> Vec<String> {
    let mut args: Vec<String> = Vec::with_capacity(2 * pairs.len());
    for (key, value) in pairs {
        if !args.iter().step_by(2).any(|known| *known == key) {
            args.extend([key, value]);
        }
    }
    args
}

fn absolute(stream: Stream, uri: &str, path: String) -> Result<PathBuf> {
    if !path.starts_with('/') {
        return Err(invalid(stream, uri, "not an absolute path"));
    }
    if path.contains('\0') {
        return Err(invalid(stream, uri, "a NUL byte in the path"));
    }
    if path.len() >= libc::PATH_MAX as usize {
        return Err(invalid(stream, "the path", "too long"));
    }
    Ok(PathBuf::from(path))
}

fn invalid(stream: Stream, uri: &str, why: &str) -> Error {
    Error::invalid_argument(format!("{stream} {}: {why}", uri.escape_debug()))
}

#[cfg(test)]
mod tests;
