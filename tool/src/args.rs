//! The command line of the `cotter` tool.
//!
//! Invariant: pure; what is not understood is refused, never guessed at.

use std::path::PathBuf;

use cotter::error::{Error, Result};

use crate::ask::Ask;
use crate::run::Options;
use cotter::manager::dialect::Dialect;
use cotter::manager::signals;

/// What `cotter help` says.
pub const HELP: &str = "\
cotter runs a container through a containerd shim.

  cotter run [OPTION…] [--] COMMAND…   run a command in a container and return its exit status
      --rootfs DIR       its root directory; without it, one is made of busybox
      --bundle DIR       take config.json from an OCI bundle; COMMAND… may be left out
      --runtime NAME     runc, crun, or a path; without it, the shim's default
      --id ID            without it, one is made up
      --events           show the events that the shim sends, on standard error
      --rm               remove the container when it ends; so it is anyway without -d
      -d, --detach       leave it running, without input and output, and print its id
      --shim PATH        the shim's binary; without it, containerd-shim-cotter-v2 beside cotter
                         or in PATH
      --dialect NAME     start the shim as containerd 1.6 (plain), 1.7 to 2.2 (json) or
                         2.3 and newer (proto, which is the default)
      --debug            have the shim log more, and show its log
  cotter ps                            show the containers that were detached
  cotter kill ID [SIGNAL]              send a signal to a container: TERM if none is named
  cotter stats [OPTION…] ID            show what a container uses, what it waits for, and its limits,
                                       whichever manager started it; ID and options as of dump
  cotter rm [-f] ID…                   remove containers; -f: running ones too
  cotter dump [OPTION…] ID | --all     show what a shim is doing, whichever manager started it; ID
                                       may be the beginning of one, the path of a bundle, or the
                                       address of a shim (unix://…)
      -n, --namespace NAME  the manager's namespace; without it, any
      --state DIR           look below another state directory too (of a containerd of its own)
      --json                for programs
      -q, --quiet           have the shim neither log it nor write it to the bundle
  cotter help | version

Signals that cotter run receives are passed on; the third INT or TERM kills the container.
It exits with 125 if the container could not be run, 126 or 127 if the command could not be,
128 + N if signal N ended it. COTTER_HOME names the directory where containers are kept
(/run/cotter).
";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Run a container; the shim's path is empty if none was named.
    Run(Options),
    /// List containers.
    Ps,
    /// Send a signal.
    Kill {
        /// To this container.
        id: String,
        /// The signal's number.
        signal: u32,
    },
    /// Show what a container uses.
    Stats(Ask),
    /// Remove containers.
    Remove {
        /// These.
        ids: Vec<String>,
        /// Running ones too.
        force: bool,
    },
    /// Look inside shims.
    Dump(Ask),
    /// Say how it is used.
    Help,
    /// Say which version it is.
    Version,
}

/// Reads the command line after the program's name.
///
/// # Errors
/// When it is not understood; the message says what and where.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Verb> {
    let mut args = args.into_iter();
    let verb = args.next().unwrap_or_else(|| "help".into());
    let rest: Vec<String> = args.collect();
    match (verb.as_str(), rest.as_slice()) {
        ("run", _) => run(rest).map(Verb::Run),
        ("ps", []) => Ok(Verb::Ps),
        ("kill", [id]) => Ok(Verb::Kill {
            id: id.clone(),
            signal: signals::parse("TERM")?,
        }),
        ("kill", [id, signal]) => Ok(Verb::Kill {
            id: id.clone(),
            signal: signals::parse(signal.trim_start_matches('-'))?,
        }),
        ("rm", _) => {
            let (flags, ids): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|arg| arg.starts_with('-'));
            if let Some(other) = flags
                .iter()
                .find(|flag| !matches!(flag.as_str(), "-f" | "--force"))
            {
                return Err(wrong(format!("rm does not know {other}")));
            }
            if ids.is_empty() {
                return Err(wrong("rm needs the id of a container"));
            }
            Ok(Verb::Remove {
                ids,
                force: !flags.is_empty(),
            })
        }
        ("dump", _) => which(rest, true).map(Verb::Dump),
        ("stats", _) => which(rest, false).map(Verb::Stats),
        ("help" | "-h" | "--help", _) => Ok(Verb::Help),
        ("version" | "-v" | "--version", _) => Ok(Verb::Version),
        ("ps" | "kill", _) => Err(wrong(format!("{verb} does not take these arguments"))),
        _ => Err(wrong(format!("there is no verb {verb:?}"))),
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(
        cotter::error::Code::InvalidArgument,
        format!("{} (see cotter help)", what.into()),
    )
}

