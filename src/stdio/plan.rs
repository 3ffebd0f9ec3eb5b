//! What the manager's strings mean. Pure: no file is touched.

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
    /// Whether there is nothing to be opened but FIFOs, by this word on each.
    pub(super) fn fifos_only(&self, is_fifo: impl Fn(&Path) -> bool) -> bool {
        let is = |output: &Option<Output>| match output {
            Some(Output::Path(path)) => is_fifo(path),
            Some(Output::File(_) | Output::Listed(_) | Output::Logger(_)) => false,
            None => true,
        };
        match self {
            Self::Null => true,
            Self::Pipes {
                stdin,
                stdout,
                stderr,
            } => is(stdout) && is(stderr) && stdin.as_deref().is_none_or(is_fifo),
            Self::Terminal { .. } => false,
        }
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
mod tests {
    use super::*;
    use crate::error::Code;
    use proptest::prelude::*;

    fn of(stdin: &str, stdout: &str, stderr: &str) -> Result<Plan> {
        plan(&Stdio {
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
            terminal: false,
        })
    }

    #[test]
    fn any_subset_of_paths() {
        let path = |given: &str| (!given.is_empty()).then(|| PathBuf::from(given));
        for mask in 0..8 {
            let pick = |bit: u8, name: &'static str| if mask & bit == 0 { "" } else { name };
            let (i, o, e) = (pick(1, "/f/0"), pick(2, "/f/1"), pick(4, "/f/2"));
            let expected = if mask == 0 {
                Plan::Null
            } else {
                Plan::Pipes {
                    stdin: path(i),
                    stdout: path(o).map(Output::Path),
                    stderr: path(e).map(Output::Path),
                }
            };
            assert_eq!(of(i, o, e), Ok(expected), "mask {mask}");
        }
    }

    #[test]
    fn paths_and_uris() {
        for (uri, expected) in [
            ("/a", "/a"),
            ("/a b", "/a b"),
            ("/a:b", "/a:b"),
            ("/100%", "/100%"),
            ("/a?b#c", "/a?b#c"),
            ("/../a", "/../a"),
            ("/ä", "/ä"),
            ("fifo:///a", "/a"),
            ("FIFO:///a", "/a"),
            ("fifo:///a%20b%2f%41", "/a b/A"),
            ("fifo:///%c3%A4", "/ä"),
        ] {
            let Ok(Plan::Pipes { stdout, .. }) = of("", uri, "") else {
                panic!("{uri} refused");
            };
            assert_eq!(stdout, Some(Output::from(expected)), "{uri}");
        }
    }

    #[test]
    fn refusals() {
        let long = format!("/{}", "x".repeat(5000));
        for (uri, code, phrase) in [
            (
                "npipe:////./pipe/x",
                Code::Unknown,
                "unknown STDIO scheme npipe",
            ),
            (
                "ttrpc+unix:///s?streaming_id=1",
                Code::Unknown,
                "unknown STDIO scheme ttrpc+unix",
            ),
            ("c:x", Code::Unknown, "unknown STDIO scheme c"),
            ("binary://log/x", Code::InvalidArgument, "binary:///path"),
            ("binary://", Code::InvalidArgument, "binary:///path"),
            ("binary:log", Code::InvalidArgument, "binary:///path"),
            ("binary-v2:?a=b", Code::InvalidArgument, "binary-v2:///path"),
            ("binary:///l?=b", Code::InvalidArgument, "empty key"),
            ("binary:///l?a=1&=", Code::InvalidArgument, "empty key"),
            ("binary:///l?a=%2", Code::InvalidArgument, "?key=value"),
            ("binary:///l?a=%ff", Code::InvalidArgument, "?key=value"),
            ("binary:///l?a#b", Code::InvalidArgument, "?key=value"),
            ("binary:///l#b", Code::InvalidArgument, "binary:///path"),
            ("binary:///l?a=%00", Code::InvalidArgument, "NUL"),
            ("binary:///l%00", Code::InvalidArgument, "NUL"),
            ("file://var/log/x", Code::InvalidArgument, "file:///path"),
            ("file:///a?b", Code::InvalidArgument, "file:///path"),
            ("file:///a%00", Code::InvalidArgument, "NUL"),
            ("relative", Code::InvalidArgument, "not an absolute path"),
            ("./a", Code::InvalidArgument, "not an absolute path"),
            ("://x", Code::InvalidArgument, "not an absolute path"),
            ("9p:/x", Code::InvalidArgument, "not an absolute path"),
            (" ", Code::InvalidArgument, "not an absolute path"),
            ("\0", Code::InvalidArgument, "not an absolute path"),
            ("/a\0b", Code::InvalidArgument, "NUL"),
            ("fifo:///a%00b", Code::InvalidArgument, "NUL"),
            ("fifo://host/a", Code::InvalidArgument, "fifo:///path"),
            ("fifo:/a", Code::InvalidArgument, "fifo:///path"),
            ("fifo:", Code::InvalidArgument, "fifo:///path"),
            ("fifo://", Code::InvalidArgument, "fifo:///path"),
            ("fifo:///a%2", Code::InvalidArgument, "fifo:///path"),
            ("fifo:///a%zz", Code::InvalidArgument, "fifo:///path"),
            ("fifo:///%ff", Code::InvalidArgument, "fifo:///path"),
            ("fifo:///a?b", Code::InvalidArgument, "fifo:///path"),
            (long.as_str(), Code::InvalidArgument, "too long"),
        ] {
            for error in [of(uri, "", ""), of("", uri, ""), of("", "/x", uri)] {
                let error = error.expect_err(uri);
                assert_eq!(error.code, code, "{uri}");
                assert!(error.message.contains(phrase), "{uri}: {error}");
                assert!(!error.message.contains('\0'), "{uri}");
            }
        }
    }

    #[test]
    fn files_and_loggers() {
        let command = |path: &str, args: &[&str], must_be_ready| {
            Output::Logger(Command {
                path: path.into(),
                args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                must_be_ready,
            })
        };
        for (uri, expected) in [
            ("file:///a%20b", Output::File("/a b".into())),
            ("binary:///l", command("/l", &[], false)),
            ("binary:///l?", command("/l", &[], false)),
            ("BINARY-V2:///l%41", command("/lA", &[], true)),
            (
                "binary:///l?z=1&a=2&m=3&&",
                command("/l", &["z", "1", "a", "2", "m", "3"], false),
            ),
            (
                "binary:///l?-f&x=a%20b+c=%26&-f=again",
                command("/l", &["-f", "", "x", "a b c=&"], false),
            ),
        ] {
            let with = |stderr: Output| {
                Ok(Plan::Pipes {
                    stdin: None,
                    stdout: Some(expected.clone()),
                    stderr: Some(stderr),
                })
            };
            assert_eq!(of("", uri, ""), with(expected.clone()), "decides for both");
            assert_eq!(of("", uri, uri), with(expected.clone()));
            assert_eq!(of("", uri, "/own"), with("/own".into()), "its own counts");
            assert_eq!(of("", uri, "file:///e"), with(Output::File("/e".into())));
            let only_stderr = Plan::Pipes {
                stdin: None,
                stdout: None,
                stderr: Some(expected.clone()),
            };
            assert_eq!(of("", "", uri), Ok(only_stderr));
            let refused = of(uri, "", "").expect_err(uri);
            assert_eq!(refused.code, Code::InvalidArgument);
            assert!(refused.message.contains("for outputs only"), "{refused}");
        }
    }

    #[test]
    fn a_terminal_has_no_stderr() {
        for (stdin, stdout) in [("", ""), ("/i", ""), ("", "/o"), ("/i", "/o")] {
            let path = |given: &str| (!given.is_empty()).then(|| PathBuf::from(given));
            let planned = plan(&Stdio {
                stdin: stdin.into(),
                stdout: stdout.into(),
                stderr: "npipe://whatever".into(),
                terminal: true,
            });
            let expected = Plan::Terminal {
                stdin: path(stdin),
                stdout: path(stdout).map(Output::Path),
            };
            assert_eq!(planned, Ok(expected));
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_only_absolute_paths_pass(
            i in uri(), o in uri(), e in uri(), terminal: bool
        ) {
            match plan(&Stdio { stdin: i.clone(), stdout: o.clone(), stderr: e.clone(), terminal }) {
                Ok(Plan::Null) => prop_assert!(i.is_empty() && o.is_empty() && e.is_empty()),
                Ok(Plan::Pipes { stdin, stdout, stderr }) => {
                    prop_assert_eq!(i.is_empty(), stdin.is_none());
                    prop_assert_eq!(o.is_empty(), stdout.is_none());
                    prop_assert!(e.is_empty() || stderr.is_some());
                    for path in [stdin.as_ref(), stdout.as_ref().map(path), stderr.as_ref().map(path)]
                        .into_iter()
                        .flatten()
                    {
                        prop_assert!(path.is_absolute());
                        prop_assert!(!path.to_string_lossy().contains('\0'));
                    }
                }
                Ok(Plan::Terminal { stdin, stdout }) => {
                    prop_assert!(terminal);
                    prop_assert_eq!(i.is_empty(), stdin.is_none());
                    prop_assert_eq!(o.is_empty(), stdout.is_none());
                    prop_assert!(stdin.is_none_or(|path| path.is_absolute()));
                    prop_assert!(stdout.is_none_or(|output| path(&output).is_absolute()));
                }
                Err(error) => prop_assert!(!error.message.is_empty()),
            }
        }
    }

    fn path(output: &Output) -> &PathBuf {
        match output {
            Output::Path(path) | Output::File(path) | Output::Listed(path) => path,
            Output::Logger(command) => &command.path,
        }
    }

    /// Strings near the grammar's edges, and arbitrary ones.
    fn uri() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            "(fifo|FIFO|file|binary|binary-v2|x)?:?/{0,3}[a%0-9?#:&=]{0,6}\0?",
            any::<String>(),
        ]
    }
}
