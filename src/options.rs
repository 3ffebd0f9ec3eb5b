//! The runtime's options: what a manager may say to `start`, `-info` and Create about how a
//! container is to be run.
//!
//! Invariant: what was asked for holds, or there is an error that names what cannot hold; no
//! option is dropped on the way. All options that the shim then has are runc's, whatever type they
//! came in.
//!
//! Two types are understood. `containerd.runc.v1.Options` is what managers send for the runtime
//! name io.containerd.runc.v2. For a name that they do not know they send
//! `runtimeoptions.v1.Options`: the path of a TOML file (dockerd, ctr), or the TOML of their own
//! configuration (the CRI since containerd 1.7, where no path is given). Its keys are those of
//! runc's options, as Go or as protobuf spells them, and four of our own: `pids_limit`
//! ([`crate::container::pids_limit`]), `oom_group`, `logger_allow` ([`crate::stdio`]) and `exec_by`
//! ([`crate::container::exec_by`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::apart::apart;
use crate::blocking::{Job, within};
use crate::error::{Code, Error, Result};
use crate::proto::runc_options::Options;
use crate::proto::{self, Any, Named, runtime_options};
use crate::spec;

/// The longest TOML read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The package of [`runtime_options`] while it belonged to containerd's CRI plugin, before 1.5.
const OLD_RUNTIME_OPTIONS: &str = "cri.runtimeoptions.v1.Options";

/// Options as a manager gives them: all there, or in a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// These.
    Here(Box<Options>),
    /// Those in this TOML file.
    In(PathBuf),
}

impl From<Options> for Given {
    fn from(options: Options) -> Self {
        Self::Here(Box::new(options))
    }
}

impl Given {
    /// The options of a request; the defaults if it has none. A type without a value means
    /// defaults, whatever the type (contract 2.2).
    ///
    /// # Errors
    /// `Unknown`, as the Go shim has it, for a type that is not understood; `InvalidArgument` for
    /// a message or TOML that is malformed or asks for what is no option.
    pub fn required(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any.filter(|any| !any.value.is_empty()) else {
            return Ok(Options::new().into());
        };
        Self::known(any)?.ok_or_else(|| {
            Error::unknown(format!("type with url {}: not found", shown(&any.type_url)))
        })
    }