fn run(args: Vec<String>) -> Result<Options> {
    let mut options = Options::default();
    let mut args = args.into_iter().peekable();
    let mut remove = false;
    while let Some(arg) = args.next_if(|arg| arg.starts_with('-')) {
        if arg == "--" {
            break;
        }
        let (flag, attached) = match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => {
                (flag.to_owned(), Some(value.to_owned()))
            }
            _ => (arg, None),
        };
        let switch = match flag.as_str() {
            "--events" => Some(&mut options.events),
            "--debug" => Some(&mut options.debug),
            "--detach" | "-d" => Some(&mut options.detach),
            "--rm" => Some(&mut remove),
            _ => None,
        };
        if let Some(switch) = switch {
            if attached.is_some() {
                return Err(wrong(format!("{flag} takes no value")));
            }
            *switch = true;
            continue;
        }
        let mut value = || {
            attached
                .clone()
                .or_else(|| args.next())
                .filter(|value| !value.is_empty())
                .ok_or_else(|| wrong(format!("{flag} needs a value")))
        };
        match flag.as_str() {
            "--rootfs" => options.rootfs = Some(PathBuf::from(value()?)),
            "--bundle" => options.bundle = Some(PathBuf::from(value()?)),
            "--runtime" => options.runtime = value()?,
            "--id" => options.id = Some(value()?),
            "--shim" => options.shim = PathBuf::from(value()?),
            "--dialect" => {
                let name = value()?;
                options.dialect = Some(
                    Dialect::by_name(&name)
                        .ok_or_else(|| wrong(format!("there is no dialect {name:?}")))?,
                );
            }
            other => return Err(wrong(format!("run does not know {other}"))),
        }
    }
    options.command = args.collect();
    if options.command.is_empty() && options.bundle.is_none() {
        return Err(wrong("run needs a command"));
    }
    if options.rootfs.is_some() && options.bundle.is_some() {
        return Err(wrong("--rootfs and --bundle exclude each other"));
    }
    if remove && options.detach {
        return Err(wrong(
            "--rm and -d exclude each other: nobody stays to remove it",
        ));
    }
    Ok(options)
}

