//! What a plan is of what was given.

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

#[test]
fn what_is_nothing_but_fifos() {
    let fifos = ["/f/0", "/f/1"].map(PathBuf::from);
    let hold = |path: &Path| {
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        fifos.iter().any(|fifo| fifo == path).then(null)
    };
    let mut asked = Vec::new();
    for (streams, expected) in [
        (["", "", ""], true),
        (["/f/0", "", ""], true),
        (["/f/0", "/f/1", "/f/1"], true),
        (["/disk", "/f/1", "/f/1"], false),
        (["/f/0", "/disk", "/f/1"], false),
        (["/f/0", "/f/1", "/disk"], false),
        (["", "file:///f/1", ""], false),
        (["", "binary:///f/1", ""], false),
    ] {
        let [stdin, stdout, stderr] = streams;
        let plan = of(stdin, stdout, stderr).unwrap();
        let held = plan.held(hold).map(|held| held.map(|fifo| fifo.is_some()));
        let expected = expected.then(|| streams.map(|path| !path.is_empty()));
        asked.push((streams, held == expected));
    }
    let terminal = Plan::Terminal {
        stdin: None,
        stdout: Some("/f/1".into()),
    };
    asked.push((["terminal"; 3], terminal.held(hold).is_none()));
    assert!(asked.iter().all(|(_, right)| *right), "{asked:?}");
}