    /// The options in a message that may be about something else, and then says nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for a message or TOML that is malformed or asks for what is no option.
    pub fn known(any: &Any) -> Result<Option<Self>> {
        let malformed = |e: protobuf::Error| {
            Error::invalid_argument(format!("options of type {}: {e}", shown(&any.type_url)))
        };
        if any.value.is_empty() {
            return Ok(None);
        }
        match proto::name(any) {
            Options::FULL_NAME => {
                let options = proto::parse(&any.value);
                options.map(|o: Options| Some(o.into())).map_err(malformed)
            }
            runtime_options::Options::FULL_NAME | OLD_RUNTIME_OPTIONS => {
                let generic = proto::parse(&any.value);
                Self::generic(&generic.map_err(malformed)?).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn generic(options: &runtime_options::Options) -> Result<Self> {
        let path = Path::new(&options.config_path);
        // By its definition in containerd's API the body only counts where there is no path.
        if options.config_path.is_empty() {
            toml(&options.config_body, "config_body").map(Self::from)
        } else if path.is_absolute() {
            Ok(Self::In(path.to_owned()))
        } else {
            Err(Error::invalid_argument(format!(
                "options: config_path \"{}\" is not an absolute path",
                shown(&options.config_path)
            )))
        }
    }

    /// The options themselves; a file is read now, within a limit. For the actions, which are to end
    /// whatever becomes of the disk ([`mod@crate::apart`]).
    ///
    /// # Errors
    /// `InvalidArgument` when the file cannot be read or its TOML does not hold; `DeadlineExceeded`
    /// naming the file.
    pub fn read_within(self, limit: Duration) -> Result<Options> {
        let path = match self {
            Self::Here(options) => return Ok(*options),
            Self::In(path) => path,
        };
        let content = apart(&reading(&path), limit, || content(&path))?;
        toml(&content, &path.to_string_lossy())
    }

    /// As [`read_within`](Self::read_within), for the server: not on its only thread.
    ///
    /// # Errors
    /// As [`read_within`](Self::read_within).
    pub async fn read_elsewhere(self, limit: Duration) -> Result<Options> {
        let path = match self {
            Self::Here(options) => return Ok(*options),
            Self::In(path) => path,
        };
        let job = Job {
            name: "options",
            what: reading(&path),
            limit,
        };
        let read = move || toml(&content(&path)?, &path.to_string_lossy());
        within(job, read).await?
    }
}

/// What is being done, for errors.
fn reading(path: &Path) -> String {
    format!("options: read {}", shown(&path.to_string_lossy()))
}

/// A file's content. Wherever its trouble lies: what is wrong with the request is the path.
fn content(path: &Path) -> Result<Vec<u8>> {
    spec::read_bounded(path, LONGEST).map_err(|e| {
        let message = format!("options: {}", e.message.escape_debug());
        Error::new(Code::InvalidArgument, message)
    })
}

/// Where a value goes.
enum Target<'a> {
    Switch(&'a mut bool),
    Text(&'a mut String),
    /// A text for which being empty is not the same as not being there.
    List(&'a mut Option<String>),
    Number(&'a mut u32),
    /// A number or a word, to be judged where it is used.
    Limit(&'a mut String),
    /// Nowhere: it says nothing about how to run a container.
    Nowhere,
    /// Nowhere, and only an empty text can be meant so.
    Empty,
}

/// Options from TOML. `source` names it in errors.
///
/// A key that is no option is an error and not a warning: of `SystemdCgoup = true` nobody would
/// hear until the node runs out of what two cgroup managers both give away.
fn toml(content: &[u8], source: &str) -> Result<Options> {
    let source = shown(source);
    let wrong = |what: String| Error::invalid_argument(format!("options in {source}: {what}"));
    if content.len() as u64 > LONGEST {
        return Err(wrong(format!("longer than {LONGEST} bytes")));
    }
    let text = std::str::from_utf8(content).map_err(|e| wrong(e.to_string()))?;
    let table = DeTable::parse(text).map_err(|e| {
        let before = e.span().and_then(|span| text.get(..span.start));
        let line = before.unwrap_or_default().matches('\n').count() + 1;
        wrong(format!("line {line}: {}", e.message().escape_debug()))
    })?;
    let mut options = Options::new();
    let mut seen = BTreeSet::new();
    for (key, value) in table.get_ref() {
        let key = key.get_ref();
        let (name, key) = (plain(key), shown(key));
        let target = target(&mut options, &name)
            .ok_or_else(|| wrong(format!("there is no option \"{key}\"")))?;
        set(target, value.get_ref()).map_err(|needed| {
            let kind = value.get_ref().type_str();
            wrong(format!("{key} is a TOML {kind}, not {needed}"))
        })?;
        if !seen.insert(name) {
            return Err(wrong(format!("{key} is there in two spellings")));
        }
    }
    Ok(options)
}

/// Somebody else's text in an error: on one line, and no longer than it has to be.
fn shown(text: &str) -> String {
    let some = text.chars().take(250);
    some.flat_map(char::escape_debug).collect()
}

/// An option's name as all its spellings share it: `SystemdCgroup`, `systemd_cgroup`.
fn plain(key: &str) -> String {
    key.replace('_', "").to_ascii_lowercase()
}

fn target<'a>(o: &'a mut Options, name: &str) -> Option<Target<'a>> {
    Some(match name {
        "nopivotroot" => Target::Switch(&mut o.no_pivot_root),
        "nonewkeyring" => Target::Switch(&mut o.no_new_keyring),
        "shimcgroup" => Target::Text(&mut o.shim_cgroup),
        "iouid" => Target::Number(&mut o.io_uid),
        "iogid" => Target::Number(&mut o.io_gid),
        "binaryname" => Target::Text(&mut o.binary_name),
        "root" => Target::Text(&mut o.root),
        "criupath" => Target::Text(&mut o.criu_path),
        "systemdcgroup" => Target::Switch(&mut o.systemd_cgroup),
        "criuimagepath" => Target::Text(&mut o.criu_image_path),
        "criuworkpath" => Target::Text(&mut o.criu_work_path),
        "taskapiaddress" => Target::Text(&mut o.task_api_address),
        "pidslimit" => Target::Limit(&mut o.pids_limit),
        "taskapiversion" => Target::Number(&mut o.task_api_version),
        "oomgroup" => Target::Switch(&mut o.oom_group),
        "execby" => Target::Text(&mut o.exec_by),
        "loggerallow" => Target::List(&mut o.logger_allow),
        // Fields of the message around the TOML: the CRI takes both from one table.
        "typeurl" => Target::Nowhere,
        "configpath" => Target::Empty,
        _ => return None,
    })
}

/// Sets an option, or says what its value has to be.
fn set(target: Target<'_>, value: &DeValue<'_>) -> Result<(), &'static str> {
    match target {
        Target::Switch(to) => *to = value.as_bool().ok_or("true or false")?,
        Target::Text(to) => value.as_str().ok_or("a string")?.clone_into(to),
        Target::List(to) => *to = Some(value.as_str().ok_or("a string")?.to_owned()),
        Target::Number(to) => {
            let number = value
                .as_integer()
                .and_then(|i| u32::from_str_radix(i.as_str(), i.radix()).ok());
            *to = number.ok_or("a number from 0 to 4294967295")?;
        }
        Target::Limit(to) => match value {
            DeValue::Integer(number) => number.to_string().clone_into(to),
            value => value.as_str().ok_or("a number or a string")?.clone_into(to),
        },
        Target::Nowhere => {}
        Target::Empty if value.as_str() == Some("") => {}
        Target::Empty => return Err("an empty string, as it has to be in here"),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
