//! The command line, read as Go's `flag` package reads it (contract 1.2).
//!
//! Invariant: what a manager of any version passes is either understood or refused by name; nothing
//! is guessed. Pure; the table in the tests pins it.

use crate::error::{Error, Result};

/// Longest namespace that containerd accepts, in bytes.
const MAX_NAMESPACE: usize = 76;

/// The flags and the action behind them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// containerd's namespace: the authority for everything that is kept per namespace.
    pub namespace: String,
    /// The container's or sandbox's id.
    pub id: String,
    /// containerd's gRPC socket; part of the name of the shim's socket.
    pub address: String,
    /// Accepted for old managers and not used: events go over ttrpc.
    pub publish_binary: String,
    /// The bundle, named to `delete` only.
    pub bundle: String,
    /// Where to serve instead of on the inherited descriptor.
    pub socket: String,
    /// Accepted and not used: this shim serves nothing for debugging.
    pub debug_socket: String,
    /// Log at debug level.
    pub debug: bool,
    /// Print the version and end.
    pub version: bool,
    /// Print what the runtime can do and end.
    pub info: bool,
    /// Print the flags and end.
    pub help: bool,
    /// The first word that is no flag; empty to serve.
    pub action: String,
}

/// What `-help` prints.
pub const USAGE: &str = "\
A containerd shim: started by containerd, not by hand. Actions: start, delete; none to serve.
  -namespace NAME         containerd's namespace
  -id ID                  container or sandbox id
  -address PATH           containerd's gRPC socket
  -bundle DIR             bundle directory (delete)
  -socket PATH            serve on this socket instead of file descriptor 3
  -debug                  log at debug level
  -publish-binary PATH    accepted and not used
  -debug-socket PATH      accepted and not used
  -info                   print what the runtime can do, as a protobuf message
  -v, -version            print the version
";

enum Target<'a> {
    Text(&'a mut String),
    Switch(&'a mut bool),
}

impl Flags {
    /// Reads the arguments that follow the program's name. As in Go, one dash or two, `-x v` or
    /// `-x=v`, the last of several wins, and the first other word ends the flags.
    ///
    /// # Errors
    /// Unknown flags, missing values and malformed switches, in Go's words.
    pub fn parse<S: AsRef<str>>(args: &[S]) -> Result<Self> {
        let mut flags = Self::default();
        let mut rest = args.iter().map(AsRef::as_ref);
        while let Some(arg) = rest.next() {
            if arg == "--" {
                flags.action = rest.next().unwrap_or_default().to_owned();
                break;
            }
            let name = match arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) {
                None | Some("") => {
                    flags.action = arg.to_owned();
                    break;
                }
                Some(name) if name.starts_with(['-', '=']) => {
                    return Err(Error::invalid_argument(format!("bad flag syntax: {arg}")));
                }
                Some(name) => name,
            };
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (name, None),
            };
            match flags.target(name) {
                None => {
                    return Err(Error::invalid_argument(format!(
                        "flag provided but not defined: -{name}"
                    )));
                }
                Some(Target::Switch(switch)) => *switch = boolean(name, value.unwrap_or("true"))?,
                Some(Target::Text(text)) => {
                    *text = value
                        .or_else(|| rest.next())
                        .ok_or_else(|| {
                            Error::invalid_argument(format!("flag needs an argument: -{name}"))
                        })?
                        .to_owned();
                }
            }
        }
        Ok(flags)
    }

    fn target(&mut self, name: &str) -> Option<Target<'_>> {
        Some(match name {
            "namespace" => Target::Text(&mut self.namespace),
            "id" => Target::Text(&mut self.id),
            "address" => Target::Text(&mut self.address),
            "publish-binary" => Target::Text(&mut self.publish_binary),
            "bundle" => Target::Text(&mut self.bundle),
            "socket" => Target::Text(&mut self.socket),
            "debug-socket" => Target::Text(&mut self.debug_socket),
            "debug" => Target::Switch(&mut self.debug),
            "v" | "version" => Target::Switch(&mut self.version),
            "info" => Target::Switch(&mut self.info),
            "h" | "help" => Target::Switch(&mut self.help),
            _ => return None,
        })
    }

    /// Checks what every action needs: a namespace, and an id that can be a file name.
    ///
    /// # Errors
    /// `InvalidArgument` naming the flag.
    pub fn check(&self) -> Result<()> {
        if self.namespace.is_empty() {
            return Err(Error::invalid_argument("shim namespace cannot be empty"));
        }
        if !is_namespace(&self.namespace) {
            return Err(Error::invalid_argument(format!(
                "namespace {:?} is not of letters and digits with single . _ - between, {MAX_NAMESPACE} at most",
                self.namespace
            )));
        }
        if matches!(self.id.as_str(), "" | "." | "..") || self.id.contains(['/', '\0']) {
            return Err(Error::invalid_argument(format!(
                "id {:?} cannot name a container",
                self.id
            )));
        }
        Ok(())
    }
}

