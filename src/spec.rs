//! The little the shim itself reads of OCI specs; everything else is between the author of the
//! spec and the runtime.
//!
//! Invariant: nothing the shim does not need can make a spec unreadable, and an exec's spec
//! reaches the runtime as its author wrote it but for `terminal`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::errno;
use crate::error::{Error, Result};

/// The longest config.json read, in bytes.
pub const LONGEST: u64 = 10 << 20;

/// As much of a name as a message shows.
const LONGEST_SHOWN: usize = 250;

/// Annotations that name the group a container belongs to, in order of precedence.
const GROUP_KEYS: [&str; 2] = [
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
];

/// Annotations of a container.
pub type Annotations = BTreeMap<String, String>;

/// What the shim knows of a container's config.json.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// `ociVersion`; empty when absent.
    pub oci_version: String,
    /// `annotations`.
    pub annotations: Annotations,
    /// Whether processes can outlive the init, so that all are killed when it exits: true unless
    /// the container has a pid namespace of its own.
    pub kill_all_on_exit: bool,
    /// `process.terminal`.
    pub terminal: bool,
    /// `linux.cgroupsPath`, as written; empty when absent.
    pub cgroups_path: String,
    /// `linux.resources.pids.limit`.
    pub pids_limit: Option<i64>,
    /// The thousandths of CPUs that `linux.resources.cpu` allows; none without a limit.
    pub cpus_milli: Option<u64>,
}

impl Default for Spec {
    /// What holds for a spec that cannot be read: the careful answers.
    fn default() -> Self {
        Self {
            oci_version: String::new(),
            annotations: Annotations::new(),
            kill_all_on_exit: true,
            terminal: false,
            cgroups_path: String::new(),
            pids_limit: None,
            cpus_milli: None,
        }
    }
}

impl Spec {
    /// Reads `config.json` in a bundle.
    pub fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let json = read_bounded(&path, LONGEST)?;
        Self::parse(&json).map_err(|why| why.context(format!("parse {}", path.display())))
    }

    /// As [`read`](Self::read); none where there is none that can be understood.
    ///
    /// # Errors
    /// Why it cannot be told what is there.
    pub(crate) fn look(bundle: &Path) -> Result<Option<Self>> {
        let json = look(&bundle.join("config.json"), 0, LONGEST)?;
        Ok(json.and_then(|json| Self::parse(&json).ok()))
    }

    /// Takes what is needed from the text of a config.json.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let file: SpecFile = serde_json::from_slice(json).map_err(|why| json_error(&why))?;
        let linux = file.linux.unwrap_or_default();
        let own_pid_namespace = linux
            .namespaces
            .unwrap_or_default()
            .iter()
            .any(|ns| ns.kind == "pid" && ns.path.as_deref().unwrap_or_default().is_empty());
        Ok(Self {
            oci_version: file.oci_version.unwrap_or_default(),
            annotations: file.annotations.unwrap_or_default(),
            kill_all_on_exit: !own_pid_namespace,
            terminal: file
                .process
                .and_then(|process| process.terminal)
                .unwrap_or_default(),
            cgroups_path: linux.cgroups_path.unwrap_or_default(),
            pids_limit: linux
                .resources
                .pointer("/pids/limit")
                .and_then(Value::as_i64),
            cpus_milli: cpus_milli(&linux.resources),
        })
    }
}

fn cpus_milli(resources: &Value) -> Option<u64> {
    let number = |path: &str| resources.pointer(path).and_then(Value::as_u64);
    let quota = number("/cpu/quota").filter(|quota| *quota > 0);
    // The kernel's default period, in microseconds.
    let period = number("/cpu/period").filter(|period| *period > 0);
    let by_time = quota.map(|quota| quota.saturating_mul(1000) / period.unwrap_or(100_000));
    let cpus = resources.pointer("/cpu/cpus").and_then(Value::as_str);
    let by_set = cpus.and_then(cpus_in).map(|cpus| cpus.saturating_mul(1000));
    by_time.into_iter().chain(by_set).min()
}

/// How many CPUs are in a list such as `0-3,7`; none if it is no such list.
fn cpus_in(list: &str) -> Option<u64> {
    let count = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    let mut counts = list.trim().split(',').map(count);
    counts.try_fold(0_u64, |sum, count| sum.checked_add(count?))
}

/// The group a container belongs to; its own id when no annotation names one.
///
/// # Errors
/// `InvalidArgument` when the name has a `/` or a control character or is `.` or `..`: it goes into a path
/// behind the namespace, and would reach the shims of another.
pub fn group(annotations: &Annotations, id: &str) -> Result<String> {
    let (key, name) = GROUP_KEYS
        .iter()
        .find_map(|key| Some((*key, annotations.get(*key)?.as_str())))
        .unwrap_or(("id", id));
    if name == "." || name == ".." || name.contains(|c: char| c == '/' || c.is_control()) {
        let shown: String = name.escape_debug().take(LONGEST_SHOWN).collect();
        return Err(Error::invalid_argument(format!(
            "group \"{shown}\" of {key}: it may hold no / and no control characters, nor be . or .."
        )));
    }
    Ok(name.to_owned())
}

