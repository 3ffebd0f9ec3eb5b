//! The little the shim itself reads of OCI specs; everything else is between the author of the
//! spec and the runtime.
//!
//! Invariant: nothing the shim does not need can make a spec unreadable, and an exec's spec
//! reaches the runtime as its author wrote it but for `terminal`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// The longest config.json read, in bytes.
pub(crate) const LONGEST: u64 = 10 << 20;

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
pub(crate) fn read_bounded(path: &Path, longest: u64) -> Result<Vec<u8>> {
    read(path, 0, longest)
}

/// As [`read_bounded`], of a file that shims and managers keep in a bundle: one that is a link is none
/// of theirs. config.json is not such a one: what the runtime reads, the shim reads.
///
/// # Errors
/// As [`read_bounded`].
pub(crate) fn read_own(path: &Path, longest: u64) -> Result<Vec<u8>> {
    read(path, libc::O_NOFOLLOW, longest)
}

fn read(path: &Path, flags: i32, longest: u64) -> Result<Vec<u8>> {
    let fail = |why| Error::io(format!("read {}", path.display()), &why);
    // Non-blocking: opening a FIFO in its place would never return.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | flags)
        .open(path)
        .map_err(fail)?;
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(Error::unknown(format!(
            "read {}: not a regular file",
            path.display()
        )));
    }
    let mut content = Vec::new();
    file.take(longest + 1)
        .read_to_end(&mut content)
        .map_err(fail)?;
    if content.len() as u64 > longest {
        return Err(Error::invalid_argument(format!(
            "read {}: longer than {longest} bytes",
            path.display()
        )));
    }
    Ok(content)
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
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn kill_all_unless_the_pid_namespace_is_its_own() {
        for (json, kill_all) in [
            (r"{}", true),
            (r#"{"linux":null}"#, true),
            (r#"{"linux":{"namespaces":null}}"#, true),
            (r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#, true),
            (r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#, false),
            (
                r#"{"linux":{"namespaces":[{"type":"pid","path":""}]}}"#,
                false,
            ),
            (
                r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#,
                true,
            ),
        ] {
            let spec = Spec::parse(json.as_bytes()).unwrap();
            assert_eq!(spec.kill_all_on_exit, kill_all, "{json}");
        }
        assert!(Spec::default().kill_all_on_exit);
    }

    #[test]
    fn fields_are_found_among_unknown_ones() {
        let json = br#"{"ociVersion":"1.0.2","process":{"terminal":true,"args":["sh"],"new":{}},
            "annotations":{"a":"b"},"linux":{"cgroupsPath":"/x/y","seccomp":{"x":[1]}},"z":[[]]}"#;
        let spec = Spec::parse(json).unwrap();
        assert!(spec.terminal);
        assert_eq!(spec.oci_version, "1.0.2");
        assert_eq!(spec.cgroups_path, "/x/y");
        assert_eq!(spec.annotations, [("a".into(), "b".into())].into());
        let nulls =
            br#"{"annotations":null,"process":{"terminal":null},"linux":{"cgroupsPath":null}}"#;
        assert_eq!(Spec::parse(nulls).unwrap(), Spec::default());
    }

    #[test]
    fn errors_name_the_file() {
        let bundle = std::env::temp_dir().join(format!("cotter-spec-{}", std::process::id()));
        std::fs::create_dir_all(&bundle).unwrap();
        let path = bundle.join("config.json");

        let missing = Spec::read(&bundle).unwrap_err();
        assert_eq!(missing.code, Code::NotFound);
        std::fs::write(&path, "{\"annotations\":").unwrap();
        let short = Spec::read(&bundle).unwrap_err();
        assert_eq!(short.code, Code::Unknown);
        std::fs::File::create(&path)
            .unwrap()
            .set_len(LONGEST + 1)
            .unwrap();
        let long = Spec::read(&bundle).unwrap_err();
        assert_eq!(long.code, Code::InvalidArgument);
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let fifo = Spec::read(&bundle).unwrap_err();

        std::fs::remove_dir_all(&bundle).unwrap();
        for err in [missing, short, long, fifo] {
            let name = path.display().to_string();
            assert!(err.message.contains(&name), "{}", err.message);
        }
    }

    #[test]
    fn limits_of_processes_and_cpus() {
        for (resources, limit, cpus) in [
            ("null", None, None),
            ("{}", None, None),
            (r#"{"pids":{"limit":7}}"#, Some(7), None),
            (
                r#"{"pids":{"limit":-1},"cpu":{"quota":-1}}"#,
                Some(-1),
                None,
            ),
            (r#"{"pids":{"limit":"x"},"cpu":"x"}"#, None, None),
            (r#"{"cpu":{"quota":150000}}"#, None, Some(1500)),
            (
                r#"{"cpu":{"quota":150000,"period":50000}}"#,
                None,
                Some(3000),
            ),
            (r#"{"cpu":{"quota":150000,"period":0}}"#, None, Some(1500)),
            (r#"{"cpu":{"cpus":"0-3,7"}}"#, None, Some(5000)),
            (
                r#"{"cpu":{"cpus":"0-3,7","quota":100000}}"#,
                None,
                Some(1000),
            ),
            (r#"{"cpu":{"cpus":""}}"#, None, None),
            (r#"{"cpu":{"cpus":"3-0"}}"#, None, None),
        ] {
            let json = format!(r#"{{"linux":{{"resources":{resources}}}}}"#);
            let spec = Spec::parse(json.as_bytes()).unwrap();
            assert_eq!((spec.pids_limit, spec.cpus_milli), (limit, cpus), "{json}");
        }
    }

    #[test]
    fn the_group_is_the_first_annotation_present() {
        let both: Annotations = [
            ("io.containerd.runc.v2.group".into(), "g".into()),
            ("io.kubernetes.cri.sandbox-id".into(), "s".into()),
        ]
        .into();
        let named = |name: &str| Ok(name.to_owned());
        assert_eq!(group(&both, "id"), named("g"));
        let sandbox: Annotations = [("io.kubernetes.cri.sandbox-id".into(), "s".into())].into();
        assert_eq!(group(&sandbox, "id"), named("s"));
        assert_eq!(group(&Annotations::new(), "id"), named("id"));
        for good in ["", "a..b", "...", "a b", "ä:_-%2f\\"] {
            let one: Annotations = [(GROUP_KEYS[1].into(), good.into())].into();
            assert_eq!(group(&one, "id"), named(good));
        }
        let long = "../".repeat(1000);
        for bad in [
            ".", "..", "/", "a/b", "../a", "a\n", "\0", "\u{9b}", "\u{7f}", &long,
        ] {
            let one: Annotations = [(GROUP_KEYS[1].into(), bad.into())].into();
            let error = group(&one, "id").unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{bad:?}");
            let said = error.message.chars();
            assert!(said.clone().count() < 500 && !said.clone().any(char::is_control));
        }
    }

    #[test]
    fn a_size_for_the_terminal() {
        for (json, out) in [
            ("{}", r#"{"consoleSize":{"height":2,"width":1}}"#),
            (
                r#"{"zz":1,"consoleSize":{"height":9,"width":9,"x":0},"args":[]}"#,
                r#"{"zz":1,"consoleSize":{"height":2,"width":1},"args":[]}"#,
            ),
            ("[", "["),
        ] {
            let with = with_console_size(json.as_bytes(), 1, 2);
            assert_eq!(String::from_utf8(with).unwrap(), out, "{json}");
        }
    }

    #[test]
    fn an_exec_spec_keeps_everything_but_terminal() {
        for (json, terminal, out) in [
            (r"{}", false, r#"{"terminal":false}"#),
            (
                r#"{"zz":1,"terminal":true,"args":["a","\u00e9"],"n":18446744073709551615,"o":{"b":null,"a":1.5}}"#,
                false,
                r#"{"zz":1,"terminal":false,"args":["a","é"],"n":18446744073709551615,"o":{"b":null,"a":1.5}}"#,
            ),
            (r#"{"args":[]}"#, true, r#"{"args":[],"terminal":true}"#),
        ] {
            let patched = exec_process(json.as_bytes(), terminal).unwrap();
            assert_eq!(String::from_utf8(patched).unwrap(), out);
        }
    }

    #[test]
    fn bad_exec_specs_are_unknown_errors() {
        for (json, message) in [
            ("", "unexpected end of JSON input"),
            ("{\"args\":[", "unexpected end of JSON input"),
            ("[]", "json: cannot unmarshal array into a process spec"),
            ("null", "json: cannot unmarshal null into a process spec"),
        ] {
            let err = exec_process(json.as_bytes(), false).unwrap_err();
            assert_eq!(err, Error::unknown(message), "{json}");
        }
        let deep = "[".repeat(100_000);
        for json in ["{]", "{} x", &deep] {
            let err = exec_process(json.as_bytes(), true).unwrap_err();
            assert_eq!(err.code, Code::Unknown);
            assert!(err.message.starts_with("invalid JSON: "), "{}", err.message);
        }
    }
}