fn boolean(name: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::invalid_argument(format!(
            "invalid boolean value {value:?} for -{name}: parse error"
        ))),
    }
}

fn is_namespace(name: &str) -> bool {
    name.len() <= MAX_NAMESPACE
        && name
            .split(['.', '_', '-'])
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags> {
        Flags::parse(&line.split(' ').collect::<Vec<_>>())
    }

    #[test]
    fn containerds_command_line() {
        let flags = parse("-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id a -bundle /b -debug delete").unwrap();
        let expected = Flags {
            namespace: "k8s.io".into(),
            id: "a".into(),
            address: "/run/c.sock".into(),
            publish_binary: "/usr/bin/containerd".into(),
            bundle: "/b".into(),
            debug: true,
            action: "delete".into(),
            ..Flags::default()
        };
        assert_eq!(flags, expected);
        flags.check().unwrap();
    }

    #[test]
    fn the_ways_of_go() {
        let named = |id: &str, action: &str| Flags {
            id: id.into(),
            action: action.into(),
            ..Flags::default()
        };
        for (line, expected) in [
            ("--id x start", named("x", "start")),
            ("-id=x start", named("x", "start")),
            ("--id=x=y", named("x=y", "")),
            ("-id= start", named("", "start")),
            ("-id -debug start", named("-debug", "start")),
            ("-id a -id b", named("b", "")),
            ("start -id x", named("", "start")),
            ("-id x -- start", named("x", "start")),
            ("-id x -- -v", named("x", "-v")),
            ("-id x --", named("x", "")),
            ("- -id x", named("", "-")),
        ] {
            assert_eq!(parse(line).unwrap(), expected, "{line}");
        }
        assert_eq!(Flags::parse::<&str>(&[]).unwrap(), Flags::default());
        assert_eq!(Flags::parse(&["-id", ""]).unwrap(), Flags::default());
        assert_eq!(Flags::parse(&["", "-v"]).unwrap(), Flags::default());
    }

    #[test]
    fn switches() {
        for (line, on) in [
            ("-debug", true),
            ("-debug=true", true),
            ("-debug=T", true),
            ("-debug=0", false),
            ("-debug -debug=false", false),
        ] {
            assert_eq!(parse(line).unwrap().debug, on, "{line}");
        }
        let flags = parse("-debug false").unwrap();
        assert_eq!((flags.debug, flags.action.as_str()), (true, "false"));
        assert!(parse("-v").unwrap().version && parse("--version").unwrap().version);
        assert!(parse("-info").unwrap().info && parse("-h").unwrap().help);
    }

    #[test]
    fn refusals() {
        for (line, expected) in [
            ("-bogus x", "flag provided but not defined: -bogus"),
            ("-id", "flag needs an argument: -id"),
            (
                "-debug=maybe",
                "invalid boolean value \"maybe\" for -debug: parse error",
            ),
            ("---id x", "bad flag syntax: ---id"),
            ("-=x", "bad flag syntax: -=x"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert_eq!(error, format!("{expected}: invalid argument"), "{line}");
        }
    }

    #[test]
    fn checks() {
        let check = |namespace: &str, id: &str| {
            let flags = Flags {
                namespace: namespace.into(),
                id: id.into(),
                ..Flags::default()
            };
            flags.check().is_ok()
        };
        for namespace in ["default", "k8s.io", "a-b_c.d", &"x".repeat(76)] {
            assert!(check(namespace, "id"), "{namespace}");
        }
        for namespace in [
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "a/b",
            "ä",
            "a b",
            &"x".repeat(77),
        ] {
            assert!(!check(namespace, "id"), "{namespace}");
        }
        for id in ["", ".", "..", "a/b", "a\0b"] {
            assert!(!check("default", id), "{id:?}");
        }
    }
}