/// A process spec with the size that its terminal is to have from the first moment. One that is no
/// JSON object is left as it is: the runtime will say so.
pub fn with_console_size(json: &[u8], width: u16, height: u16) -> Vec<u8> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(json) else {
        return json.to_vec();
    };
    let size = serde_json::json!({"height": height, "width": width});
    fields.insert("consoleSize".into(), size);
    Value::Object(fields).to_string().into_bytes()
}

/// Whether an annotation names a group.
pub fn in_group(annotations: &Annotations) -> bool {
    GROUP_KEYS.iter().any(|key| annotations.contains_key(*key))
}

/// The process spec of an exec for the runtime: the client's, with `terminal` as in the request.
pub fn exec_process(json: &[u8], terminal: bool) -> Result<Vec<u8>> {
    let mut process: Value = serde_json::from_slice(json).map_err(|why| json_error(&why))?;
    let Value::Object(fields) = &mut process else {
        let kind = match process {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        return Err(Error::unknown(format!(
            "json: cannot unmarshal {kind} into a process spec"
        )));
    };
    fields.insert("terminal".into(), Value::Bool(terminal));
    serde_json::to_vec(&process).map_err(|why| json_error(&why))
}

// An option everywhere: Go writes null for what is empty, and reads it so.
#[derive(Deserialize)]
struct SpecFile {
    #[serde(rename = "ociVersion")]
    oci_version: Option<String>,
    annotations: Option<Annotations>,
    process: Option<Process>,
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Process {
    terminal: Option<bool>,
}

#[derive(Default, Deserialize)]
struct Linux {
    namespaces: Option<Vec<Namespace>>,
    #[serde(rename = "cgroupsPath")]
    cgroups_path: Option<String>,
    // What is wrong in it is for the runtime to say.
    #[serde(default)]
    resources: Value,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type", default)]
    kind: String,
    path: Option<String>,
}

/// Reads a file that somebody else wrote, if it is one and no longer than `longest` bytes.
///
/// # Errors
/// Why it could not be read; `InvalidArgument` when it is longer.
pub fn read_bounded(path: &Path, longest: u64) -> Result<Vec<u8>> {
    read(path, 0, longest)
}

/// As [`read_bounded`], of a file that shims and managers keep in a bundle; none if there is none, or if what is
/// there is none of theirs: a link, no file, too long. config.json is not such a one: what the runtime reads, the
/// shim reads.
///
/// # Errors
/// Why it cannot be told what is there.
pub(crate) fn own(path: &Path, longest: u64) -> Result<Option<Vec<u8>>> {
    look(path, libc::O_NOFOLLOW, longest)
}

/// As [`own`], where there has to be one.
///
/// # Errors
/// As [`read_bounded`].
pub(crate) fn read_own(path: &Path, longest: u64) -> Result<Vec<u8>> {
    read(path, libc::O_NOFOLLOW, longest)
}

fn look(path: &Path, flags: i32, longest: u64) -> Result<Option<Vec<u8>>> {
    match content(path, flags, longest) {
        Ok(Content::Whole(content)) => Ok(Some(content)),
        Ok(Content::NoFile | Content::TooLong) => Ok(None),
        Err(why) if errno::is_absent(&why) => Ok(None),
        Err(why) => Err(Error::io(format!("read {}", path.display()), &why)),
    }
}

fn read(path: &Path, flags: i32, longest: u64) -> Result<Vec<u8>> {
    let shown = path.display();
    match content(path, flags, longest) {
        Ok(Content::Whole(content)) => Ok(content),
        Ok(Content::NoFile) => Err(Error::unknown(format!("read {shown}: not a regular file"))),
        Ok(Content::TooLong) => Err(Error::invalid_argument(format!(
            "read {shown}: longer than {longest} bytes"
        ))),
        Err(why) => Err(Error::io(format!("read {shown}"), &why)),
    }
}

/// What is in the place of a file.
enum Content {
    Whole(Vec<u8>),
    NoFile,
    TooLong,
}

fn content(path: &Path, flags: i32, longest: u64) -> io::Result<Content> {
    // Non-blocking: opening a FIFO in its place would never return.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | flags)
        .open(path);
    let file = match file {
        // A socket.
        Err(why) if why.raw_os_error() == Some(libc::ENXIO) => return Ok(Content::NoFile),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Ok(Content::NoFile);
    }
    let mut content = Vec::new();
    file.take(longest + 1).read_to_end(&mut content)?;
    match content.len() as u64 > longest {
        true => Ok(Content::TooLong),
        false => Ok(Content::Whole(content)),
    }
}

/// Clients know Go's words for JSON that ends early.
fn json_error(why: &serde_json::Error) -> Error {
    if why.is_eof() {
        Error::unknown("unexpected end of JSON input")
    } else {
        Error::unknown(format!("invalid JSON: {why}"))
    }
}

#[cfg(test)]
mod tests;