/// The containers that are to be looked at: one, or, of a dump, any number.
fn which(args: Vec<String>, dump: bool) -> Result<Ask> {
    let verb = if dump { "dump" } else { "stats" };
    let mut ask = Ask::default();
    let mut all = false;
    let mut ids = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let (flag, attached) = match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
            _ => (arg.as_str(), None),
        };
        let value = match flag {
            "-n" | "--namespace" | "--state" => attached
                .or_else(|| args.next())
                .filter(|value| !value.is_empty())
                .ok_or_else(|| wrong(format!("{flag} needs a value")))?,
            _ if attached.is_some() => return Err(wrong(format!("{flag} takes no value"))),
            _ => String::new(),
        };
        match flag {
            "-n" | "--namespace" => ask.namespace = Some(value),
            "--state" => ask.state.push(PathBuf::from(value)),
            "--all" if dump => all = true,
            "--json" => ask.json = true,
            "-q" | "--quiet" if dump => ask.quiet = true,
            other if other.starts_with('-') => {
                return Err(wrong(format!("{verb} does not know {other}")));
            }
            _ => ids.push(arg),
        }
    }
    match (all, ids.pop()) {
        (true, None) => {}
        (false, Some(id)) if ids.is_empty() => ask.id = Some(id),
        _ if dump => return Err(wrong("dump needs one id, or --all")),
        _ => return Err(wrong("stats needs one id")),
    }
    Ok(ask)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(line: &str) -> Result<Verb> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn run_takes_options_up_to_the_command() {
        let line = "run --rootfs /r --runtime=crun --id a --events --rm -- sh -c --events";
        let expected = Options {
            rootfs: Some("/r".into()),
            runtime: "crun".into(),
            id: Some("a".into()),
            events: true,
            command: vec!["sh".into(), "-c".into(), "--events".into()],
            ..Options::default()
        };
        assert_eq!(words(line).unwrap(), Verb::Run(expected));
        let Verb::Run(options) = words("run -d --dialect plain --shim /s sleep -5").unwrap() else {
            panic!("another verb");
        };
        assert_eq!(options.command, ["sleep", "-5"]);
        assert_eq!(options.dialect, Some(Dialect::Plain16));
        assert!(options.detach);
        assert!(words("run --bundle /b").is_ok());
    }

    #[test]
    fn the_other_verbs() {
        let kill = |signal| Verb::Kill {
            id: "a".into(),
            signal,
        };
        assert_eq!(words("kill a").unwrap(), kill(15));
        assert_eq!(words("kill a -KILL").unwrap(), kill(9));
        assert_eq!(words("ps").unwrap(), Verb::Ps);
        for (line, json, namespace) in [
            ("stats a", false, None),
            ("stats --json a", true, None),
            ("stats a -n moby", false, Some("moby".to_owned())),
        ] {
            let expected = Ask {
                id: Some("a".into()),
                json,
                namespace,
                ..Ask::default()
            };
            assert_eq!(words(line).unwrap(), Verb::Stats(expected), "{line}");
        }
        let remove = Verb::Remove {
            ids: vec!["a".into(), "b".into()],
            force: true,
        };
        assert_eq!(words("rm -f a b").unwrap(), remove);
        assert_eq!(words("").unwrap(), Verb::Help);
    }

    #[test]
    fn dump_takes_one_id_or_all() {
        let one = Ask {
            id: Some("web".into()),
            namespace: Some("moby".into()),
            json: true,
            ..Ask::default()
        };
        let line = "dump -n moby web --json";
        assert_eq!(words(line).unwrap(), Verb::Dump(one));
        let all = Ask {
            state: vec!["/a".into(), "/b".into()],
            quiet: true,
            ..Ask::default()
        };
        let line = "dump --all --state /a --state=/b -q";
        assert_eq!(words(line).unwrap(), Verb::Dump(all));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in [
            "walk",
            "run",
            "run --",
            "run --nope x",
            "run --id",
            "run --events=yes x",
            "run --dialect latin x",
            "run --rootfs a --bundle b x",
            "run --rm -d x",
            "ps x",
            "stats",
            "stats -x",
            "stats --json",
            "stats a b",
            "stats --json a b",
            "stats --all",
            "stats -q a",
            "kill",
            "kill a b c",
            "kill a NOPE",
            "rm",
            "rm -x a",
            "dump",
            "dump a b",
            "dump --all a",
            "dump -n",
            "dump --json=yes a",
            "dump --nope a",
        ] {
            assert!(words(line).is_err(), "{line}");
        }
    }

    proptest! {
        /// Both outcomes are for the person at the terminal.
        #[test]
        fn whatever_is_typed_is_a_verb_or_an_error(
            verb in "run|ps|kill|rm|dump|stats|help|--version|[a-z-]{0,4}",
            rest in proptest::collection::vec("--?[a-z]{0,9}(=.{0,5})?|-n|-d|--|--json|--all|--state|-[A-Z0-9]{1,4}|\\PC{0,8}", 0..6),
        ) {
            if let Err(why) = parse(std::iter::once(verb).chain(rest)) {
                prop_assert!(!why.message.is_empty());
            }
        }
    }
}
