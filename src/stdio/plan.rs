//! What the manager's strings mean. Pure: no file is touched.

use std::path::PathBuf;

use super::{Stdio, Stream};
use crate::error::{Code, Error, Result};

/// Where a process's streams go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// No stream at all: the process gets `/dev/null`.
    Null,
    /// A pipe for each stream that has a path; `/dev/null` for the others.
    Pipes {
        /// FIFO the client writes to.
        stdin: Option<PathBuf>,
        /// FIFO or file that gets standard output.
        stdout: Option<PathBuf>,
        /// FIFO or file that gets standard error.
        stderr: Option<PathBuf>,
    },
    /// A terminal for all three.
    Terminal {
        /// FIFO the client types into.
        stdin: Option<PathBuf>,
        /// FIFO or file that gets the output; without one it is discarded.
        stdout: Option<PathBuf>,
    },
}

/// Decides from the strings where the streams go: bare absolute paths and `fifo:///path`, in any
/// combination with empty ones.
///
/// With a terminal, the string for standard error is not looked at: nothing goes there.
///
/// A scheme nobody knows is `unknown STDIO scheme X`, as the Go shim says it; the schemes `file`, `binary` and `binary-v2` are [`Code::Unimplemented`]; anything else that is not
/// an absolute path is [`Code::InvalidArgument`].
///
/// # Errors
/// As above; the message names the stream.
pub fn plan(stdio: &Stdio) -> Result<Plan> {
    let stdin = target(Stream::Stdin, &stdio.stdin)?;
    let stdout = target(Stream::Stdout, &stdio.stdout)?;
    if stdio.terminal {
        return Ok(Plan::Terminal { stdin, stdout });
    }
    let stderr = target(Stream::Stderr, &stdio.stderr)?;
    if stdin.is_none() && stdout.is_none() && stderr.is_none() {
        return Ok(Plan::Null);
    }
    Ok(Plan::Pipes {
        stdin,
        stdout,
        stderr,
    })
}

fn target(stream: Stream, uri: &str) -> Result<Option<PathBuf>> {
    if uri.is_empty() {
        return Ok(None);
    }
    let path = match scheme(uri) {
        None => uri.to_owned(),
        Some((name, rest)) => match name.as_str() {
            "fifo" => fifo_path(rest)
                .ok_or_else(|| invalid(stream, uri, "not of the form fifo:///path"))?,
            "file" | "binary" | "binary-v2" => {
                return Err(unimplemented(&format!("{stream} scheme {name}://")));
            }
            _ => return Err(Error::unknown(format!("unknown STDIO scheme {name}"))),
        },
    };
    if !path.starts_with('/') {
        return Err(invalid(stream, uri, "not an absolute path"));
    }
    if path.contains('\0') {
        return Err(invalid(stream, uri, "a NUL byte in the path"));
    }
    if path.len() >= libc::PATH_MAX as usize {
        return Err(invalid(stream, "the path", "too long"));
    }
    Ok(Some(PathBuf::from(path)))
}

/// Splits `scheme:rest` as RFC 3986 defines a scheme, in lower case. A bare path has none.
fn scheme(uri: &str) -> Option<(String, &str)> {
    let (name, rest) = uri.split_once(':')?;
    let sound = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    sound.then(|| (name.to_ascii_lowercase(), rest))
}

/// The path of what follows `fifo:`: no host, no query, no fragment, `%XX` decoded.
fn fifo_path(rest: &str) -> Option<String> {
    let encoded = rest.strip_prefix("//")?;
    if !encoded.starts_with('/') || encoded.contains(['?', '#']) {
        return None;
    }
    let mut path = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            path.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            path.push(byte);
        }
    }
    String::from_utf8(path).ok()
}

fn invalid(stream: Stream, uri: &str, why: &str) -> Error {
    Error::invalid_argument(format!("{stream} {}: {why}", uri.escape_debug()))
}

fn unimplemented(what: &str) -> Error {
    Error::new(
        Code::Unimplemented,
        format!("{what} is not supported by this shim yet: not implemented"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
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
                    stdout: path(o),
                    stderr: path(e),
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
            assert_eq!(stdout, Some(PathBuf::from(expected)), "{uri}");
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
            ("binary:///log?a=b", Code::Unimplemented, "binary://"),
            ("binary-v2:///log", Code::Unimplemented, "binary-v2://"),
            ("file:///var/log/x", Code::Unimplemented, "file://"),
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
                stdout: path(stdout),
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
                    for (given, path) in [(i, stdin), (o, stdout), (e, stderr)] {
                        prop_assert_eq!(given.is_empty(), path.is_none());
                        if let Some(path) = path {
                            prop_assert!(path.is_absolute());
                            prop_assert!(!path.to_string_lossy().contains('\0'));
                        }
                    }
                }
                Ok(Plan::Terminal { stdin, stdout }) => {
                    prop_assert!(terminal);
                    for (given, path) in [(i, stdin), (o, stdout)] {
                        prop_assert_eq!(given.is_empty(), path.is_none());
                        prop_assert!(path.is_none_or(|path| path.is_absolute()));
                    }
                }
                Err(error) => prop_assert!(!error.message.is_empty()),
            }
        }
    }

    /// Strings near the grammar's edges, and arbitrary ones.
    fn uri() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            "(fifo|FIFO|file|x)?:?/{0,3}[a%0-9?#:]{0,6}\0?",
            any::<String>(),
        ]
    }
}
